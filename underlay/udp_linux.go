package underlay

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// udpSender sends over one socket.
type udpSender struct {
	batch   batchWriter
	raw     syscall.RawConn // nil if there is none
	v6      bool
	segment atomic.Bool // the kernel and the network card take several packets as one (UDP_SEGMENT, udp(7))
}

type batchWriter interface {
	WriteBatch(messages []ipv6.Message, flags int) (int, error)
}

func newUDPSender(c *net.UDPConn, batch batchWriter) *udpSender {
	_, v4 := batch.(*ipv4.PacketConn)
	s := &udpSender{batch: batch, v6: !v4}
	raw, err := c.SyscallConn()
	if err != nil {
		return s
	}
	s.raw = raw
	_ = raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.segment.Store(err == nil)
	})
	return s
}

func (s *udpSender) send(bufs [][]byte, e *conn.StdNetEndpoint) error {
	for len(bufs) > 0 {
		n := min(len(bufs), shipmentMax)
		if err := s.ship(bufs[:n], e, s.segment.Load()); err != nil {
			return err
		}
		bufs = bufs[n:]
	}
	return nil
}

func (s *udpSender) ship(bufs [][]byte, e *conn.StdNetEndpoint, segment bool) error {
	parcel := shipments.Get().(*shipment)
	parcel.destine(e.AddrPort)
	n := parcel.load(bufs, e, segment)
	err := s.write(parcel.messages[:n])
	// Some network cards and tunnels cannot checksum segments and say so only now (the kernel's udp_send_skb gives EIO).
	if segment && errors.Is(err, unix.EIO) {
		s.segment.Store(false)
		parcel.release(n)
		return s.ship(bufs, e, false)
	}
	parcel.release(n)
	// Segments that are too large are refused all together, by old kernels with EINVAL: the smaller ones among them may go.
	if segment && len(bufs) > 1 && (errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL)) {
		return s.ship(bufs, e, false)
	}
	return err
}

// write sends all messages, however many the kernel takes at a time. One that is too large is left out, and its error returned at the end.
func (s *udpSender) write(messages []ipv6.Message) (tooLarge error) {
	for len(messages) > 0 {
		n, err := s.batch.WriteBatch(messages, 0)
		switch {
		case errors.Is(err, unix.EMSGSIZE):
			tooLarge = err
			n = max(n, 0) + 1
		case err != nil:
			return err
		}
		messages = messages[min(n, len(messages)):]
	}
	return tooLarge
}

// whole has the socket's packets sent with the don't-fragment bit, or refused if they are too large for the interface; what routers said
// about the path is left to our own search (ip(7), IP_PMTUDISC_PROBE). Kernels without that send as they please.
func whole(c *net.UDPConn, v6 bool) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { setFragments(int(fd), v6, false) })
	}
}

// minimumMTU is what every IPv6 path carries, and into what its sender has to cut packets, as no router does that.
const minimumMTU = 1280

func setFragments(fd int, v6, on bool) {
	if !v6 {
		mode := unix.IP_PMTUDISC_PROBE
		if on {
			mode = unix.IP_PMTUDISC_DONT
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
		return
	}
	mode, dont, size := unix.IPV6_PMTUDISC_PROBE, 1, 0
	if on {
		mode, dont, size = unix.IPV6_PMTUDISC_DONT, 0, minimumMTU
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, mode)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, dont)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU, size) // 0: as the path says
}

// sendFragmented sends packets that may be fragmented. The caller sees to it that no two do so at once.
func (s *udpSender) sendFragmented(bufs [][]byte, e *conn.StdNetEndpoint) error {
	if s.raw == nil {
		return s.send(bufs, e)
	}
	set := func(on bool) error { return s.raw.Control(func(fd uintptr) { setFragments(int(fd), s.v6, on) }) }
	if err := set(true); err != nil {
		return err
	}
	defer set(false)
	for len(bufs) > 0 {
		n := min(len(bufs), shipmentMax)
		if err := s.ship(bufs[:n], e, false); err != nil { // segments cannot be fragmented
			return err
		}
		bufs = bufs[n:]
	}
	return nil
}

// load makes messages of the packets and returns how many.
func (s *shipment) load(bufs [][]byte, e *conn.StdNetEndpoint, segment bool) int {
	n := 0
	for len(bufs) > 0 {
		count := 1
		if segment {
			count = gather(bufs)
		}
		control := appendSource(s.controls[n][:0], e)
		if count > 1 {
			control = appendSegment(control, len(bufs[0]))
		}
		s.messages[n] = ipv6.Message{Buffers: bufs[:count:count], OOB: control, Addr: &s.addr}
		bufs = bufs[count:]
		n++
	}
	return n
}

// appendHeader appends the header of a control message (cmsg(3)) with n bytes of data, and returns where the data goes.
func appendHeader(b []byte, level, kind int32, n int) (out, data []byte) {
	start := len(b)
	b = b[:start+unix.CmsgSpace(n)]
	clear(b[start:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[start])) // its length field differs in size between architectures
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	return b, b[start+unix.CmsgLen(0):][:n]
}

// appendSource appends the local address that packets to the endpoint shall come from, if it has one.
func appendSource(b []byte, e *conn.StdNetEndpoint) []byte {
	src := e.SrcIP()
	switch {
	case src.Is4(): // struct in_pktinfo: interface 4, local address 4, destination 4
		out, data := appendHeader(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		binary.NativeEndian.PutUint32(data, uint32(e.SrcIfidx()))
		a := src.As4()
		copy(data[4:], a[:])
		return out
	case src.Is6(): // struct in6_pktinfo: address 16, interface 4
		out, data := appendHeader(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		a := src.As16()
		copy(data, a[:])
		binary.NativeEndian.PutUint32(data[16:], uint32(e.SrcIfidx()))
		return out
	}
	return b
}

// appendSegment appends the size in which the kernel is to cut the payload.
func appendSegment(b []byte, size int) []byte {
	out, data := appendHeader(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
	binary.NativeEndian.PutUint16(data, uint16(size))
	return out
}

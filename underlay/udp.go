package underlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.zx2c4.com/wireguard/conn"
)

// udpBind is the library's conn.StdNetBind with its own way of sending, over the same sockets. Two reasons:
//
//   - Correctness. StdNetBind.Send (version 2026-05-22) keeps used addresses in a pool and copies an IPv6 destination into one before it makes room
//     for it: after an IPv4 packet only the first 4 bytes arrive, and the packet goes to whatever node the other 12 belonged to. A node that
//     uses both families, as ours all do, loses packets to that.
//   - Copies. The library copies packets together for UDP segmentation offload; here the kernel gathers them from where they lie (one iovec each).
//
// Reading, which is the larger part of the library's work, stays the library's.
type udpBind struct {
	*conn.StdNetBind
	v4, v6 atomic.Pointer[udpSender] // nil while closed, or without that family
	// fragmenting is held while packets are sent without the don't-fragment bit, which is the socket's and not a packet's: those of
	// others lose it for a moment too. Those that must not wait for it.
	fragmenting sync.Mutex
}

var errNotStandard = errors.New("underlay: this version of the WireGuard library keeps its sockets elsewhere")

func newUDPBind() *udpBind { return &udpBind{StdNetBind: conn.NewStdNetBind().(*conn.StdNetBind)} }

// Open opens the port in both families.
func (b *udpBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, actual, err := b.StdNetBind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	v4, err4 := b.connection("ipv4")
	v6, err6 := b.connection("ipv6")
	if err := errors.Join(err4, err6); err != nil {
		b.StdNetBind.Close()
		return nil, 0, err
	}
	if v4 != nil {
		whole(v4, false)
		b.v4.Store(newUDPSender(v4, ipv4.NewPacketConn(v4)))
	}
	if v6 != nil {
		whole(v6, true)
		b.v6.Store(newUDPSender(v6, ipv6.NewPacketConn(v6)))
	}
	return fns, actual, nil
}

// connection gives a socket of the library's, nil if it could not open that family. The library has no other way to it; a test holds the field
// names against the version in use.
func (b *udpBind) connection(field string) (*net.UDPConn, error) {
	f := reflect.ValueOf(b.StdNetBind).Elem().FieldByName(field)
	if !f.IsValid() || f.Type() != reflect.TypeFor[*net.UDPConn]() {
		return nil, fmt.Errorf("%w: no %s", errNotStandard, field)
	}
	return (*net.UDPConn)(f.UnsafePointer()), nil
}

// Close closes the port.
func (b *udpBind) Close() error {
	b.v4.Store(nil)
	b.v6.Store(nil)
	return b.StdNetBind.Close()
}

// Send sends packets to one endpoint of the library's, in as few system calls as the system allows. It allocates nothing.
func (b *udpBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	s, e, err := b.sender(ep)
	if err != nil {
		return err
	}
	return s.send(bufs, e)
}

// sender returns the socket for an endpoint.
func (b *udpBind) sender(ep conn.Endpoint) (*udpSender, *conn.StdNetEndpoint, error) {
	e, ok := ep.(*conn.StdNetEndpoint)
	if !ok {
		return nil, nil, conn.ErrWrongEndpointType
	}
	s := b.v4.Load()
	if e.Addr().Is6() {
		s = b.v6.Load()
	}
	if s == nil {
		return nil, nil, syscall.EAFNOSUPPORT
	}
	return s, e, nil
}

// SendWhole sends packets with the don't-fragment bit, whatever SendFragmented is doing.
func (b *udpBind) SendWhole(bufs [][]byte, ep conn.Endpoint) error {
	b.fragmenting.Lock()
	defer b.fragmenting.Unlock()
	return b.Send(bufs, ep)
}

// SendFragmented sends packets without the don't-fragment bit.
func (b *udpBind) SendFragmented(bufs [][]byte, ep conn.Endpoint) error {
	s, e, err := b.sender(ep)
	if err != nil {
		return err
	}
	b.fragmenting.Lock()
	defer b.fragmenting.Unlock()
	return s.sendFragmented(bufs, e)
}

const (
	// shipmentMax bounds the packets that one system call takes; more go in several.
	shipmentMax = conn.IdealBatchSize
	// segmentsMax is the kernel's UDP_MAX_SEGMENTS in its oldest form, payloadMax the largest UDP payload over IPv6.
	segmentsMax = 64
	payloadMax  = 65535 - 40 - 8
	// controlMax holds the control messages of one message: a source address and a segment size.
	controlMax = 64
)

// shipment is what one call of send needs, kept from call to call.
type shipment struct {
	ip       [16]byte
	addr     net.UDPAddr
	messages [shipmentMax]ipv6.Message     // ipv4.Message is the same type
	controls [shipmentMax][controlMax]byte // aligned by the pointers above, as controlMax is a multiple of 8
}

var shipments = sync.Pool{New: func() any { return new(shipment) }}

// destine sets where the shipment goes.
func (s *shipment) destine(to netip.AddrPort) {
	a := to.Addr()
	if a.Is4() {
		b := a.As4()
		s.addr.IP = append(s.ip[:0], b[:]...)
	} else {
		b := a.As16()
		s.addr.IP = append(s.ip[:0], b[:]...)
	}
	s.addr.Port, s.addr.Zone = int(to.Port()), a.Zone()
}

// release forgets the packets, so that the pool does not keep them alive.
func (s *shipment) release(messages int) {
	for i := range s.messages[:messages] {
		s.messages[i] = ipv6.Message{}
	}
	shipments.Put(s)
}

// gather counts how many of the packets, from the first on, the kernel can take as one: all of one size, but for the last, which may be shorter.
func gather(bufs [][]byte) int {
	size, total := len(bufs[0]), len(bufs[0])
	n := 1
	for n < len(bufs) && n < segmentsMax {
		l := len(bufs[n])
		if l > size || l == 0 || total+l > payloadMax {
			break
		}
		total += l
		n++
		if l < size {
			break
		}
	}
	return n
}

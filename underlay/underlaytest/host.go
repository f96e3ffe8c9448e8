package underlaytest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

const (
	// batchSize is what a ReceiveFunc returns at most; small, so that batches are split in tests too.
	batchSize = 8
	// queueSize is the packets a host's bound socket holds before it drops, as a kernel does; spareQueueSize those of another.
	queueSize      = 4096
	spareQueueSize = 64
	// firstPort is where ports are picked from when 0 is asked for.
	firstPort = 40000
)

// Host is a machine with one bound UDP socket, and more from [Host.OpenSpare]. It is a conn.Bind.
type Host struct {
	network *Network
	realm   *realm

	mu        sync.Mutex // guards what follows; taken after network.mu
	addrs     []netip.Addr
	port      uint16 // of the bound socket; 0: closed
	sockets   map[uint16]*socket
	listeners map[netip.AddrPort]*listener
}

var _ conn.Bind = (*Host)(nil)

// socket is one open UDP port.
type socket struct {
	queue chan packet
	done  chan struct{}
}

type packet struct {
	from netip.AddrPort
	to   netip.Addr
	data []byte
}

// Endpoint is where a packet goes to, or came from; Src is the local address.
type Endpoint struct {
	netip.AddrPort
	Src netip.Addr
}

// ClearSrc forgets the local address.
func (e *Endpoint) ClearSrc() { e.Src = netip.Addr{} }

// SrcToString returns the local address.
func (e *Endpoint) SrcToString() string { return e.Src.String() }

// DstToString returns the remote address and port.
func (e *Endpoint) DstToString() string { return e.String() }

// DstToBytes returns the remote address and port.
func (e *Endpoint) DstToBytes() []byte { b, _ := e.MarshalBinary(); return b }

// DstIP returns the remote address.
func (e *Endpoint) DstIP() netip.Addr { return e.Addr() }

// SrcIP returns the local address.
func (e *Endpoint) SrcIP() netip.Addr { return e.Src }

// Addresses returns the host's addresses; underlay takes them for the machine's.
func (h *Host) Addresses() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]netip.Addr(nil), h.addrs...)
}

// Move gives the host other addresses, as a laptop that changes networks.
func (h *Host) Move(addrs ...netip.Addr) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.addrs {
		delete(h.realm.stations, a)
	}
	h.addrs = addrs
	h.realm.placeLocked(h, addrs...)
}

// Open opens the host's bound socket; EADDRINUSE if it is open.
func (h *Host) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.port != 0 {
		return nil, 0, syscall.EADDRINUSE
	}
	s, port, err := h.openLocked(port, queueSize)
	if err != nil {
		return nil, 0, err
	}
	h.port = port
	return []conn.ReceiveFunc{s.receive}, port, nil
}

func (h *Host) openLocked(port uint16, queue int) (*socket, uint16, error) {
	if port == 0 {
		for port = firstPort; h.sockets[port] != nil; port++ {
		}
	}
	if h.sockets[port] != nil {
		return nil, 0, syscall.EADDRINUSE
	}
	s := &socket{queue: make(chan packet, queue), done: make(chan struct{})}
	h.sockets[port] = s
	return s, port, nil
}

// receive is a conn.ReceiveFunc.
func (s *socket) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	var p packet
	select {
	case <-s.done:
		return 0, net.ErrClosed
	case p = <-s.queue:
	}
	for n := 0; ; {
		sizes[n] = copy(bufs[n], p.data)
		eps[n] = &Endpoint{AddrPort: p.from, Src: p.to}
		if n++; n == len(bufs) {
			return n, nil
		}
		select {
		case p = <-s.queue:
		default:
			return n, nil
		}
	}
}

// Close closes the host's bound socket.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closeLocked(h.port)
	h.port = 0
	return nil
}

func (h *Host) closeLocked(port uint16) {
	if s := h.sockets[port]; s != nil {
		close(s.done)
		delete(h.sockets, port)
	}
}

// Sockets returns how many UDP sockets are open.
func (h *Host) Sockets() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sockets)
}

// SetMark does nothing.
func (h *Host) SetMark(uint32) error { return nil }

// BatchSize is 8.
func (h *Host) BatchSize() int { return batchSize }

// ParseEndpoint parses an address and port.
func (h *Host) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &Endpoint{AddrPort: a}, nil
}

// Send sends packets. A destination that does not exist swallows them, a family that the host has no address of is an error.
func (h *Host) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	h.mu.Lock()
	port := h.port
	h.mu.Unlock()
	if port == 0 {
		return net.ErrClosed
	}
	return h.send(bufs, port, e)
}

func (h *Host) send(bufs [][]byte, port uint16, e *Endpoint) error {
	from, err := h.source(port, e)
	if err != nil {
		return err
	}
	for _, b := range bufs {
		if e.Addr().IsLoopback() {
			h.arrive(from, e.AddrPort, append([]byte(nil), b...))
			continue
		}
		h.network.carry(h.realm, from, e.AddrPort, append([]byte(nil), b...))
	}
	return nil
}

// source is the address that the host sends from.
func (h *Host) source(port uint16, e *Endpoint) (netip.AddrPort, error) {
	if e.Addr().IsLoopback() {
		return netip.AddrPortFrom(e.Addr(), port), nil
	}
	for _, a := range h.Addresses() {
		if e.Src == a || !e.Src.IsValid() && a.Is4() == e.Addr().Is4() {
			return netip.AddrPortFrom(a, port), nil
		}
	}
	if e.Src.IsValid() {
		return netip.AddrPort{}, syscall.EINVAL // as Linux answers a PKTINFO with an address that is not there
	}
	return netip.AddrPort{}, errors.Join(errors.New("underlaytest: no address of that family"), syscall.ENETUNREACH)
}

// arrive queues a packet that has arrived. A full queue loses it.
func (h *Host) arrive(from, to netip.AddrPort, b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sockets[to.Port()]
	if s == nil {
		return
	}
	select {
	case s.queue <- packet{from, to.Addr(), b}:
	default:
	}
}

// OpenSpare opens another UDP socket on a port of its own; what underlay.Config.OpenSpare wants.
func (h *Host) OpenSpare() (net.PacketConn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, port, err := h.openLocked(0, spareQueueSize)
	if err != nil {
		return nil, err
	}
	return &packetConn{host: h, socket: s, port: port}, nil
}

// packetConn is a spare socket as a net.PacketConn. It knows no deadlines.
type packetConn struct {
	host   *Host
	socket *socket
	port   uint16
	once   sync.Once
}

func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-c.socket.done:
		return 0, nil, net.ErrClosed
	case p := <-c.socket.queue:
		return copy(b, p.data), net.UDPAddrFromAddrPort(p.from), nil
	}
}

func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-c.socket.done:
		return 0, net.ErrClosed
	default:
	}
	a, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, conn.ErrWrongEndpointType
	}
	ap := a.AddrPort()
	e := &Endpoint{AddrPort: netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}
	if err := c.host.send([][]byte{b}, c.port, e); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *packetConn) Close() error {
	c.once.Do(func() {
		c.host.mu.Lock()
		defer c.host.mu.Unlock()
		c.host.closeLocked(c.port)
	})
	return nil
}

func (c *packetConn) LocalAddr() net.Addr              { return &net.UDPAddr{Port: int(c.port)} }
func (c *packetConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *packetConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *packetConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

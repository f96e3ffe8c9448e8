package underlaytest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
)

// Process is a program that runs on a host: the owner of sockets. It is a conn.Bind, with a bound UDP socket and more from
// [Process.OpenSpare], and has what underlay looks for beside. Once it is dead (see [Process.Kill], [Host.Crash]) it stays so: a program that was
// started again is another process, and what is left of the first cannot touch the sockets of the second.
type Process struct {
	host *Host

	// Guarded by network.mu.
	dead    bool
	bound   *socket // nil: closed
	streams map[*stream]bool
}

var _ conn.Bind = (*Process)(nil)

// Process starts a program on the host.
func (h *Host) Process() *Process {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	p := &Process{host: h, dead: h.off}
	h.processes = append(h.processes, p)
	return p
}

// Host is where it runs.
func (p *Process) Host() *Host { return p.host }

// Kill ends the process as kill -9 does: what it has sent is on its way, the system closes its sockets and tells the other ends of its
// connections.
func (p *Process) Kill() {
	p.host.network.mu.Lock()
	defer p.host.network.mu.Unlock()
	p.endLocked(true)
	p.host.processes = slices.DeleteFunc(p.host.processes, func(o *Process) bool { return o == p })
}

// endLocked closes everything. tell: connections are reset.
func (p *Process) endLocked(tell bool) {
	p.dead, p.bound = true, nil
	for _, s := range p.host.sockets {
		if s.process == p {
			s.closeLocked()
		}
	}
	for _, l := range p.host.listeners {
		if l.process == p {
			l.closeLocked()
		}
	}
	for s := range p.streams {
		s.dieLocked(tell)
	}
	p.streams = nil
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

// Open opens the process's bound socket; EADDRINUSE if it is open, or the port taken.
func (p *Process) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	p.host.network.mu.Lock()
	defer p.host.network.mu.Unlock()
	if p.bound != nil {
		return nil, 0, syscall.EADDRINUSE
	}
	s, err := p.openLocked(port, queueSize)
	if err != nil {
		return nil, 0, err
	}
	p.bound = s
	return []conn.ReceiveFunc{s.receive}, s.port, nil
}

func (p *Process) openLocked(port uint16, queue int) (*socket, error) {
	sockets := p.host.sockets
	if p.dead {
		return nil, net.ErrClosed
	}
	if port == 0 {
		for port = firstPort; sockets[port] != nil; port++ {
		}
	}
	if sockets[port] != nil {
		return nil, syscall.EADDRINUSE
	}
	s := newSocket(p, port, queue)
	sockets[port] = s
	return s, nil
}

// closeLocked closes a socket; again does nothing.
func (s *socket) closeLocked() {
	if s.process.host.sockets[s.port] == s {
		delete(s.process.host.sockets, s.port)
		close(s.done)
	}
}

// Close closes the process's bound socket.
func (p *Process) Close() error {
	p.host.network.mu.Lock()
	defer p.host.network.mu.Unlock()
	if p.bound != nil {
		p.bound.closeLocked()
		p.bound = nil
	}
	return nil
}

// Addresses returns the host's addresses.
func (p *Process) Addresses() []netip.Addr { return p.host.Addresses() }

// SetMark does nothing.
func (p *Process) SetMark(uint32) error { return nil }

// BatchSize is 8.
func (p *Process) BatchSize() int { return batchSize }

// ParseEndpoint parses an address and port.
func (p *Process) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &Endpoint{AddrPort: a}, nil
}

// Send sends packets, which must not be fragmented. A destination that does not exist swallows them, a family that the host has no address of is
// an error, and so is a packet that is larger than the host's own link allows (EMSGSIZE).
func (p *Process) Send(bufs [][]byte, ep conn.Endpoint) error { return p.sendBound(bufs, ep, false) }

// SendWhole is Send.
func (p *Process) SendWhole(bufs [][]byte, ep conn.Endpoint) error {
	return p.sendBound(bufs, ep, false)
}

// SendFragmented sends packets that may be fragmented: over IPv4 where it is needed, over IPv6 to 1280 bytes.
func (p *Process) SendFragmented(bufs [][]byte, ep conn.Endpoint) error {
	return p.sendBound(bufs, ep, true)
}

func (p *Process) sendBound(bufs [][]byte, ep conn.Endpoint, fragment bool) error {
	e, ok := ep.(*Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	p.host.network.mu.Lock()
	bound := p.bound
	p.host.network.mu.Unlock()
	if bound == nil {
		return net.ErrClosed
	}
	return p.send(bufs, bound.port, e, fragment)
}

func (p *Process) send(bufs [][]byte, port uint16, e *Endpoint, fragment bool) error {
	h, n := p.host, p.host.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.dead {
		return net.ErrClosed
	}
	if e.Addr().IsLoopback() {
		from := netip.AddrPortFrom(e.Addr(), port)
		for _, b := range bufs {
			h.takeLocked(&packet{from: from, to: e.AddrPort, data: slices.Clone(b)})
		}
		return nil
	}
	i, src, err := h.wayOutLocked(e.Addr(), e.Src)
	if err != nil {
		return err
	}
	packets := make([]packet, len(bufs))
	for k, b := range bufs {
		packets[k] = packet{from: netip.AddrPortFrom(src, port), to: e.AddrPort, data: slices.Clone(b), fragment: fragment}
		if i.up != nil {
			if _, fragments := packets[k].size(i.up.MTU); fragments == 0 {
				return syscall.EMSGSIZE
			}
		}
		n.sendLocked(i, &packets[k])
	}
	return nil
}

// wayOutLocked is sourceLocked with the errors of Linux.
func (h *Host) wayOutLocked(to, src netip.Addr) (*Interface, netip.Addr, error) {
	i, addr := h.sourceLocked(to, src)
	switch {
	case i != nil:
		return i, addr, nil
	case src.IsValid():
		return nil, addr, syscall.EINVAL // a PKTINFO with an address that is not there
	}
	return nil, addr, errors.Join(errors.New("underlaytest: no address of that family"), syscall.ENETUNREACH)
}

// OpenSpare opens another UDP socket on a port of its own; what underlay.Config.OpenSpare wants.
func (p *Process) OpenSpare() (net.PacketConn, error) {
	return p.listenUDP(netip.AddrPort{})
}

func (p *Process) listenUDP(at netip.AddrPort) (*packetConn, error) {
	p.host.network.mu.Lock()
	defer p.host.network.mu.Unlock()
	s, err := p.openLocked(at.Port(), spareQueueSize)
	if err != nil {
		return nil, err
	}
	return newPacketConn(s, at), nil
}

// Dial is net.Dialer's DialContext, for "udp" and "tcp" and addresses without names.
func (p *Process) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	switch network {
	case "tcp":
		return p.DialTCP(ctx, to)
	case "udp":
		c, err := p.listenUDP(netip.AddrPort{})
		if err != nil {
			return nil, err
		}
		c.remote = to
		return c, nil
	}
	return nil, fmt.Errorf("underlaytest: dial %s: %w", network, net.UnknownNetworkError(network))
}

// ListenPacket is net.ListenConfig's, for "udp", "udp4" and "udp6".
func (p *Process) ListenPacket(_ context.Context, _, address string) (net.PacketConn, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil && address != ":0" {
		return nil, err
	}
	return p.listenUDP(at)
}

// The host's own process as a conn.Bind, for tests that need no second.

// Open is [Process.Open].
func (h *Host) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) { return h.main.Open(port) }

// Close is [Process.Close].
func (h *Host) Close() error { return h.main.Close() }

// SetMark does nothing.
func (h *Host) SetMark(uint32) error { return nil }

// BatchSize is 8.
func (h *Host) BatchSize() int { return batchSize }

// ParseEndpoint parses an address and port.
func (h *Host) ParseEndpoint(s string) (conn.Endpoint, error) { return h.main.ParseEndpoint(s) }

// Send is [Process.Send].
func (h *Host) Send(bufs [][]byte, ep conn.Endpoint) error { return h.main.Send(bufs, ep) }

// OpenSpare is [Process.OpenSpare].
func (h *Host) OpenSpare() (net.PacketConn, error) { return h.main.OpenSpare() }

// ListenTCP is [Process.ListenTCP].
func (h *Host) ListenTCP(addr netip.AddrPort) (net.Listener, error) { return h.main.ListenTCP(addr) }

// DialTCP is [Process.DialTCP].
func (h *Host) DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return h.main.DialTCP(ctx, to)
}

// Sockets returns how many UDP sockets are open on the host.
func (h *Host) Sockets() int {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	return len(h.sockets)
}

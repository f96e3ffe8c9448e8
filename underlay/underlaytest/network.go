package underlaytest

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

const (
	// batchSize is what a ReceiveFunc returns at most; small, so that batches are split in tests too.
	batchSize = 8
	// queueSize is the packets a host holds before it drops, as a kernel does.
	queueSize = 4096
	// firstPort is where ports are picked from when 0 is asked for.
	firstPort = 40000
)

// Network connects hosts. The zero value is ready. Its hooks may be changed at any time with Set.
type Network struct {
	mu      sync.Mutex
	hosts   map[netip.Addr]*Host
	hooks   Hooks
	transit []transit // in the order of arrival; of the same instant, in the order of sending

	arriving sync.Mutex // held while packets are delivered; taken before mu
}

// transit is a packet on its way.
type transit struct {
	at       time.Time
	from, to netip.AddrPort
	data     []byte
}

// Hooks change what happens to packets. Any may be nil. They are called without locks, from any goroutine.
type Hooks struct {
	// Drop decides whether a packet is lost.
	Drop func(from, to netip.AddrPort, b []byte) bool
	// Latency is how long a packet takes; with 0 it is there at once.
	Latency func(from, to netip.AddrPort) time.Duration
	// See is shown every packet that is sent, lost ones too. It must not change or keep b.
	See func(from, to netip.AddrPort, b []byte)
}

// Set replaces the hooks.
func (n *Network) Set(h Hooks) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hooks = h
}

// Host adds a machine with the addresses. It sends from the first of the destination's family.
func (n *Network) Host(addrs ...netip.Addr) *Host {
	h := &Host{network: n, addrs: addrs}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = map[netip.Addr]*Host{}
	}
	for _, a := range addrs {
		n.hosts[a] = h
	}
	return h
}

// Host is a machine with one UDP socket at most. It is a conn.Bind.
type Host struct {
	network *Network

	mu    sync.Mutex // guards what follows; taken after network.mu
	addrs []netip.Addr
	port  uint16
	queue chan packet // nil: closed
	done  chan struct{}
}

var _ conn.Bind = (*Host)(nil)

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
		delete(h.network.hosts, a)
	}
	h.addrs = addrs
	for _, a := range addrs {
		h.network.hosts[a] = h
	}
}

// Open opens the host's socket; EADDRINUSE if it is open.
func (h *Host) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queue != nil {
		return nil, 0, syscall.EADDRINUSE
	}
	if port == 0 {
		port = firstPort
	}
	h.port, h.queue, h.done = port, make(chan packet, queueSize), make(chan struct{})
	return []conn.ReceiveFunc{receiver(h.queue, h.done)}, port, nil
}

// receiver returns a ReceiveFunc over a queue.
func receiver(queue chan packet, done chan struct{}) conn.ReceiveFunc {
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		var p packet
		select {
		case <-done:
			return 0, net.ErrClosed
		case p = <-queue:
		}
		for n := 0; ; {
			sizes[n] = copy(bufs[n], p.data)
			eps[n] = &Endpoint{AddrPort: p.from, Src: p.to}
			if n++; n == len(bufs) {
				return n, nil
			}
			select {
			case p = <-queue:
			default:
				return n, nil
			}
		}
	}
}

// Close closes the host's socket.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queue != nil {
		close(h.done)
		h.queue = nil
	}
	return nil
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
	from, err := h.source(e)
	if err != nil {
		return err
	}
	for _, b := range bufs {
		if e.Addr().IsLoopback() {
			h.deliver(from, e.AddrPort, append([]byte(nil), b...))
			continue
		}
		h.network.carry(from, e.AddrPort, append([]byte(nil), b...))
	}
	return nil
}

// source is the address that the host sends from.
func (h *Host) source(e *Endpoint) (netip.AddrPort, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queue == nil {
		return netip.AddrPort{}, net.ErrClosed
	}
	if e.Addr().IsLoopback() {
		return netip.AddrPortFrom(e.Addr(), h.port), nil
	}
	for _, a := range h.addrs {
		if e.Src == a || !e.Src.IsValid() && a.Is4() == e.Addr().Is4() {
			return netip.AddrPortFrom(a, h.port), nil
		}
	}
	if e.Src.IsValid() {
		return netip.AddrPort{}, syscall.EINVAL // as Linux answers a PKTINFO with an address that is not there
	}
	return netip.AddrPort{}, errors.Join(errors.New("underlaytest: no address of that family"), syscall.ENETUNREACH)
}

// carry takes a packet over the network.
func (n *Network) carry(from, to netip.AddrPort, b []byte) {
	n.mu.Lock()
	hooks := n.hooks
	n.mu.Unlock()
	if hooks.See != nil {
		hooks.See(from, to, b)
	}
	if hooks.Drop != nil && hooks.Drop(from, to, b) {
		return
	}
	if hooks.Latency != nil {
		if d := hooks.Latency(from, to); d > 0 {
			n.later(d, transit{from: from, to: to, data: b})
			return
		}
	}
	n.Deliver(from, to, b)
}

// later delivers a packet after d. Packets that arrive at the same instant do so in the order in which they were sent.
func (n *Network) later(d time.Duration, p transit) {
	p.at = time.Now().Add(d)
	n.mu.Lock()
	i, _ := slices.BinarySearchFunc(n.transit, p.at, func(q transit, at time.Time) int {
		if q.at.After(at) {
			return 1
		}
		return -1
	})
	n.transit = slices.Insert(n.transit, i, p)
	n.mu.Unlock()
	time.AfterFunc(d, n.arrive)
}

// arrive delivers what is due.
func (n *Network) arrive() {
	n.arriving.Lock()
	defer n.arriving.Unlock()
	now := time.Now()
	n.mu.Lock()
	k := 0
	for k < len(n.transit) && !n.transit[k].at.After(now) {
		k++
	}
	due := slices.Clone(n.transit[:k])
	n.transit = slices.Delete(n.transit, 0, k)
	n.mu.Unlock()
	for _, p := range due {
		n.Deliver(p.from, p.to, p.data)
	}
}

// Deliver puts a packet into the queue of whoever has the address, with any source: what an attacker can do. The network keeps b.
func (n *Network) Deliver(from, to netip.AddrPort, b []byte) {
	n.mu.Lock()
	h := n.hosts[to.Addr()]
	n.mu.Unlock()
	if h != nil {
		h.deliver(from, to, b)
	}
}

// deliver queues a packet that has arrived. A full queue loses it.
func (h *Host) deliver(from, to netip.AddrPort, b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queue == nil || h.port != to.Port() {
		return
	}
	select {
	case h.queue <- packet{from, to.Addr(), b}:
	default:
	}
}

package underlaytest

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Network connects hosts. The zero value is ready. Its hooks may be changed at any time with Set.
type Network struct {
	mu      sync.Mutex // guards what follows and all realms
	hooks   Hooks
	outside realm     // the internet
	transit []transit // in the order of arrival; of the same instant, in the order of sending

	arriving sync.Mutex // held while packets are delivered; taken before mu
}

// realm is one space of addresses: the internet, or what lies behind a NAT.
type realm struct {
	stations map[netip.Addr]station
	router   *NAT // the way out; nil: this is the internet
}

// station is what has an address: a host, or the outer side of a NAT.
type station interface {
	// arrive takes a packet that was sent to one of its addresses. It is called without locks.
	arrive(from, to netip.AddrPort, b []byte)
}

// transit is a packet on its way.
type transit struct {
	at       time.Time
	realm    *realm
	from, to netip.AddrPort
	data     []byte
}

// Hooks change what happens to packets. Any may be nil. They are called without locks, from any goroutine, once for each packet, in
// the network where its destination is: of a packet that has passed NATs they see the address it has there.
type Hooks struct {
	// Drop decides whether a packet is lost.
	Drop func(from, to netip.AddrPort, b []byte) bool
	// Latency is how long a packet takes; with 0 it is there at once. What is written to a stream takes as long.
	Latency func(from, to netip.AddrPort) time.Duration
	// See is shown every packet that is sent, lost ones too. It must not change or keep b.
	See func(from, to netip.AddrPort, b []byte)
	// Refuse decides whether the attempt to open a TCP connection goes unanswered.
	Refuse func(from, to netip.AddrPort) bool
}

// Set replaces the hooks.
func (n *Network) Set(h Hooks) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hooks = h
}

// Host adds a machine with the addresses. It sends from the first of the destination's family.
func (n *Network) Host(addrs ...netip.Addr) *Host { return n.host(&n.outside, addrs) }

func (n *Network) host(r *realm, addrs []netip.Addr) *Host {
	h := &Host{network: n, realm: r, addrs: addrs, sockets: map[uint16]*socket{}, listeners: map[netip.AddrPort]*listener{}}
	n.mu.Lock()
	defer n.mu.Unlock()
	r.placeLocked(h, addrs...)
	return h
}

func (r *realm) placeLocked(s station, addrs ...netip.Addr) {
	if r.stations == nil {
		r.stations = map[netip.Addr]station{}
	}
	for _, a := range addrs {
		r.stations[a] = s
	}
}

// route follows a packet out of NATs until it is where its destination is. false: a NAT lost it.
func (n *Network) route(r *realm, from, to netip.AddrPort, tcp bool) (*realm, netip.AddrPort, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for r.router != nil && r.stations[to.Addr()] == nil {
		out, ok := r.router.outLocked(from, to, tcp)
		if !ok {
			return nil, from, false
		}
		r, from = r.router.outside, out
	}
	return r, from, true
}

// carry takes a packet from a realm over the network.
func (n *Network) carry(r *realm, from, to netip.AddrPort, b []byte) {
	r, from, ok := n.route(r, from, to, false)
	if !ok {
		return
	}
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
			n.later(d, transit{realm: r, from: from, to: to, data: b})
			return
		}
	}
	n.deliver(r, from, to, b)
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
		n.deliver(p.realm, p.from, p.to, p.data)
	}
}

// Deliver puts a packet into the queue of whoever has the address, with any source: what an attacker can do. The network keeps b.
func (n *Network) Deliver(from, to netip.AddrPort, b []byte) { n.deliver(&n.outside, from, to, b) }

func (n *Network) deliver(r *realm, from, to netip.AddrPort, b []byte) {
	if s := n.station(r, to.Addr()); s != nil {
		s.arrive(from, to, b)
	}
}

func (n *Network) station(r *realm, addr netip.Addr) station {
	n.mu.Lock()
	defer n.mu.Unlock()
	return r.stations[addr]
}

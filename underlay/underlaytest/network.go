package underlaytest

import (
	"net/netip"
	"sync"
	"time"
)

// Network connects hosts. The zero value is ready. Its hooks may be changed at any time with Set.
type Network struct {
	mu       sync.Mutex // guards what follows, all realms, links, NATs, and hosts but for their queues
	hooks    Hooks
	seed     uint64
	start    time.Time // zero until the first packet
	outside  realm     // the internet
	regions  map[string]*Region
	ways     map[[2]*Region]*link
	between  Link // of regions of which nothing else was said
	hosts    int  // made so far
	cuts     []*Cut
	taps     []*Tap
	events   events
	sequence uint64
	timer    *time.Timer
	stats    Stats

	happening sync.Mutex // held while packets are carried on by the timer; taken before mu
}

// Stats are counts of packets. A packet that was duplicated counts once as sent and twice as delivered.
type Stats struct {
	Sent, Delivered uint64
	Lost            map[Reason]uint64
}

// realm is one space of addresses: the internet, or what lies behind a NAT.
type realm struct {
	stations map[netip.Addr]station
	router   *NAT // the way out; nil: this is the internet
	lan      *LAN // what all of it is; nil: the internet is no LAN
}

// station is what has an address: an interface of a host, or a NAT.
type station interface {
	// enterLocked takes a packet that has come to the station's network, sets what is next, and returns the link to it.
	enterLocked(p *packet) *link
	// placeLocked is where the station is.
	placeLocked() (*Region, *LAN)
}

// Hooks change what happens to packets. Any may be nil. They are called without locks, from any goroutine, once for each packet, in
// the network where its destination is: of a packet that has passed NATs they see the address it has there.
type Hooks struct {
	// Drop decides whether a packet of UDP is lost.
	Drop func(from, to netip.AddrPort, b []byte) bool
	// Latency is how long a packet takes, beside what links say; with 0 it is there at once. What is written to a stream takes as long.
	Latency func(from, to netip.AddrPort) time.Duration
	// See is shown every packet of UDP that is sent, lost ones too. It must not change or keep b.
	See func(from, to netip.AddrPort, b []byte)
	// Refuse decides whether the attempt to open a TCP connection goes unanswered.
	Refuse func(from, to netip.AddrPort) bool
	// Segments has Drop and See asked about segments of TCP too. What is dropped of a connection is sent again.
	Segments bool
}

// Set replaces the hooks.
func (n *Network) Set(h Hooks) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hooks = h
}

// SetSeed sets what all decisions of links are drawn from; before the first host and link are made. Each link has a stream of its own.
func (n *Network) SetSeed(seed uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seed = seed
}

// Stats returns what was counted so far.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.stats
	s.Lost = make(map[Reason]uint64, len(n.stats.Lost))
	for r, k := range n.stats.Lost {
		s.Lost[r] = k
	}
	return s
}

// Host adds a machine with the addresses, right on the internet. It sends from the first of the destination's family.
func (n *Network) Host(addrs ...netip.Addr) *Host { return n.host(&n.outside, nil, addrs) }

func (n *Network) host(r *realm, l *LAN, addrs []netip.Addr) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts++
	h := &Host{network: n, number: n.hosts, sockets: map[uint16]*socket{}, listeners: map[netip.AddrPort]*listener{}}
	h.main = &Process{host: h}
	h.attachLocked(r, l, addrs)
	return h
}

// occupyLocked gives a station addresses in the realm. Global IPv6 addresses behind NATs are known outside too: they are routed.
func (r *realm) occupyLocked(s station, addrs ...netip.Addr) {
	if r.stations == nil {
		r.stations = map[netip.Addr]station{}
	}
	for _, a := range addrs {
		r.stations[a] = s
		if r.router != nil && routed(a) {
			r.router.outside.occupyLocked(r.router, a)
		}
	}
}

// vacateLocked takes addresses back, if they are still the station's.
func (r *realm) vacateLocked(s station, addrs ...netip.Addr) {
	for _, a := range addrs {
		if r.stations[a] != s {
			continue
		}
		delete(r.stations, a)
		if r.router != nil && routed(a) {
			r.router.outside.vacateLocked(r.router, a)
		}
	}
}

func routed(a netip.Addr) bool { return a.Is6() && a.IsGlobalUnicast() && !a.IsPrivate() }

// nowLocked is the network's clock.
func (n *Network) nowLocked() time.Duration {
	if n.start.IsZero() {
		n.start = time.Now()
	}
	return time.Since(n.start)
}

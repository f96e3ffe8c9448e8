package sim

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Quality is how well packets get from one place to another.
type Quality struct {
	Latency time.Duration // one way
	Jitter  time.Duration // added, drawn evenly from 0 to this
	Loss    float64       // 0 to 1
}

// worse adds what a fault does to a link.
func (q Quality) worse(o Quality) Quality {
	return Quality{q.Latency + o.Latency, q.Jitter + o.Jitter, 1 - (1-q.Loss)*(1-o.Loss)}
}

// place is where an address is: a host, or the outer side of a NAT.
type place struct {
	region string
	owner  string // a host's name, or of the first host behind the NAT
	lan    string // of hosts behind one NAT
}

// links decides about every packet on its way. Safe from any goroutine.
type links struct {
	mu     sync.Mutex
	rand   *rand.Rand
	places map[netip.Addr]place
	inner  Quality               // within one LAN
	usual  Quality               // where no other is given
	routes map[[2]string]Quality // by the regions' names, in order of the alphabet
	faults map[string]Quality    // by host, region, or "" for everything
	side   map[string]int        // by host, while the network is split; a host that is not there is on side 0
	holes  map[string]int        // hosts that swallow what they carry for others; more than one may have asked for it
}

func newLinks(seed uint64) *links {
	return &links{rand: rand.New(rand.NewPCG(seed, 2)), places: map[netip.Addr]place{}, routes: map[[2]string]Quality{},
		faults: map[string]Quality{}, holes: map[string]int{}, inner: Quality{Latency: 300 * time.Microsecond}, usual: Quality{Latency: 20 * time.Millisecond}}
}

func (l *links) place(p place, addrs ...netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range addrs {
		l.places[a] = p
	}
}

// inherit puts an address where another is.
func (l *links) inherit(fresh, old netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.places[fresh] = l.places[old]
}

func pair(a, b string) [2]string {
	if b < a {
		a, b = b, a
	}
	return [2]string{a, b}
}

// qualityLocked is that of the way from one address to another, with what faults do to it.
func (l *links) qualityLocked(from, to place) Quality {
	q, ok := l.routes[pair(from.region, to.region)]
	switch {
	case from.lan != "" && from.lan == to.lan:
		q = l.inner
	case !ok:
		q = l.usual
	}
	for _, where := range [...]string{"", from.region, from.owner} {
		q = q.worse(l.faults[where])
	}
	if to.region != from.region {
		q = q.worse(l.faults[to.region])
	}
	return q.worse(l.faults[to.owner])
}

func (l *links) drop(from, to netip.AddrPort, packet []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, b := l.places[from.Addr()], l.places[to.Addr()]
	if l.side[a.owner] != l.side[b.owner] || l.holes[a.owner] > 0 && carried(packet) {
		return true
	}
	q := l.qualityLocked(a, b)
	return q.Loss > 0 && l.rand.Float64() < q.Loss
}

// carried reports whether a packet is one that a relay passes on, with something of WireGuard's in it: checks come through, data do not.
func carried(b []byte) bool {
	const relayFrame, fromRelay, frameHead = 0x30, 0x80, 5
	return len(b) > frameHead+4 && b[0] == relayFrame && b[1]&fromRelay != 0 && b[frameHead] <= 4 && b[frameHead] > 0 && b[frameHead+1] == 0
}

// swallow has a host begin, or end, to lose what it carries for others.
func (l *links) swallow(host string, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holes[host] += by
}

func (l *links) latency(from, to netip.AddrPort) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.qualityLocked(l.places[from.Addr()], l.places[to.Addr()])
	if q.Jitter > 0 {
		q.Latency += time.Duration(l.rand.Int64N(int64(q.Jitter)))
	}
	return q.Latency
}

// together reports whether two hosts are on the same side of a split network.
func (l *links) together(a, b string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.side[a] == l.side[b]
}

// refuse is about opening a TCP connection.
func (l *links) refuse(from, to netip.AddrPort) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.side[l.places[from.Addr()].owner] != l.side[l.places[to.Addr()].owner]
}

// SetRoute gives the quality between two regions, or within one.
func (w *World) SetRoute(a, b string, q Quality) {
	w.links.mu.Lock()
	defer w.links.mu.Unlock()
	w.links.routes[pair(a, b)] = q
}

// SetLAN gives the quality between hosts behind the same NAT.
func (w *World) SetLAN(q Quality) {
	w.links.mu.Lock()
	defer w.links.mu.Unlock()
	w.links.inner = q
}

// Degrade makes all links of a host or a region worse, or those of everybody with "". The zero quality takes it back.
func (w *World) Degrade(where string, by Quality) {
	w.links.mu.Lock()
	defer w.links.mu.Unlock()
	delete(w.links.faults, where)
	if by != (Quality{}) {
		w.links.faults[where] = by
	}
}

// Split lets packets pass only between hosts of the same side; whoever is on none is with the first. No sides: the network is whole.
func (w *World) Split(sides ...[]*Host) {
	w.links.mu.Lock()
	defer w.links.mu.Unlock()
	w.links.side = map[string]int{}
	for i, side := range sides {
		for _, h := range side {
			w.links.side[h.name] = i
		}
	}
}

// heal takes all faults of links back.
func (l *links) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.faults)
}

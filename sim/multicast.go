package sim

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/discovery"
)

const (
	// airMax is how many packets may wait at a machine; more are lost.
	airMax = 256
	// airInterface is the index of the one interface that machines have.
	airInterface = 2
	mdnsPort     = 5353
	hopsAtHome   = 255 // of a packet that no router has touched
)

// air is the multicast group of a machine's LAN, as its node sees it: what any machine behind the same router says, all others hear.
type air struct {
	proc *process
	in   chan heard

	closing sync.Once
	closed  chan struct{}
}

type heard struct {
	from netip.Addr
	b    []byte
}

// openAir returns the LAN of a process; nil: its machine is in none.
func openAir(p *process) discovery.Multicast {
	if p.host.at.LAN == "" {
		return nil
	}
	a := &air{proc: p, in: make(chan heard, airMax), closed: make(chan struct{})}
	p.host.air.Store(a)
	return a
}

// Families implements discovery.Multicast.
func (a *air) Families() []int { return []int{4} }

// Segments implements discovery.Multicast.
func (a *air) Segments() []discovery.Segment {
	s := discovery.Segment{Index: airInterface, Name: "eth0"}
	for _, addr := range *a.proc.host.addrs.Load() {
		s.Prefixes = append(s.Prefixes, netip.PrefixFrom(addr, lanBits))
	}
	return []discovery.Segment{s}
}

// Read implements discovery.Multicast.
func (a *air) Read(_ int, b []byte) (int, discovery.Arrival, error) {
	select {
	case p := <-a.in:
		return copy(b, p.b), discovery.Arrival{From: p.from, Segment: airInterface, HopLimit: hopsAtHome}, nil
	case <-a.closed:
		return 0, discovery.Arrival{}, net.ErrClosed
	}
}

// Send implements discovery.Multicast. Each listener loses or delays the packet for itself.
func (a *air) Send(_ int, _ discovery.Segment, b []byte) error {
	h := a.proc.host
	w := h.world
	addrs := *h.addrs.Load()
	if a.proc.killed.Load() || len(addrs) == 0 {
		return nil
	}
	from := netip.AddrPortFrom(addrs[0], mdnsPort)
	b = bytes.Clone(b)
	w.wire.see(from, from, b)
	for _, o := range w.Hosts() {
		to, at := o.air.Load(), *o.addrs.Load()
		if to == nil || o.at.LAN != h.at.LAN || len(at) == 0 {
			continue
		}
		target := netip.AddrPortFrom(at[0], mdnsPort)
		if o != h && w.links.drop(from, target, b) {
			continue
		}
		time.AfterFunc(w.links.latency(from, target), func() {
			select {
			case to.in <- heard{from.Addr(), b}:
			default:
			}
		})
	}
	return nil
}

// Close implements discovery.Multicast.
func (a *air) Close() error {
	a.closing.Do(func() { close(a.closed) })
	a.proc.host.air.CompareAndSwap(a, nil)
	return nil
}

package reach

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

const (
	// learnInterval is the gap between rounds without news, give or take a tenth: a round is eight requests of some 300 bytes and their answers,
	// 350 KB a day. Mappings change with the network, which is told, or with the router, which is not.
	learnInterval = 20 * time.Minute
	// learnAgain is the gap while there is too little to conclude from: no other member is known yet, or nobody answered.
	learnAgain = 5 * time.Second
	// learnPause is the least time between two rounds.
	learnPause = time.Second
	// serversMax bounds those from whom a round chooses whom to ask.
	serversMax = 64
	// stunMax bounds the addresses of configured servers among them.
	stunMax = 4
)

// server is one that is asked for our address.
type server struct {
	addr   netip.AddrPort
	member identity.NodeID // zero: configured
	surely bool            // it answers if UDP gets there
}

// learned is what the last round found.
type learned struct {
	at        time.Time
	behaviour nat.Behaviour
	claims    map[netip.AddrPort]claim
	answers   []Answer
	known     []netip.AddrPort // whom one could have asked
	failures  int              // rounds without any answer, in a row
}

// Answer is how one server saw us, for people.
type Answer struct {
	Server netip.AddrPort
	Member identity.NodeID // zero: a configured server
	Mapped netip.AddrPort  // zero: no answer
	RTT    time.Duration
	surely bool // its silence means something
}

// learn finds out again and again how the world sees this node.
func (r *Reach) learn() {
	members, cancelMembers := r.table.Watch()
	defer cancelMembers()
	paths, cancelPaths := r.net.Watch()
	defer cancelPaths()
	var mappings <-chan struct{}
	if r.cfg.Mapper != nil {
		var cancel func()
		mappings, cancel = r.cfg.Mapper.Watch()
		defer cancel()
	}
	published := r.Endpoints()
	news := func() {
		if now := r.Endpoints(); !slices.Equal(now, published) {
			published = now
			r.changed()
		}
	}
	for r.ctx.Err() == nil {
		r.learnOnce(r.ctx)
		news()
		pause, next := time.NewTimer(learnPause), time.NewTimer(r.untilNext())
		for again := false; !again && r.ctx.Err() == nil; {
			select {
			case <-r.ctx.Done():
			case <-next.C:
				again = true
			case <-r.cfg.NetworkChanged:
				r.networkChanged()
				again = true
			case <-r.wakeLearn:
				again = true
			case <-members:
				again = r.knowsTooLittle() && r.hasNewServers()
			case <-paths:
				news()
			case <-mappings:
				news()
				r.changed()
			}
		}
		next.Stop()
		select {
		case <-r.ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// learnOnce runs a discovery and draws the conclusions.
func (r *Reach) learnOnce(ctx context.Context) {
	servers := r.servers(ctx)
	d := nat.NewDiscovery(natServers(servers), r.net.LocalEndpoints())
	answers := r.discover(ctx, d, servers)
	if ctx.Err() != nil {
		return
	}
	l := r.conclude(d.Evidence(), answers)
	for _, s := range servers {
		l.known = append(l.known, s.addr)
	}
	r.mu.Lock()
	before := r.learned.behaviour
	if !l.answered() {
		l.failures = r.learned.failures + 1
	}
	r.learned = l
	r.mu.Unlock()
	if before.Kind() != l.behaviour.Kind() {
		r.log.Info("NAT", "kind", l.behaviour.Kind().String(), "was", before.Kind().String())
	}
	if before.Kind() != l.behaviour.Kind() || !slices.Equal(before.Mapped, l.behaviour.Mapped) {
		r.changed()
	}
}

// hearsUDP reports whether a UDP packet has come from a member lately.
func (r *Reach) hearsUDP() bool {
	for _, p := range r.net.Paths() {
		if p.Kind == Direct && time.Since(p.Heard) < inUse {
			return true
		}
	}
	return false
}

// knowsTooLittle reports whether the last round ended without a conclusion.
func (r *Reach) knowsTooLittle() bool { return r.NAT() == peer.NATUnknown }

// hasNewServers reports whether there is somebody to ask whom the last round did not know.
func (r *Reach) hasNewServers() bool {
	r.mu.Lock()
	known := r.learned.known
	r.mu.Unlock()
	return slices.ContainsFunc(r.servers(r.ctx), func(s server) bool { return !slices.Contains(known, s.addr) })
}

// untilNext is how long to wait for the next round when nothing happens: twice as long with every round that nobody answered.
func (r *Reach) untilNext() time.Duration {
	r.mu.Lock()
	failures := r.learned.failures
	r.mu.Unlock()
	if failures == 0 {
		return r.jitter(learnInterval)
	}
	return r.jitter(min(learnAgain<<min(failures-1, 10), learnInterval))
}

// networkChanged forgets what held for the network before: who failed gets its chance at once.
func (r *Reach) networkChanged() {
	now := time.Now()
	r.mu.Lock()
	for _, h := range r.peers {
		h.pace.renew(now)
		h.pace.fans = 0
	}
	for id, n := range r.relays {
		n.asked, n.failed = time.Time{}, time.Time{}
		r.relays[id] = n
	}
	r.mu.Unlock()
	r.changed()
}

// Relearn has the situation learned anew soon.
func (r *Reach) Relearn() { wake(r.wakeLearn) }

// Behaviour is how the NAT in front of this node treats its packets, as far as is known.
func (r *Reach) Behaviour() nat.Behaviour {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.learned.behaviour
}

// Situation is what this node tells others who want to reach it.
func (r *Reach) Situation() nat.Situation { return r.Behaviour().Situation(r.Endpoints()) }

// addresses are those at which this node may be reached.
func (r *Reach) addresses() addresses {
	a := addresses{Advertised: r.cfg.Advertise, Local: r.net.LocalEndpoints()}
	for _, m := range r.mappings() {
		if nat.IsPublic(m.External.Addr()) {
			a.PortMapped = append(a.PortMapped, m.External)
		}
	}
	others := 0
	for _, e := range r.table.All() {
		if e.ID != r.self && !e.Revoked && e.State == peer.Alive {
			others++
		}
	}
	observed := r.net.Observed()
	r.mu.Lock()
	claims, kind := map[netip.AddrPort]claim{}, r.learned.behaviour.Kind()
	for addr, c := range r.learned.claims {
		claims[addr] = c
	}
	r.mu.Unlock()
	for addr, n := range observed {
		addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
		c := claims[addr]
		c.Members = max(c.Members, n)
		claims[addr] = c
	}
	a.Mapped = believed(claims, kind, others)
	return a
}

func (r *Reach) mappings() []Mapping {
	if r.cfg.Mapper == nil {
		return nil
	}
	return r.cfg.Mapper.Mappings()
}

// evidence is what speaks for this node being reachable.
func (r *Reach) evidence() evidence {
	a := r.addresses()
	b := r.Behaviour()
	e := evidence{NAT: b.Kind(), Advertised: len(a.Advertised) > 0, Unsolicited: r.net.Unsolicited()}
	for _, m := range a.PortMapped {
		seen := func(x netip.AddrPort) bool { return x.Addr() == m.Addr() }
		e.PortMapped = e.PortMapped || slices.ContainsFunc(b.Mapped, seen) || slices.ContainsFunc(a.Mapped, seen)
	}
	e.OurV4, e.OurV6 = familiesOf(a.endpoints())
	for _, other := range r.table.All() {
		if other.ID != r.self && !other.Revoked && other.State == peer.Alive {
			v4, v6 := familiesOf(other.Record.Endpoints)
			e.OnlyV4, e.OnlyV6 = e.OnlyV4 || v4 && !v6, e.OnlyV6 || v6 && !v4
		}
	}
	return e
}

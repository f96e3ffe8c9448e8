package reach

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
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
	// serversMax bounds whom one round asks.
	serversMax = 8
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
	situation Situation
	claims    map[netip.AddrPort]claim
	answers   []Answer
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

// learnOnce asks everybody at once and draws the conclusions.
func (r *Reach) learnOnce(ctx context.Context) {
	servers := r.servers(ctx)
	answers := make([]Answer, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			answers[i] = Answer{Server: s.addr, Member: s.member, surely: s.surely}
			if mapped, rtt, err := r.net.MappedBy(ctx, s.addr); err == nil {
				answers[i].Mapped = netip.AddrPortFrom(mapped.Addr().Unmap(), mapped.Port())
				answers[i].RTT = rtt
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	l := r.conclude(answers)
	r.mu.Lock()
	before := r.learned.situation
	r.learned = l
	r.mu.Unlock()
	if before.Kind != l.situation.Kind {
		r.log.Info("NAT", "kind", l.situation.Kind.String(), "was", before.Kind.String())
	}
	if before.Kind != l.situation.Kind || !slices.Equal(before.Mapped, l.situation.Mapped) {
		r.changed()
	}
}

func (r *Reach) conclude(answers []Answer) learned {
	l := learned{at: time.Now(), answers: answers, claims: map[netip.AddrPort]claim{}}
	said := map[netip.AddrPort]map[identity.NodeID]bool{}
	var all []told
	for _, a := range answers {
		all = append(all, told{server: a.Server, mapped: a.Mapped, surely: a.surely})
		if !a.Mapped.IsValid() {
			continue
		}
		if said[a.Mapped] == nil {
			said[a.Mapped] = map[identity.NodeID]bool{}
		}
		said[a.Mapped][a.Member] = true
	}
	for addr, who := range said {
		server := who[identity.NodeID{}]
		delete(who, identity.NodeID{})
		l.claims[addr] = claim{Members: len(who), Server: server}
	}
	l.situation = situationOf(all, r.net.LocalEndpoints(), r.hearsUDP())
	return l
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

// servers is whom to ask: those that the user named, then members that are alive, of as many networks as possible.
func (r *Reach) servers(ctx context.Context) []server {
	var out []server
	for _, hostport := range r.cfg.STUN {
		for _, a := range r.resolve(ctx, hostport) {
			if len(out) < stunMax {
				out = append(out, server{addr: a, surely: true})
			}
		}
	}
	networks := map[netip.Prefix]bool{}
	var second []server
	for _, e := range r.table.All() {
		if e.ID == r.self || e.Revoked || e.State != peer.Alive || !e.HasRecord {
			continue
		}
		s, ok := r.serverOf(e)
		if !ok {
			continue
		}
		if n := networkOf(s.addr.Addr()); networks[n] {
			second = append(second, s)
		} else {
			networks[n] = true
			out = append(out, s)
		}
	}
	out = append(out, second...)
	return out[:min(len(out), serversMax)]
}

// serverOf is the address at which a member is asked: where it is reached now, else the first that it announces. Who is reached through another, or
// at an address of the LAN only while it has others, is asked there all the same: silence of such says nothing.
func (r *Reach) serverOf(e peer.Entry) (server, bool) {
	s := server{member: e.ID, surely: e.Record.NAT == peer.NATNone}
	if p, ok := r.net.Path(e.ID); ok && p.Kind == Direct && p.Addr.IsValid() {
		s.addr, s.surely = p.Addr, true
		return s, true
	}
	if len(e.Record.Endpoints) == 0 {
		return s, false
	}
	s.addr = e.Record.Endpoints[0].Addr
	return s, true
}

// resolve turns a configured server into addresses, one of each family.
func (r *Reach) resolve(ctx context.Context, hostport string) []netip.AddrPort {
	if a, err := netip.ParseAddrPort(hostport); err == nil {
		return []netip.AddrPort{a}
	}
	if r.cfg.Resolve == nil {
		return nil
	}
	all, err := r.cfg.Resolve(ctx, hostport)
	if err != nil {
		r.log.Debug("STUN server not found", "addr", hostport, "err", err)
	}
	var out []netip.AddrPort
	for _, a := range alternate(all) {
		if !slices.ContainsFunc(out, func(o netip.AddrPort) bool { return o.Addr().Is4() == a.Addr().Is4() }) {
			out = append(out, a)
		}
	}
	return out
}

// knowsTooLittle reports whether the last round ended without a conclusion.
func (r *Reach) knowsTooLittle() bool { return r.NAT() == peer.NATUnknown }

// hasNewServers reports whether there is somebody to ask that the last round did not ask.
func (r *Reach) hasNewServers() bool {
	r.mu.Lock()
	asked := r.learned.answers
	r.mu.Unlock()
	for _, s := range r.servers(r.ctx) {
		if !slices.ContainsFunc(asked, func(a Answer) bool { return a.Server == s.addr }) {
			return true
		}
	}
	return false
}

// untilNext is how long to wait for the next round when nothing happens.
func (r *Reach) untilNext() time.Duration {
	r.mu.Lock()
	answered := slices.ContainsFunc(r.learned.answers, func(a Answer) bool { return a.Mapped.IsValid() })
	r.mu.Unlock()
	if !answered {
		return r.jitter(learnAgain)
	}
	return r.jitter(learnInterval)
}

// networkChanged forgets what held for the network before: who failed gets its chance at once.
func (r *Reach) networkChanged() {
	now := time.Now()
	r.mu.Lock()
	for _, h := range r.peers {
		h.pace.renew(now)
		h.pace.fanned = time.Time{}
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

// Situation is what is known of this node's place in the network.
func (r *Reach) Situation() Situation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.learned.situation
}

// addresses are those at which this node may be reached.
func (r *Reach) addresses() addresses {
	a := addresses{Advertised: r.cfg.Advertise, Local: r.net.LocalEndpoints()}
	for _, m := range r.mappings() {
		if isOutside(m.External.Addr()) {
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
	claims, kind := map[netip.AddrPort]claim{}, r.learned.situation.Kind
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
	r.mu.Lock()
	s := r.learned.situation
	r.mu.Unlock()
	e := evidence{NAT: s.Kind, Advertised: len(a.Advertised) > 0, Unsolicited: r.net.Unsolicited()}
	for _, m := range a.PortMapped {
		seen := func(x netip.AddrPort) bool { return x.Addr() == m.Addr() }
		e.PortMapped = e.PortMapped || slices.ContainsFunc(s.Mapped, seen) || slices.ContainsFunc(a.Mapped, seen)
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

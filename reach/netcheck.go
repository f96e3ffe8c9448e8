package reach

import (
	"context"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

// Report is what `netcheck` shows.
type Report struct {
	NAT         peer.NAT
	Behaviour   nat.Behaviour // mapping, filtering, hairpin, mapped addresses, UDP, IPv6, carrier's NAT, and why
	PortMapping Mapping       // Protocol empty: none
	UDP         bool          // UDP gets out and back in
	IPv6        bool          // an IPv6 address that others reach
	Relays      []RelayConsidered
	Answers     []Answer // who saw us where
	Reachable   bool     // others get to this node without its doing
	OffersRelay bool
	Endpoints   []peer.Endpoint
	At          time.Time
}

// Netcheck asks everybody anew and says what came of it. Without ctx's patience it says what was known before.
func (r *Reach) Netcheck(ctx context.Context) Report {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	r.learnOnce(ctx)
	probed := r.offering()
	r.probeAll(ctx, toProbe(probed, r.held(), nil, r.cfg.Appointed))
	e := r.evidence()
	r.mu.Lock()
	l := r.learned
	r.mu.Unlock()
	out := Report{
		NAT: l.behaviour.Kind(), Behaviour: l.behaviour, UDP: l.behaviour.UDP == nat.Yes, Answers: l.answers, At: l.at,
		Endpoints: r.Endpoints(), Reachable: e.reachable(), OffersRelay: e.offersRelay(r.cfg.NoRelay), Relays: r.considered(identity.NodeID{}),
	}
	open6 := func(e peer.Endpoint) bool { return e.Addr.Addr().Is6() && nat.IsPublic(e.Addr.Addr()) }
	out.IPv6 = l.behaviour.IPv6 == nat.Yes || slices.ContainsFunc(out.Endpoints, open6)
	if all := r.mappings(); len(all) > 0 {
		out.PortMapping = all[0]
	}
	return out
}

// considered lists the relays that are at hand, offer themselves, or were tried for a member.
func (r *Reach) considered(id identity.NodeID) []RelayConsidered {
	var theirs []identity.NodeID
	if e, ok := r.table.Get(id); ok && !id.IsZero() {
		theirs = e.Record.Relays
	}
	path, _ := r.net.Path(id)
	ids := r.offering()
	tried := map[identity.NodeID]RelayTried{}
	r.mu.Lock()
	if h := r.peers[id]; h != nil {
		for k, t := range h.relays {
			tried[k] = t
		}
	}
	r.mu.Unlock()
	ids = append(ids, theirs...)
	for other := range tried {
		ids = append(ids, other)
	}
	slices.SortFunc(ids, identity.NodeID.Compare)
	var out []RelayConsidered
	for _, other := range slices.Compact(ids) {
		if other == r.self || other == id {
			continue
		}
		c := RelayConsidered{
			ID: other, Name: r.name(other), Theirs: slices.Contains(theirs, other), Result: tried[other].Result,
			InUse: path.Kind == Relayed && path.Via == other, Appointed: r.cfg.Appointed(other),
		}
		r.mu.Lock()
		c.RTT, c.Load, c.Ours = r.relays[other].rtt, r.relays[other].load, r.hand[other] != nil
		if c.Result == "" && c.RTT == 0 {
			c.Result = r.relays[other].reason
		}
		r.mu.Unlock()
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b RelayConsidered) int {
		return int(unknownLast(candidate{RTT: a.RTT}) - unknownLast(candidate{RTT: b.RTT}))
	})
	return out
}

// name is what people call a member.
func (r *Reach) name(id identity.NodeID) string {
	if e, ok := r.table.Get(id); ok && e.Member != nil && e.Member.Name != "" {
		return e.Member.Name
	}
	return id.Short()
}

// Explain says why the path to a member is what it is.
func (r *Reach) Explain(id identity.NodeID) Explanation { return explain(id, r.factsOf(id)) }

func (r *Reach) factsOf(id identity.NodeID) facts {
	f := facts{Tried: r.net.Tried(id), Relays: r.considered(id), Mapper: r.cfg.Mapper != nil}
	f.Path, _ = r.net.Path(id)
	own := r.Endpoints()
	f.Ours = sideOf("this machine", r.Situation(), own)
	for _, a := range r.net.LocalEndpoints() {
		f.Port = a.Port()
	}
	e, _ := r.table.Get(id)
	theirs := nat.Situation{Kind: e.Record.NAT}
	r.mu.Lock()
	if h := r.peers[id]; h != nil {
		f.Punches = slices.Clone(h.punches)
		if h.hasSituation && theirs.Kind == peer.NATUnknown {
			theirs.Kind = h.situation.Kind
		}
		theirs.Mapping, theirs.Mapped = h.situation.Mapping, h.situation.Mapped
	}
	r.mu.Unlock()
	f.Theirs = sideOf(r.name(id), theirs, e.Record.Endpoints)
	f.GoodRelay = r.goodRelay(id)
	return f
}

func sideOf(name string, s nat.Situation, endpoints []peer.Endpoint) Side {
	out := Side{Name: name, NAT: s.Kind, Mapping: s.Mapping, Mapped: s.Mapped}
	for _, e := range endpoints {
		a := e.Addr.Addr()
		out.IPv4 = out.IPv4 || a.Is4()
		out.IPv6 = out.IPv6 || a.Is6() && nat.IsPublic(a)
		out.PortMapped = out.PortMapped || e.Kind == peer.PortMapped
	}
	return out
}

// goodRelay is the member, reached directly and nearest to us, that could relay to the member id but does not offer to.
func (r *Reach) goodRelay(id identity.NodeID) string {
	best, rtt := identity.NodeID{}, time.Duration(0)
	for other, p := range r.net.Paths() {
		e, ok := r.table.Get(other)
		if !ok || other == id || p.Kind != Direct || p.RTT <= 0 || e.State != peer.Alive || e.Record.Relay || e.Record.NAT == peer.NATHard || e.Record.NAT == peer.NATBlocked {
			continue
		}
		if best.IsZero() || p.RTT < rtt || p.RTT == rtt && other.Compare(best) < 0 {
			best, rtt = other, p.RTT
		}
	}
	if best.IsZero() {
		return ""
	}
	return r.name(best)
}

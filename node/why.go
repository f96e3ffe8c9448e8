package node

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/reach"
)

// netcheckAnswer puts a report into the shape of the local API. name gives members theirs.
func netcheckAnswer(r reach.Report, name func(identity.NodeID) string) *localapi.Netcheck {
	b := r.Behaviour
	out := &localapi.Netcheck{
		NAT: r.NAT.String(), Mapping: dependence(b.Mapping), Filtering: dependence(b.Filtering), Mapped: texts(b.Mapped),
		PortMapping: localapi.PortMapping{Protocol: cmp.Or(r.PortMapping.Protocol, "none")}, UDP: r.UDP, IPv6: r.IPv6,
		Hairpin: map[nat.Finding]string{nat.Yes: "yes", nat.No: "no"}[b.Hairpin], CarrierNAT: b.CarrierNAT, Reasons: slices.Clone(b.Reasons),
		Reachable: r.Reachable, OffersRelay: r.OffersRelay, Relays: relays(r.Relays), At: r.At.UTC(),
	}
	out.Hairpin = cmp.Or(out.Hairpin, "unknown")
	if r.PortMapping.External.IsValid() {
		out.PortMapping.External = r.PortMapping.External.String()
	}
	for _, e := range r.Endpoints {
		if e.Kind == peer.Local {
			out.Local = append(out.Local, e.Addr.String())
		}
	}
	for _, a := range r.Answers {
		asked := localapi.Asked{Server: a.Server.String(), RTTMs: millis(a.RTT)}
		if !a.Member.IsZero() {
			asked.Name = name(a.Member)
		}
		if a.Mapped.IsValid() {
			asked.Mapped = a.Mapped.String()
		}
		out.Asked = append(out.Asked, asked)
	}
	return out
}

// whyAnswer puts an explanation into the shape of the local API.
func whyAnswer(x reach.Explanation, path localapi.Path, name func(identity.NodeID) string) *localapi.Why {
	out := &localapi.Why{
		ID: x.ID.String(), Name: x.Theirs.Name, Path: path, Summary: x.Summary, Self: side(x.Ours), Peer: side(x.Theirs),
		Relays: relays(x.Relays), Change: slices.Clone(x.Advice),
	}
	if !x.Path.Via.IsZero() {
		out.ViaName = name(x.Path.Via)
	}
	for _, t := range x.Tried {
		a := localapi.Attempt{At: t.At.UTC(), What: localapi.TriedAddress, How: t.Addr.String(), Began: true, Result: t.Result, TookMs: millis(t.RTT)}
		switch {
		case !t.Via.IsZero():
			a.What, a.How = localapi.TriedRelay, name(t.Via)
		case t.Pipe:
			a.What = localapi.TriedTCP
		}
		out.Tried = append(out.Tried, a)
	}
	for _, p := range x.Punches {
		out.Tried = append(out.Tried, localapi.Attempt{
			At: p.At.UTC(), What: localapi.TriedPunch, How: p.Strategy, Began: p.Began, Result: p.Result, TookMs: millis(p.Took),
		})
	}
	slices.SortStableFunc(out.Tried, func(a, b localapi.Attempt) int { return a.At.Compare(b.At) })
	return out
}

func side(s reach.Side) localapi.Side {
	return localapi.Side{
		NAT: s.NAT.String(), Mapping: dependence(s.Mapping), Mapped: texts(s.Mapped), IPv4: s.IPv4, IPv6: s.IPv6, PortMapped: s.PortMapped,
	}
}

func relays(considered []reach.RelayConsidered) localapi.List[localapi.Relay] {
	var out localapi.List[localapi.Relay]
	for _, r := range considered {
		out = append(out, localapi.Relay{
			Appointed: r.Appointed,
			RoundTrip: localapi.RoundTrip{ID: r.ID.String(), Name: r.Name, RTTMs: millis(r.RTT)},
			Load:      int(r.Load), AtHand: r.Ours, Theirs: r.Theirs, InUse: r.InUse, Result: r.Result,
		})
	}
	return out
}

// dependence is empty where nothing is known: a script must not take "unknown" for a behaviour.
func dependence(d nat.Dependence) string {
	if d == nat.DependenceUnknown {
		return ""
	}
	return d.String()
}

func texts(addrs []netip.AddrPort) localapi.List[string] {
	var out localapi.List[string]
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

package reach

import (
	"net/netip"
	"slices"

	"github.com/phantommesh/phantommesh/peer"
)

// Mapping behaviours (RFC 4787 §4.1).
type MappingBehaviour uint8

// The behaviours.
const (
	MappingUnknown MappingBehaviour = iota
	EndpointIndependent
	AddressDependent
	AddressAndPortDependent
)

// Situation is what a node knows of its place in the network.
type Situation struct {
	Kind    peer.NAT
	Mapping MappingBehaviour
	// Mapped are the addresses at which others see the node.
	Mapped []netip.AddrPort
}

// told is how one server sees us.
type told struct {
	server netip.AddrPort
	mapped netip.AddrPort // zero: no answer
	surely bool           // it would answer if UDP got there
}

// situationOf concludes from what servers said. local are our own addresses; open says that UDP reaches somebody, whatever the servers said.
func situationOf(answers []told, local []netip.AddrPort, open bool) Situation {
	var s Situation
	outside := slices.ContainsFunc(answers, func(a told) bool { return a.mapped.IsValid() && isOutside(a.server.Addr()) })
	var seen []told
	silent := 0
	for _, a := range answers {
		if a.surely && !a.mapped.IsValid() {
			silent++
		}
		if a.mapped.IsValid() && (!outside || isOutside(a.server.Addr())) {
			seen = append(seen, a)
			if !slices.Contains(s.Mapped, a.mapped) {
				s.Mapped = append(s.Mapped, a.mapped)
			}
		}
	}
	v4 := slices.DeleteFunc(slices.Clone(seen), func(a told) bool { return a.mapped.Addr().Is6() })
	switch {
	case len(seen) == 0 && silent > 1 && !open:
		s.Kind = peer.NATBlocked
	case len(seen) == 0:
	case len(v4) == 0:
		s.Kind, s.Mapping = peer.NATNone, EndpointIndependent // IPv6 alone is not translated
	case !slices.ContainsFunc(v4, func(a told) bool { return !slices.Contains(local, a.mapped) }):
		s.Kind, s.Mapping = peer.NATNone, EndpointIndependent
	case slices.ContainsFunc(v4, func(a told) bool { return a.mapped != v4[0].mapped }):
		s.Kind, s.Mapping = peer.NATHard, AddressAndPortDependent
	case slices.ContainsFunc(v4, func(a told) bool { return a.server.Addr() != v4[0].server.Addr() }):
		s.Kind, s.Mapping = peer.NATEasy, EndpointIndependent
	}
	return s
}

// strategy is what a punch does beside checking the candidates of both.
type strategy uint8

const (
	simultaneous strategy = iota // checks on all candidates at the same time
	fanOut                       // ours is hard, theirs easy: from many sockets to their address
	fanIn                        // ours is easy, theirs hard: to many ports of their address
	relayOnly                    // nothing promises a direct path; the candidates are checked all the same
)

var strategyNames = [...]string{"simultaneous", "fan out", "fan in", "relay only"}

func (s strategy) String() string { return strategyNames[s] }

// strategyOf chooses for two situations. Both sides choose what fits the other's choice.
func strategyOf(ours, theirs peer.NAT) strategy {
	switch {
	case ours == peer.NATBlocked || theirs == peer.NATBlocked, ours == peer.NATHard && theirs == peer.NATHard:
		return relayOnly
	case ours == peer.NATHard && theirs == peer.NATEasy:
		return fanOut
	case ours == peer.NATEasy && theirs == peer.NATHard:
		return fanIn
	}
	return simultaneous
}

package nat

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/peer"
)

// Situation is what one node tells another before both try to get through their NATs. Nothing in it is proven: what it leads to is a
// bounded number of keyed checks.
type Situation struct {
	Kind               peer.NAT
	Mapping, Filtering Dependence
	// Mapped are the addresses at which others see the node, Candidates all those at which it may be reached: its own, the mapped,
	// the port-mapped.
	Mapped     []netip.AddrPort
	Candidates []peer.Endpoint
}

// Situation is a behaviour as it is told to others, with the candidates.
func (b Behaviour) Situation(candidates []peer.Endpoint) Situation {
	return Situation{Kind: b.Kind(), Mapping: b.Mapping, Filtering: b.Filtering,
		Mapped: b.Mapped, Candidates: candidates[:min(len(candidates), CandidatesMax)]}
}

// Bounds of an encoded situation.
const (
	// CandidatesMax bounds the candidates told: as many as a record announces.
	CandidatesMax = 8
	// SituationMax is the size in bytes: 8 candidates of 23, 4 addresses of 22, and what is around them.
	SituationMax = 300
)

// The encoding, strict CBOR:
//
//	situation = [NAT, mapping, filtering, [address…], [candidate…]]
//	address   = [IP 4 or 16 bytes, port]
//	candidate = [kind, IP, port]
type wireSituation struct {
	_          struct{} `cbor:",toarray"`
	NAT        uint8
	Mapping    uint8
	Filtering  uint8
	Mapped     []wireAddress
	Candidates []wireCandidate
}

type wireAddress struct {
	_    struct{} `cbor:",toarray"`
	IP   []byte
	Port uint16
}

type wireCandidate struct {
	_    struct{} `cbor:",toarray"`
	Kind uint8
	IP   []byte
	Port uint16
}

// Encode returns the situation's one encoding. Addresses beyond the bounds are left out.
func (s Situation) Encode() ([]byte, error) {
	w := wireSituation{NAT: uint8(s.Kind), Mapping: uint8(s.Mapping), Filtering: uint8(s.Filtering), Mapped: []wireAddress{}, Candidates: []wireCandidate{}}
	for _, a := range s.Mapped[:min(len(s.Mapped), MappedMax)] {
		w.Mapped = append(w.Mapped, wireAddress{IP: a.Addr().Unmap().AsSlice(), Port: a.Port()})
	}
	for _, c := range s.Candidates[:min(len(s.Candidates), CandidatesMax)] {
		w.Candidates = append(w.Candidates, wireCandidate{Kind: uint8(c.Kind), IP: c.Addr.Addr().Unmap().AsSlice(), Port: c.Addr.Port()})
	}
	return wire.Marshal(w)
}

// DecodeSituation reads a situation; it returns [wire.ErrForm], [wire.ErrNotCanonical] or [wire.ErrTooLarge].
func DecodeSituation(b []byte) (Situation, error) {
	var w wireSituation
	if len(b) > SituationMax {
		return Situation{}, fmt.Errorf("%w: situation of %d bytes", wire.ErrTooLarge, len(b))
	}
	if err := wire.Unmarshal(b, &w); err != nil {
		return Situation{}, err
	}
	s := Situation{Kind: peer.NAT(w.NAT), Mapping: Dependence(w.Mapping), Filtering: Dependence(w.Filtering)}
	if w.Mapped == nil || w.Candidates == nil { // null would be a second way to say empty
		return Situation{}, fmt.Errorf("%w: situation without lists", wire.ErrForm)
	}
	if s.Kind > peer.NATBlocked || max(s.Mapping, s.Filtering) > AddressAndPortDependent || len(w.Mapped) > MappedMax || len(w.Candidates) > CandidatesMax {
		return Situation{}, fmt.Errorf("%w: situation", wire.ErrForm)
	}
	for _, a := range w.Mapped {
		addr, ok := hostAddr(a.IP, a.Port)
		if !ok || slices.Contains(s.Mapped, addr) {
			return Situation{}, fmt.Errorf("%w: mapped address", wire.ErrForm)
		}
		s.Mapped = append(s.Mapped, addr)
	}
	for _, c := range w.Candidates {
		addr, ok := hostAddr(c.IP, c.Port)
		kind := peer.EndpointKind(c.Kind)
		again := slices.ContainsFunc(s.Candidates, func(e peer.Endpoint) bool { return e.Addr == addr })
		if !ok || again || kind < peer.Local || kind > peer.PortMapped {
			return Situation{}, fmt.Errorf("%w: candidate", wire.ErrForm)
		}
		s.Candidates = append(s.Candidates, peer.Endpoint{Addr: addr, Kind: kind})
	}
	return s, nil
}

// hostAddr takes addresses that another host can have, in their plain form.
func hostAddr(ip []byte, port uint16) (netip.AddrPort, bool) {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || port == 0 || a.Is4In6() || scopeOf(a) == bogus {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a, port), true
}

// Approach is what is done to get through, beside checking the candidates of both sides at the same time.
type Approach uint8

// The approaches.
const (
	Simultaneous Approach = iota // nothing more is needed
	FanOut                       // our NAT is hard, theirs easy: from many sockets to their one address
	FanIn                        // ours is easy, theirs hard: to many ports of their address
	RelayOnly                    // nothing promises a direct path; candidates are still checked now and then
)

func (a Approach) String() string {
	names := [...]string{"simultaneous", "fan out", "fan in", "relay only"}
	return names[min(int(a), len(names)-1)]
}

// Strategy is how two nodes try to reach each other.
type Strategy struct {
	Approach Approach
	// Target is where a fan goes: the address to check from many sockets, or the one whose ports are tried. Invalid otherwise.
	Target netip.AddrPort
	// Because says to people why.
	Because string
}

// Choose picks the strategy for two situations. What the other side chooses with the arguments exchanged fits: a fan out meets a fan
// in, everything else itself.
func Choose(ours, theirs Situation) Strategy {
	switch {
	case ours.Kind == peer.NATBlocked:
		return Strategy{Approach: RelayOnly, Because: "UDP is blocked on our side"}
	case theirs.Kind == peer.NATBlocked:
		return Strategy{Approach: RelayOnly, Because: "UDP is blocked on their side"}
	case ours.has(isOpen6) && theirs.has(isOpen6):
		return Strategy{Because: "both have IPv6, which is not translated"}
	case ours.shares(theirs):
		return Strategy{Because: "both are behind the same NAT, so their own addresses should do"}
	case ours.has(isPortMapped) || theirs.has(isPortMapped):
		return Strategy{Because: "a router has opened a port for one of them"}
	case ours.Kind != peer.NATHard && theirs.Kind != peer.NATHard:
		return Strategy{Because: fmt.Sprintf("our NAT: %s, theirs: %s; both sides can be told of the other's address", ours.Kind, theirs.Kind)}
	case ours.open() || theirs.open():
		return Strategy{Because: "one side lets packets from anywhere in, so the other's address need not be known"}
	case ours.Kind == peer.NATHard && theirs.Kind == peer.NATHard:
		return Strategy{Approach: RelayOnly, Because: "both NATs are hard: neither side can know at which port the other will appear"}
	case ours.Kind == peer.NATHard:
		return fan(FanOut, theirs, "our NAT is hard: many sockets are tried, for their side to find one of their ports")
	}
	return fan(FanIn, theirs, "their NAT is hard: many of its ports are tried")
}

// fan aims at the first mapped address of IPv4 of the other side; without one there is nothing to aim at.
func fan(a Approach, theirs Situation, because string) Strategy {
	for _, m := range theirs.Mapped {
		if m.Addr().Is4() {
			return Strategy{Approach: a, Target: m, Because: because}
		}
	}
	return Strategy{Approach: a, Because: because + "; where it is seen is not known yet"}
}

// open reports whether packets from sources that were not sent to reach the node.
func (s Situation) open() bool {
	return s.Kind == peer.NATNone || s.Kind == peer.NATEasy && s.Filtering == EndpointIndependent
}

func (s Situation) has(is func(peer.Endpoint) bool) bool {
	return slices.ContainsFunc(s.Candidates, is)
}

func isOpen6(e peer.Endpoint) bool { return e.Addr.Addr().Is6() && IsPublic(e.Addr.Addr()) }

func isPortMapped(e peer.Endpoint) bool { return e.Kind == peer.PortMapped && IsPublic(e.Addr.Addr()) }

// shares reports whether both are seen at one IPv4 address.
func (s Situation) shares(other Situation) bool {
	for _, a := range s.Mapped {
		for _, b := range other.Mapped {
			if a.Addr() == b.Addr() && a.Addr().Is4() {
				return true
			}
		}
	}
	return false
}

package nat

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/phantommesh/phantommesh/peer"
)

// Dependence is on what a NAT's mapping, or its filtering, depends (RFC 4787 §4.1 and §5).
type Dependence uint8

// The dependences.
const (
	DependenceUnknown       Dependence = iota
	EndpointIndependent                // on nothing of the other side
	AddressDependent                   // on its address
	AddressAndPortDependent            // on its address and port
)

func (d Dependence) String() string {
	names := [...]string{"unknown", "endpoint-independent", "address-dependent", "address-and-port-dependent"}
	return names[min(int(d), len(names)-1)]
}

// Finding is the result of a test that may not have been made.
type Finding uint8

// The findings.
const (
	NotTested Finding = iota
	Yes
	No
)

func (f Finding) String() string { return [...]string{"not tested", "yes", "no"}[min(f, No)] }

// Observation is what one server, asked at one address, said.
type Observation struct {
	Server netip.AddrPort
	// Mapped is where our request came from as the server saw it; invalid if it was silent.
	Mapped netip.AddrPort
}

// Evidence is what is known when a NAT is judged.
type Evidence struct {
	Observations []Observation
	// Local are the addresses of our own that the observations were made from, with the socket's port.
	Local []netip.AddrPort
	// HearsUDP: packets of others arrive, whatever the servers say.
	HearsUDP  bool
	Filtering Dependence
	Hairpin   Finding
	// Router is the external address that the router says it has (portmap); invalid if it says none.
	Router netip.Addr
}

// Behaviour is how the NAT in front of this node treats its packets.
type Behaviour struct {
	Mapping, Filtering Dependence
	Hairpin            Finding
	// Mapped are the addresses under which others see us, the best attested first, at most [MappedMax].
	Mapped []netip.AddrPort
	// Direct: our own address is the one that others see.
	Direct bool
	// UDP and IPv6: does UDP, do packets of IPv6, come through.
	UDP, IPv6 Finding
	// CarrierNAT: there is a second NAT, run by the provider (RFC 6598) or another router.
	CarrierNAT bool
	// Reasons say to people what this follows from.
	Reasons []string
}

// MappedMax bounds the addresses of a behaviour: some for each family, and those of a NAT that has several.
const MappedMax = 4

// Kind is how hard the NAT is to get through.
func (b Behaviour) Kind() peer.NAT {
	switch {
	case b.UDP == No:
		return peer.NATBlocked
	case b.Direct:
		return peer.NATNone
	case b.Mapping == EndpointIndependent:
		return peer.NATEasy
	case b.Mapping == AddressDependent, b.Mapping == AddressAndPortDependent:
		return peer.NATHard
	}
	return peer.NATUnknown
}

// blockedMin is how many servers have to be silent before it is the network's fault and not theirs.
const blockedMin = 2

// Assess judges a NAT.
//
// Servers lie or are mistaken. Each address of a server has one vote, and what decides is the mapped address for which more than half
// of at least two vote. So an address that only one names is never ours, and one liar among three is outvoted. What is left to a liar:
// between two that disagree the NAT counts as hard, which costs many-port probing, bounded in packets; and one that knows what another
// server sees can repeat it, so that a hard NAT counts as easy, which costs checks that arrive nowhere while the relay carries on. No
// more than that, as no address learned here is used before keyed checks have validated a path to it. An address out of a private
// network, told by a server that is not in one, is not counted.
func Assess(e Evidence) Behaviour {
	b := Behaviour{Filtering: e.Filtering, Hairpin: e.Hairpin}
	seen, silent := b.admit(e)
	v4, v6 := ofFamily(seen, true), ofFamily(seen, false)
	switch {
	case len(v4) > 0:
		b.judge(v4, e.Local)
	case len(v6) > 0:
		b.judge(v6, e.Local)
	}
	if len(v4) > 0 && len(v6) > 0 {
		var six Behaviour // its addresses are worth knowing, the NAT is IPv4's
		six.judge(v6, e.Local)
		b.Mapped = append(b.Mapped[:min(len(b.Mapped), MappedMax-1)], six.Mapped...)
	}
	b.Mapped = b.Mapped[:min(len(b.Mapped), MappedMax)]
	b.judgeReach(len(seen) > 0 || e.HearsUDP, len(silent), len(v6) > 0)
	b.judgeCarrier(e)
	return b
}

// admit returns the observations that count, and the servers' addresses that gave none.
func (b *Behaviour) admit(e Evidence) (seen []Observation, silent []netip.Addr) {
	for _, o := range e.Observations {
		o.Server = plainAddr(o.Server)
		if !o.Mapped.IsValid() {
			if !slices.Contains(silent, o.Server.Addr()) {
				silent = append(silent, o.Server.Addr())
			}
			continue
		}
		o.Mapped = plainAddr(o.Mapped)
		if scopeOf(o.Mapped.Addr()) == bogus || o.Mapped.Port() == 0 || o.Mapped.Addr().Is4() != o.Server.Addr().Is4() ||
			scopeOf(o.Server.Addr()) == public && scopeOf(o.Mapped.Addr()) != public {
			b.because("%s says we are at %s, which cannot be: not counted", o.Server, o.Mapped)
			continue
		}
		seen = append(seen, o)
	}
	// Servers of a private network see what is between us and them; those of the internet what is between us and everybody.
	if slices.ContainsFunc(seen, func(o Observation) bool { return scopeOf(o.Server.Addr()) == public }) {
		seen = slices.DeleteFunc(seen, func(o Observation) bool { return scopeOf(o.Server.Addr()) != public })
	}
	return seen, silent
}

// judge finds the mapping from the observations of one family, of which there is at least one.
func (b *Behaviour) judge(seen []Observation, local []netip.AddrPort) {
	servers := map[netip.Addr]bool{}
	votes := map[netip.AddrPort]map[netip.Addr]bool{}
	for _, o := range seen {
		servers[o.Server.Addr()] = true
		if votes[o.Mapped] == nil {
			votes[o.Mapped] = map[netip.Addr]bool{}
		}
		votes[o.Mapped][o.Server.Addr()] = true
	}
	ranked := rank(votes)
	best := ranked[0]
	isLocal := slices.Contains(local, best)
	switch agree := len(votes[best]); {
	case 2*agree > len(servers) && (agree > 1 || len(ranked) == 1):
		b.Mapped = []netip.AddrPort{best}
		for _, o := range seen {
			if o.Mapped != best {
				b.because("%s sees us at %s, %d others at %s: outvoted", o.Server, o.Mapped, agree, best)
			}
		}
		switch {
		case isLocal:
			b.Direct, b.Mapping = true, EndpointIndependent
			b.because("others see us at our own address %s", best)
		case agree > 1:
			b.Mapping = EndpointIndependent
			b.because("%d servers see us at the same address %s", agree, best)
		default:
			b.because("only one server has said where it sees us: %s", best)
		}
	default:
		b.Mapped = agreedFirst(ranked, votes)
		b.Mapping = dependence(seen)
		b.because("%d servers see us at %d addresses, among them %s and %s: the NAT gives every destination another one",
			len(servers), len(ranked), ranked[0], ranked[1])
	}
}

// dependence tells an address-dependent mapping from one that depends on the port too: by what one server sees through two of its ports.
func dependence(seen []Observation) Dependence {
	twoPorts := false
	for i, a := range seen {
		for _, b := range seen[:i] {
			if a.Server.Addr() != b.Server.Addr() || a.Server.Port() == b.Server.Port() {
				continue
			}
			if a.Mapped != b.Mapped {
				return AddressAndPortDependent
			}
			twoPorts = true
		}
	}
	if twoPorts {
		return AddressDependent
	}
	return AddressAndPortDependent // the worse of the two, while nobody has looked
}

// rank orders the mapped addresses by votes, most first, then by address, so that the order of answers does not matter.
func rank(votes map[netip.AddrPort]map[netip.Addr]bool) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(votes))
	for a := range votes {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Or(cmp.Compare(len(votes[b]), len(votes[a])), a.Compare(b))
	})
	return out
}

// agreedFirst keeps the addresses of a hard NAT whose IP several servers name; all of them if no two agree even on that.
func agreedFirst(ranked []netip.AddrPort, votes map[netip.AddrPort]map[netip.Addr]bool) []netip.AddrPort {
	servers := map[netip.Addr]map[netip.Addr]bool{}
	for mapped, who := range votes {
		if servers[mapped.Addr()] == nil {
			servers[mapped.Addr()] = map[netip.Addr]bool{}
		}
		for s := range who {
			servers[mapped.Addr()][s] = true
		}
	}
	agreed := slices.DeleteFunc(slices.Clone(ranked), func(a netip.AddrPort) bool { return len(servers[a.Addr()]) < 2 })
	if len(agreed) == 0 {
		return ranked
	}
	return agreed
}

// judgeReach says whether UDP and IPv6 come through.
func (b *Behaviour) judgeReach(udp bool, silent int, ipv6 bool) {
	if ipv6 {
		b.IPv6 = Yes
	}
	switch {
	case udp:
		b.UDP = Yes
	case silent >= blockedMin:
		b.UDP = No
		b.because("none of %d servers has answered: UDP seems to be blocked", silent)
	case silent > 0:
		b.because("the only server asked has not answered")
	default:
		b.because("no server has been asked")
	}
}

// carrierShared is what providers use between their NAT and their customers' (RFC 6598).
var carrierShared = netip.MustParsePrefix("100.64.0.0/10")

func (b *Behaviour) judgeCarrier(e Evidence) {
	for _, a := range e.Local {
		if carrierShared.Contains(a.Addr().Unmap()) && !b.Direct {
			b.CarrierNAT = true
			b.because("our own address %s is one that providers share among customers (RFC 6598): the provider's NAT cannot be configured", a.Addr())
			return
		}
	}
	if !e.Router.IsValid() {
		return
	}
	router := e.Router.Unmap()
	differs := len(b.Mapped) > 0 && !slices.ContainsFunc(b.Mapped, func(m netip.AddrPort) bool { return m.Addr() == router })
	switch {
	case carrierShared.Contains(router):
		b.CarrierNAT = true
		b.because("the router's address %s is one that providers share among customers (RFC 6598): a port that it opens is behind another NAT", router)
	case scopeOf(router) != public && differs:
		b.CarrierNAT = true
		b.because("the router's own address %s is private: it is behind another NAT, and a port that it opens leads nowhere", router)
	case differs && b.UDP == Yes:
		b.CarrierNAT = router.Is4() && b.Mapped[0].Addr().Is4()
		b.because("the router says it is at %s, others see us at %s: there is another NAT, or another way out", router, b.Mapped[0].Addr())
	}
}

func (b *Behaviour) because(format string, args ...any) {
	b.Reasons = append(b.Reasons, fmt.Sprintf(format, args...))
}

func ofFamily(all []Observation, is4 bool) []Observation {
	return slices.DeleteFunc(slices.Clone(all), func(o Observation) bool { return o.Mapped.Addr().Is4() != is4 })
}

func plainAddr(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// scope is how far an address carries.
type scope uint8

const (
	bogus   scope = iota // no host's: unspecified, loopback, multicast, broadcast, link-local
	private              // RFC 1918, RFC 4193, RFC 6598
	public
)

// scopeOf tells the scope of an address. Ranges for documentation count as public: networks made for tests use them.
func scopeOf(a netip.Addr) scope {
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(),
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}), a.Is4() && a.As4()[0] == 0, a.Is4() && a.As4()[0] >= 240:
		return bogus
	case a.IsPrivate(), carrierShared.Contains(a):
		return private
	}
	return public
}

// IsPublic reports whether an address can be the one that everybody sees: neither private, nor shared by a provider's customers, nor
// special.
func IsPublic(a netip.Addr) bool { return scopeOf(a.Unmap()) == public }

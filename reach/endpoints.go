package reach

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

// addresses are those at which this node may be reached, by how it knows them.
type addresses struct {
	Advertised []netip.AddrPort // the user says so
	PortMapped []netip.AddrPort // a router says so
	Mapped     []netip.AddrPort // others see us there, believed
	Local      []netip.AddrPort // of our interfaces
}

// endpoints is what to publish, the likeliest first: who takes two takes one that works from outside and one of the LAN. Of one kind, addresses of
// both families take turns. At most peer.EndpointsMax.
func (a addresses) endpoints() []peer.Endpoint {
	var outside, local []peer.Endpoint
	add := func(to *[]peer.Endpoint, addrs []netip.AddrPort, kind peer.EndpointKind) {
		for _, p := range alternate(addrs) {
			known := func(e peer.Endpoint) bool { return e.Addr == p }
			if !slices.ContainsFunc(outside, known) && !slices.ContainsFunc(local, known) {
				*to = append(*to, peer.Endpoint{Addr: p, Kind: kind})
			}
		}
	}
	global := slices.DeleteFunc(slices.Clone(a.Local), func(p netip.AddrPort) bool { return !nat.IsPublic(p.Addr()) })
	add(&outside, a.Advertised, peer.PortMapped)
	add(&outside, global, peer.Local)
	add(&outside, a.PortMapped, peer.PortMapped)
	add(&outside, a.Mapped, peer.Mapped)
	add(&local, a.Local, peer.Local)
	var out []peer.Endpoint
	for i := range max(len(outside), len(local)) {
		for _, from := range [][]peer.Endpoint{outside, local} {
			if i < len(from) && len(out) < peer.EndpointsMax {
				out = append(out, from[i])
			}
		}
	}
	return out
}

// alternate orders addresses so that both families have their turn, IPv6 first: no NAT stands in its way. Within a family the order stays.
func alternate(addrs []netip.AddrPort) []netip.AddrPort {
	type ranked struct {
		addr netip.AddrPort
		rank int
	}
	var all []ranked
	var v4, v6 int
	for _, a := range addrs {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		if !a.IsValid() || a.Port() == 0 {
			continue
		}
		if a.Addr().Is4() {
			v4++
			all = append(all, ranked{a, 2 * v4})
		} else {
			v6++
			all = append(all, ranked{a, 2*v6 - 1})
		}
	}
	slices.SortStableFunc(all, func(x, y ranked) int { return cmp.Compare(x.rank, y.rank) })
	out := make([]netip.AddrPort, len(all))
	for i, r := range all {
		out[i] = r.addr
	}
	return out
}

// believedAt is how many members must agree on an address that we do not see ourselves: one could lie.
const believedAt = 2

// claim is who says that we are seen at an address.
type claim struct {
	Members int  // how many
	Server  bool // a server that the user configured
}

// believed are the mapped addresses that may be published. In a mesh of two there is nobody else to ask. Behind a hard NAT every address is good
// for who saw it only, so none is.
func believed(claims map[netip.AddrPort]claim, kind peer.NAT, others int) []netip.AddrPort {
	if kind == peer.NATHard {
		return nil
	}
	var out []netip.AddrPort
	for a, c := range claims {
		if c.Server || c.Members >= believedAt || c.Members == 1 && others == 1 {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Or(-cmp.Compare(claims[a].Members, claims[b].Members), a.Compare(b))
	})
	return out
}

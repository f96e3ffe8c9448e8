package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// natKinds are the kinds of router a region's machines can be behind, in the words of docs/nat.md.
var natKinds = []string{natNone, "open", "easy", "hard", "blocked"}

const natNone = "none"

// natLifetime is how long a router keeps an idle mapping: the least that RFC 4787 §4.3 allows.
const natLifetime = 2 * time.Minute

func natConfig(kind string) underlaytest.NATConfig {
	c := underlaytest.NATConfig{Lifetime: natLifetime}
	switch kind {
	case "easy":
		c.Filtering = underlaytest.AddressAndPortDependent
	case "blocked":
		c.DropUDP = true
	case "hard":
		c.Mapping, c.Filtering = underlaytest.AddressAndPortDependent, underlaytest.AddressAndPortDependent
	}
	return c
}

// topology hands out addresses: public ones from 100.0.0.0/8 on, and for each router a network of its own of 10.128.0.0/9, each only once in a
// world.
type topology struct {
	public   uint32
	lans     map[string]*underlaytest.NAT // by region
	networks map[*underlaytest.NAT]*network
}

// network is what is behind a router.
type network struct{ number, hosts uint32 }

// lanBits is the length of such a network's prefix: 2048 of them, for as many machines and more.
const lanBits = 20

func newTopology() topology {
	return topology{lans: map[string]*underlaytest.NAT{}, networks: map[*underlaytest.NAT]*network{}}
}

func (t *topology) nextPublic() netip.Addr {
	t.public++
	return address(100<<24 + t.public)
}

func (t *topology) nextPrivate(router *underlaytest.NAT) netip.Addr {
	n := t.networks[router]
	if n == nil {
		n = &network{number: uint32(len(t.networks))}
		t.networks[router] = n
	}
	n.hosts++
	return address(10<<24 + 128<<16 + n.number<<(32-lanBits) + n.hosts%(1<<(32-lanBits)-1))
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// lay makes the scenario's network and its machines.
func (p *play) lay() {
	p.world.noPowerCuts = !slices.ContainsFunc(p.scenario.Timeline, func(s Step) bool { return s.Fault.Kind() == powerCut{}.Kind() })
	for _, r := range p.scenario.Regions {
		p.world.SetRoute(r.Name, r.Name, r.Within)
	}
	for _, l := range p.scenario.Links {
		if l.Between == anyRegions {
			p.linkAll(l.Quality)
		}
	}
	for _, l := range p.scenario.Links {
		if l.Between != anyRegions {
			p.world.SetRoute(l.Between[0], l.Between[1], l.Quality)
		}
	}
	for _, r := range p.scenario.Regions {
		for range r.Nodes {
			p.newHost(r.Name)
		}
	}
}

// anyRegions are the two regions of a link that is between every two of which no other link says anything.
var anyRegions = [2]string{"all", "all"}

func (p *play) linkAll(q Quality) {
	for i, a := range p.scenario.Regions {
		for _, b := range p.scenario.Regions[:i] {
			p.world.SetRoute(a.Name, b.Name, q)
		}
	}
}

// newHost adds a machine to a region.
func (p *play) newHost(region string) *Host {
	at := Placement{Name: fmt.Sprintf("n%d", len(p.world.hosts)+1), Region: region, Settings: func(s *config.Settings) { s.Timing = p.scenario.Timing }}
	r := p.region(region)
	at.Access = r.Access
	if r.Skew > 0 {
		at.Skew = time.Duration(p.world.rand.Int64N(int64(2*r.Skew)+1)) - r.Skew
	}
	if r.NAT == natNone {
		at.Addrs = []netip.Addr{p.topology.nextPublic()}
		return p.world.AddHost(at)
	}
	at.Behind = p.topology.lans[region]
	if r.LAN {
		at.LAN = region
	}
	if at.Behind == nil || !r.LAN {
		c := natConfig(r.NAT)
		c.External, c.Seed = p.topology.nextPublic(), p.world.rand.Uint64()
		at.Behind = p.world.AddNAT(region, at.Name, c)
		if r.LAN {
			p.topology.lans[region] = at.Behind
		}
	}
	at.Addrs = []netip.Addr{p.topology.nextPrivate(at.Behind)}
	return p.world.AddHost(at)
}

func (p *play) region(name string) Region {
	for _, r := range p.scenario.Regions {
		if r.Name == name {
			return r
		}
	}
	panic("sim: no region " + name) // the parser has looked
}

// freshAddr is another address for a machine, of the network that it is in.
func (p *play) freshAddr(h *Host) netip.Addr {
	if h.at.Behind != nil {
		return p.topology.nextPrivate(h.at.Behind)
	}
	return p.topology.nextPublic()
}

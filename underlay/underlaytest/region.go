package underlaytest

import (
	"fmt"
	"net/netip"
)

// Region is a part of the internet. What is in one, and in none, is near each other; the ways between are set with [Network.SetWay].
// A host that has a way of its own to another is in a region of its own.
type Region struct{ name string }

// Name is what the region was asked for by.
func (r *Region) Name() string { return r.name }

// Region returns the region of a name, a new one if there is none.
func (n *Network) Region(name string) *Region {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.regions == nil {
		n.regions = map[string]*Region{}
	}
	if n.regions[name] == nil {
		n.regions[name] = &Region{name: name}
	}
	return n.regions[name]
}

// SetWay sets the way from one region to another, in that direction only; from a region to itself, between those who are in it. nil is
// where hosts are that are in no region.
func (n *Network) SetWay(from, to *Region, cfg Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setWayLocked([2]*Region{from, to}, cfg)
}

// SetWays sets the way in both directions.
func (n *Network) SetWays(a, b *Region, cfg Link) {
	n.SetWay(a, b, cfg)
	n.SetWay(b, a, cfg)
}

// SetDefaultWay sets the ways between different regions for which SetWay is never called.
func (n *Network) SetDefaultWay(cfg Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.between = cfg
}

func (n *Network) setWayLocked(key [2]*Region, cfg Link) *link {
	if l := n.ways[key]; l != nil {
		l.set(cfg)
		return l
	}
	if n.ways == nil {
		n.ways = map[[2]*Region]*link{}
	}
	name := func(r *Region) string {
		if r == nil {
			return ""
		}
		return r.name
	}
	n.ways[key] = newLink(cfg, n.seed, fmt.Sprintf("way %q %q", name(key[0]), name(key[1])))
	return n.ways[key]
}

// wayLocked is the way that a packet takes through the internet; nil: none, it is there.
func (n *Network) wayLocked(p *packet) *link {
	if p.realm != &n.outside || len(n.ways) == 0 && n.between == (Link{}) {
		return nil
	}
	s := n.outside.stations[p.to.Addr()]
	if s == nil {
		return nil
	}
	region, lan := s.placeLocked()
	if lan != nil && lan == p.lan {
		return nil
	}
	key := [2]*Region{p.region, region}
	if l := n.ways[key]; l != nil {
		return l
	}
	if p.region == region || n.between == (Link{}) {
		return nil
	}
	return n.setWayLocked(key, n.between)
}

// LAN is a network in which all hear each other's multicasts: what is behind a NAT, or a switch with addresses of the internet.
type LAN struct {
	network *Network
	realm   *realm
	members []*Interface // in the order in which they came; guarded by network.mu
}

// LAN makes a LAN right on the internet, without a NAT.
func (n *Network) LAN() *LAN { return &LAN{network: n, realm: &n.outside} }

// Host adds a machine to the LAN.
func (l *LAN) Host(addrs ...netip.Addr) *Host { return l.network.host(l.realm, l, addrs) }

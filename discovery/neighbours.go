package discovery

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// neighboursMax bounds what a LAN can make us remember; a LAN with more members than this is found through any of them.
	neighboursMax = 64
	// perSourceMax is the same for one source address: several meshes on one host.
	perSourceMax = 8
	// neighbourLife is how long a beacon counts that is not repeated.
	neighbourLife = beaconTTL * time.Second
)

// Neighbour is a machine of the LAN, as its beacon says and as its packets come in.
type Neighbour struct {
	Beacon
	// Addrs are where it may be reached, the source of its packets first. They are hints: who is there proves itself to the control channel.
	Addrs []netip.AddrPort
	Seen  time.Time
}

// neighbourKey: who forges a beacon with another's label does so under its own address, and takes nothing away with a goodbye.
type neighbourKey struct {
	label string
	from  netip.Addr
}

// neighbours is the cache of beacons: state, event and now.
type neighbours struct {
	byKey map[neighbourKey]Neighbour
	full  uint64 // beacons left out for want of room
}

// note takes a beacon in and reports whether that changed what is known.
func (c *neighbours) note(b Beacon, from netip.Addr, on Segment, now time.Time) bool {
	key := neighbourKey{b.Label, from}
	old, known := c.byKey[key]
	if b.Bye {
		delete(c.byKey, key)
		return known
	}
	if !known && !c.room(from, now) {
		c.full++
		return false
	}
	n := Neighbour{Beacon: b, Addrs: reachable(b, from, on), Seen: now}
	c.byKey[key] = n
	return !known || old.Stage != n.Stage || old.Fingerprint != n.Fingerprint || old.Mesh != n.Mesh || !slices.Equal(old.Addrs, n.Addrs)
}

// room makes room for a newcomer among those that have expired; who is known is not pushed out by who floods.
func (c *neighbours) room(from netip.Addr, now time.Time) bool {
	same := 0
	for k, n := range c.byKey {
		if now.Sub(n.Seen) >= neighbourLife {
			delete(c.byKey, k)
		} else if k.from == from {
			same++
		}
	}
	return same < perSourceMax && len(c.byKey) < neighboursMax
}

// list returns those that count, in a stable order.
func (c *neighbours) list(now time.Time) []Neighbour {
	var out []Neighbour
	for _, n := range c.byKey {
		if now.Sub(n.Seen) < neighbourLife {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b Neighbour) int {
		if a.Label != b.Label {
			if a.Label < b.Label {
				return -1
			}
			return 1
		}
		return slices.CompareFunc(a.Addrs, b.Addrs, netip.AddrPort.Compare)
	})
	return out
}

// reachable are the addresses to try: the packet's source, unless it is link-local, which the underlay cannot use, and what the beacon
// names in this very network. An address elsewhere would let anybody point us at strangers.
func reachable(b Beacon, from netip.Addr, on Segment) []netip.AddrPort {
	var out []netip.AddrPort
	add := func(a netip.Addr) {
		to := netip.AddrPortFrom(a, b.Port)
		if usable(to) && !a.IsLinkLocalUnicast() && !a.IsLoopback() && !slices.Contains(out, to) {
			out = append(out, to)
		}
	}
	add(from)
	for _, a := range b.Addrs {
		if on.contains(a) {
			add(a)
		}
	}
	return out
}

// contains reports whether an address is of the segment's network.
func (s Segment) contains(a netip.Addr) bool {
	return slices.ContainsFunc(s.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

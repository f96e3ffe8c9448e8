package policy

import (
	"net/netip"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Matcher is a policy compiled for one node, immutable.
type Matcher struct {
	Own   []netip.Addr             // the node's overlay addresses
	Peers map[netip.Addr]PeerRules // by the peer's overlay address
	Sets  int                      // different sets of services among them
}

// PeerRules are what may pass between this node and one address of a peer.
type PeerRules struct {
	ID      identity.NodeID
	In, Out *Services // what the peer may open here, what this node may open there
}

// Compile makes the matcher of the node self. A node that is not among the members, or an address that is of none of them, may nothing.
func Compile(p *Policy, self identity.NodeID, members []Member) *Matcher {
	m := &Matcher{Peers: make(map[netip.Addr]PeerRules, 2*len(members))}
	var us *Member
	for i := range members {
		if members[i].ID == self {
			us = &members[i]
			m.Own = us.Addresses
		}
	}
	if us == nil {
		return m
	}
	s := newSides(p)
	sets := internedSets{rules: p.Rules, known: map[string]*Services{}}
	common := newBits(len(p.Rules))
	for _, own := range us.Addresses {
		ourFrom, ourTo := s.from.match(us, own), s.to.match(us, own)
		for i := range members {
			peer := &members[i]
			theirs, ok := peer.address(own.Is4())
			if !ok || peer == us {
				continue
			}
			m.Peers[theirs] = PeerRules{ID: peer.ID,
				In:  sets.get(s.from.match(peer, theirs).and(ourTo, common)),
				Out: sets.get(s.to.match(peer, theirs).and(ourFrom, common))}
		}
	}
	m.Sets = len(sets.known)
	return m
}

// internedSets makes one set of services for all pairs with the same rules: a mesh has thousands of pairs and a handful of roles.
type internedSets struct {
	rules []Rule
	known map[string]*Services
	key   []byte
}

func (c *internedSets) get(which bits) *Services {
	c.key = which.append(c.key[:0])
	if s, ok := c.known[string(c.key)]; ok {
		return s
	}
	s := newServices(c.rules, which)
	c.known[string(c.key)] = s
	return s
}

package decide

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// wrap plants a bug in one decider.
func wrap(name string, wrong func(*coordinator.State, coordinator.Observation, []coordinator.Proposal) []coordinator.Proposal) bugs {
	return bugs{decider: func(list []coordinator.Decider) []coordinator.Decider {
		for i, d := range list {
			if d.Name == name {
				list[i].Decide = func(s *coordinator.State, o coordinator.Observation) []coordinator.Proposal {
					return wrong(s, o, d.Decide(s, o))
				}
			}
		}
		return list
	}}
}

// mute plants a decider that never decides.
func mute(name string) bugs {
	return wrap(name, func(*coordinator.State, coordinator.Observation, []coordinator.Proposal) []coordinator.Proposal {
		return nil
	})
}

// always plants a proposal.
func always(name string, make func(*coordinator.State, coordinator.Observation) (coordinator.Proposal, bool)) bugs {
	return wrap(name, func(s *coordinator.State, o coordinator.Observation, list []coordinator.Proposal) []coordinator.Proposal {
		if p, ok := make(s, o); ok {
			return append(list, p)
		}
		return list
	})
}

// otherVoter is one that is not the leader.
func otherVoter(o coordinator.Observation) (identity.NodeID, bool) {
	for _, id := range o.Voters {
		if id != o.Self {
			return id, true
		}
	}
	return identity.NodeID{}, false
}

// when does something wrong to the group, once, after a minute, as soon as it can be.
func when(wrong func(*group) bool) bugs {
	return bugs{tick: func(g *group) {
		if g.now > time.Minute && g.broken == false {
			g.broken = wrong(g)
		}
	}}
}

func TestGroupCheckersCatch(t *testing.T) {
	calls := 0
	two := func(g *group) []*coordinator.Member {
		return slices.DeleteFunc(slices.Clone(g.ledger.State().Members), func(m *coordinator.Member) bool { return m.Status != coordinator.Active })
	}
	for rule, b := range map[string]bugs{
		"same input, same decision": always("renewal", func(_ *coordinator.State, o coordinator.Observation) (coordinator.Proposal, bool) {
			calls++
			return coordinator.Proposal{Action: coordinator.Reissue, Node: o.Self}, calls%2 == 0
		}),
		"deciders are pure": always("renewal", func(_ *coordinator.State, o coordinator.Observation) (coordinator.Proposal, bool) {
			delete(o.Alive, o.Self)
			return coordinator.Proposal{}, false
		}),
		"revoked means out": always("renewal", func(s *coordinator.State, _ coordinator.Observation) (coordinator.Proposal, bool) {
			for _, m := range s.Members {
				if m.Status == coordinator.Revoked {
					return coordinator.Proposal{Action: coordinator.Reissue, Node: m.ID}, true
				}
			}
			return coordinator.Proposal{}, false
		}),
		"only who caught up votes": wrap("voters", func(s *coordinator.State, o coordinator.Observation, list []coordinator.Proposal) []coordinator.Proposal {
			for i, p := range list {
				if p.Action == coordinator.Stage {
					list[i].Action = coordinator.Promote
				}
			}
			return list
		}),
		"one change at a time": always("voters", func(_ *coordinator.State, o coordinator.Observation) (coordinator.Proposal, bool) {
			return coordinator.Proposal{Action: coordinator.RemoveVoter, Node: o.Self}, true
		}),
		"no proposal loses the quorum": wrap("voters", func(s *coordinator.State, o coordinator.Observation, list []coordinator.Proposal) []coordinator.Proposal {
			id, ok := otherVoter(o)
			if _, alive := o.Alive[id]; ok && alive && len(o.Voters) == 3 && len(o.Gone) > 0 {
				return []coordinator.Proposal{{Action: coordinator.RemoveVoter, Node: id}}
			}
			return list
		}),
		"a region is coordinated by one of its own": wrap("regions", func(s *coordinator.State, o coordinator.Observation, list []coordinator.Proposal) []coordinator.Proposal {
			for i := range list {
				list[i].Node = o.Self
			}
			return list
		}),
		"one coordinator per region and term": when(func(g *group) bool {
			for at := range g.elected {
				g.elected[at] = identity.NodeID{1}
			}
			return len(g.elected) > 0
		}),
		"one lease per address": when(func(g *group) bool {
			m := two(g)
			if len(m) > 1 {
				m[0].Certificate.IPv4 = m[1].Certificate.IPv4
			}
			return len(m) > 1
		}),
		"one name per member": when(func(g *group) bool {
			m := two(g)
			if len(m) > 1 {
				m[0].Certificate.Name = m[1].Certificate.Name
			}
			return len(m) > 1
		}),
		"an invitation admits as many as it says": when(func(g *group) bool {
			for _, t := range g.tokens {
				t.uses = 0
			}
			return len(g.tokens) > 0
		}),
		"audit chain": when(func(g *group) bool {
			var b bytes.Buffer
			must(g.ledger, g.ledger.Encode(&b))
			other := must(coordinator.DecodeLedger(&b))
			other.Apply(must(g.author(g.leader).Cancel(identity.NodeID{1}, "another story")), uint64(len(g.log)+1))
			g.audited = other.Audit()
			return true
		}),
		"replicas agree": {apply: func(follower bool, c coordinator.Command) coordinator.Command {
			if follower {
				c.Time++
			}
			return c
		}},
		"acknowledged decisions survive": when(func(g *group) bool {
			m := g.byID[g.voters[0]]
			m.have--
			g.lead(m)
			return true
		}),
		"no panic": when(func(*group) bool { panic("planted") }),
		"a healed group decides": when(func(g *group) bool {
			for i, m := range g.machines {
				m.ruined, m.up = i > 0, i == 0
			}
			return len(g.voters) > 1
		}),
		"deciders come to rest": always("renewal", func(_ *coordinator.State, o coordinator.Observation) (coordinator.Proposal, bool) {
			return coordinator.Proposal{Action: coordinator.RemoveVoter, Node: identity.NodeID{1}}, o.Now.UnixMilli()%20_000 < 2_000
		}),
		"a lost voter is replaced": wrap("voters", func(_ *coordinator.State, o coordinator.Observation, list []coordinator.Proposal) []coordinator.Proposal {
			return slices.DeleteFunc(list, func(p coordinator.Proposal) bool { return p.Action == coordinator.RemoveVoter })
		}),
		"voters are issuers": {decider: func(list []coordinator.Decider) []coordinator.Decider {
			list = mute("issuers").decider(list)
			return always("voters", func(s *coordinator.State, o coordinator.Observation) (coordinator.Proposal, bool) {
				for _, m := range s.Members {
					if m.Status == coordinator.Active && !slices.Contains(append(o.Staged, o.Voters...), m.ID) && len(o.Voters) == 1 {
						return coordinator.Proposal{Action: coordinator.Stage, Node: m.ID}, true
					}
				}
				for _, id := range o.Staged {
					if len(o.Voters) < 3 && o.CaughtUp[id] {
						return coordinator.Proposal{Action: coordinator.Promote, Node: id}, true
					}
				}
				return coordinator.Proposal{}, false
			}).decider(list)
		}},
		"one, three or five voters":   mute("voters"),
		"the gossip key changes":      mute("keyring"),
		"every region is coordinated": mute("regions"),
	} {
		t.Run(rule, func(t *testing.T) { caught(t, "group", rule, b) })
	}
}

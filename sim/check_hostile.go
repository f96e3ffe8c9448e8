package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/peer"
)

// bounded: nothing in a node grows beyond what bounds it, whatever is sent to it.
type bounded struct{ alwaysLive }

// routinesMax is the goroutines of one node, on average over all nodes of the process: some 250 at rest, and a few for each stream of others,
// which hold about half of these bounds when a member floods.
const routinesMax = 2500

func (*bounded) Name() string    { return "bounded" }
func (*bounded) Promise() string { return "no queue or table of a node holds more than its bound" }
func (*bounded) Safe(v *View) (out []string) {
	for _, n := range v.Nodes {
		for _, u := range n.Held {
			if u.Now > u.Max {
				out = append(out, fmt.Sprintf("%s holds %d of %s, at most %d are allowed", n.Host, u.Now, u.Of, u.Max))
			}
		}
	}
	if most := routinesMax * max(len(v.Nodes), 1); v.Routines > most {
		out = append(out, fmt.Sprintf("%d goroutines for %d nodes, at most %d are allowed", v.Routines, len(v.Nodes), most))
	}
	return out
}

// truthful: what nodes hold of others is what these said themselves, whoever says otherwise.
type truthful struct {
	said   map[string]map[uint64]peer.Record // by node ID and sequence, what it was seen to say itself
	voters map[string]bool                   // who has ever called itself one
}

func newTruthful() *truthful {
	return &truthful{said: map[string]map[uint64]peer.Record{}, voters: map[string]bool{}}
}

func (*truthful) Name() string { return "no-forgery" }
func (*truthful) Promise() string {
	return "nobody is believed to have said what he did not, and nobody but the mesh makes members and coordinators"
}

// saidMax bounds what is remembered of one node.
const saidMax = 4096

func (c *truthful) learn(v *View) {
	for _, n := range v.Nodes {
		id := n.Status.Self.ID
		if own, ok := n.Records[id]; ok && !v.Bad[id] && len(c.said[id]) < saidMax {
			if c.said[id] == nil {
				c.said[id] = map[uint64]peer.Record{}
			}
			c.said[id][own.Sequence] = own
		}
		if slices.Contains(n.Status.Coordinators.Voters, id) && !v.Bad[id] {
			for _, voter := range n.Status.Coordinators.Voters {
				c.voters[voter] = true
			}
		}
	}
}

func (c *truthful) Safe(v *View) (out []string) {
	c.learn(v)
	known := map[string]bool{}
	for _, d := range v.Decisions {
		known[d.ID] = true
	}
	for _, id := range v.Machines {
		known[id] = true
	}
	for _, n := range v.Nodes {
		if v.Bad[n.Status.Self.ID] {
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(n.Records)) {
			held := n.Records[id]
			if own, ok := c.said[id][held.Sequence]; ok && !sameRecord(own, held) {
				out = append(out, fmt.Sprintf("%s holds a record %d of %s that it never made", n.Host, held.Sequence, id))
			}
		}
		for _, m := range n.Members {
			if !known[m.ID] {
				out = append(out, fmt.Sprintf("%s lists %s (%s), whom nobody has admitted", n.Host, m.Name, m.ID))
			}
		}
		if leader := n.Status.Coordinators.Leader; leader != "" && len(c.voters) > 0 && !c.voters[leader] {
			out = append(out, fmt.Sprintf("%s takes %s for the leader, which never had a vote", n.Host, leader))
		}
	}
	return out
}

// Live: what everybody holds of everybody of its region is the newest that he said; but of who was bad, whose own lies may outlast it. Of members
// of other regions a node holds what it heard when it last had to do with them.
func (c *truthful) Live(v *View) (out []string) {
	revoked := v.revoked()
	newest, region := map[string]uint64{}, map[string]string{}
	for _, n := range v.Nodes {
		region[n.Status.Self.ID] = n.Status.Self.Region
		if own, ok := n.Records[n.Status.Self.ID]; ok {
			newest[n.Status.Self.ID] = own.Sequence
		}
	}
	for _, n := range v.Nodes {
		for _, id := range slices.Sorted(maps.Keys(n.Records)) {
			_, out1 := revoked[id]
			_, out2 := revoked[n.Status.Self.ID]
			if now, ok := newest[id]; ok && region[id] == n.Status.Self.Region && !v.Bad[id] && !out1 && !out2 && n.Records[id].Sequence < now {
				out = append(out, fmt.Sprintf("%s holds an old record of %s", n.Host, id))
			}
		}
	}
	return out
}

func sameRecord(a, b peer.Record) bool {
	return a.Region == b.Region && a.StateVersion == b.StateVersion && a.Voter == b.Voter && a.Relay == b.Relay && a.Busy == b.Busy && a.NAT == b.NAT &&
		slices.Equal(a.Endpoints, b.Endpoints) && slices.Equal(a.Relays, b.Relays)
}

// buriedAfter is how long a node that runs, and that nothing but lies is done to, may be held for dead without a break. It refutes within a
// second of hearing it; the next look comes after ten.
const buriedAfter = 45 * time.Second

// unburied: who runs is not held for dead for good.
type unburied struct {
	since map[[2]string]time.Duration // by who says so and of whom: the first look that saw it, with no other in between
}

func newUnburied() *unburied { return &unburied{since: map[[2]string]time.Duration{}} }

func (*unburied) Name() string    { return "nobody-buried" }
func (*unburied) Promise() string { return "who runs and can be reached is not held for dead for long" }

func (c *unburied) Safe(v *View) (out []string) {
	still := map[[2]string]time.Duration{}
	for _, pair := range buried(v) {
		begun, ok := c.since[pair]
		if !ok || v.Calm < buriedAfter {
			begun = v.At
		}
		still[pair] = begun
		if v.At-begun >= buriedAfter {
			out = append(out, fmt.Sprintf("%s holds %s for dead, which runs", pair[0], pair[1]))
		}
	}
	c.since = still
	return out
}

func (c *unburied) Live(v *View) (out []string) {
	for _, pair := range buried(v) {
		out = append(out, fmt.Sprintf("%s holds %s for dead, which runs", pair[0], pair[1]))
	}
	return out
}

// buried are the pairs of which the first does not hold the second for alive, although both run and are members.
func buried(v *View) (out [][2]string) {
	revoked := v.revoked()
	runs := map[string]string{}
	for _, n := range v.Nodes {
		if _, gone := revoked[n.Status.Self.ID]; !gone && !v.Bad[n.Status.Self.ID] && n.Status.Self.ID != "" {
			runs[n.Status.Self.ID] = n.Host
		}
	}
	for _, n := range v.Nodes {
		if runs[n.Status.Self.ID] == "" {
			continue
		}
		for _, p := range n.Status.Peers {
			if host, ok := runs[p.ID]; ok && p.State != "alive" {
				out = append(out, [2]string{n.Host, host})
			}
		}
	}
	return out
}

// steady: while nothing but members gone bad disturbs the mesh, two honest machines that have a tunnel keep it.
type steady struct{ alwaysLive }

func (*steady) Name() string { return "tunnels-hold" }
func (*steady) Promise() string {
	return "a member gone bad interrupts no tunnel of which it is not an end, but for a moment if it relayed it"
}
func (*steady) Safe(v *View) (out []string) {
	for _, pair := range v.Lost {
		out = append(out, fmt.Sprintf("%s did not reach %s for %s while nothing but members gone bad disturbed the mesh", pair[0], pair[1], steadyFor))
	}
	return out
}

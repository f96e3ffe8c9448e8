package decide

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// decide asks a decider: and again, with maps that were filled in another order, when it has something to say, and now and then. It must say
// the same, and leave alone what it sees.
func (g *group) decide(d coordinator.Decider, o coordinator.Observation) []coordinator.Proposal {
	s := g.ledger.State()
	g.asked++
	before := o
	if g.asked%16 == 0 {
		before = clone(o)
	}
	first := d.Decide(s, o)
	if g.asked%16 == 0 && !reflect.DeepEqual(before, o) {
		g.fail("deciders are pure", "%s changed what it was shown", d.Name)
	}
	if len(first) > 0 || g.asked%16 == 0 {
		again := d.Decide(s, clone(o))
		if !slices.Equal(first, again) {
			g.fail("same input, same decision", "%s: %s, then %s", d.Name, g.show(first), g.show(again))
		}
	}
	g.checkProposals(d.Name, first, o)
	return first
}

func clone(o coordinator.Observation) coordinator.Observation {
	o.Voters, o.Staged = slices.Clone(o.Voters), slices.Clone(o.Staged)
	o.Alive, o.Gone, o.CaughtUp = maps.Clone(o.Alive), maps.Clone(o.Gone), maps.Clone(o.CaughtUp)
	o.Silent, o.Yielding = maps.Clone(o.Silent), maps.Clone(o.Yielding)
	o.PoorSince, o.Offers = maps.Clone(o.PoorSince), maps.Clone(o.Offers)
	o.Poor, o.Unwilling, o.Holds = maps.Clone(o.Poor), maps.Clone(o.Unwilling), maps.Clone(o.Holds)
	return o
}

func (g *group) show(list []coordinator.Proposal) string {
	var out []string
	for _, p := range list {
		out = append(out, fmt.Sprintf("%s %s%s", p.Action, g.name(p.Node), forRegion(p)))
	}
	return fmt.Sprint(out)
}

// checkProposals looks at what one decider wants at once.
func (g *group) checkProposals(by string, list []coordinator.Proposal, o coordinator.Observation) {
	s, changes := g.ledger.State(), 0
	for _, p := range list {
		switch p.Action {
		case coordinator.Stage, coordinator.Promote, coordinator.RemoveVoter, coordinator.Transfer:
			changes++
		}
		switch p.Action {
		case coordinator.Stage, coordinator.Promote, coordinator.SignIssuer, coordinator.Reissue:
			if !s.Active(p.Node) {
				g.fail("revoked means out", "%s wants to %s %s, who is no member", by, p.Action, g.name(p.Node))
			}
		}
		switch p.Action {
		case coordinator.ElectRegion:
			g.checkElection(p, o)
		case coordinator.AppointRelay:
			_, alive := o.Alive[p.Node]
			if _, offers := o.Offers[p.Node]; !offers || !alive || !s.Active(p.Node) {
				g.fail("a relay is a member that offers to", "%s is to relay for %s; alive %v, offers %v", g.name(p.Node), p.Region, alive, offers)
			}
		case coordinator.Promote:
			if !slices.Contains(o.Staged, p.Node) || !o.CaughtUp[p.Node] {
				g.fail("only who caught up votes", "%s is promoted behind the log", g.name(p.Node))
			}
			g.checkQuorum(o, append(without(o.Voters, p.Node), p.Node))
		case coordinator.RemoveVoter:
			if p.Node == o.Self {
				g.fail("one change at a time", "the leader removes itself")
			}
			if slices.Contains(o.Voters, p.Node) {
				g.checkQuorum(o, without(o.Voters, p.Node))
			}
		}
	}
	if changes > 1 {
		g.fail("one change at a time", "%s changes the group %d times at once: %s", by, changes, g.show(list))
	}
}

// checkElection: who is to coordinate a region is a member of it that the leader sees.
func (g *group) checkElection(p coordinator.Proposal, o coordinator.Observation) {
	if p.Node.IsZero() {
		return
	}
	_, alive := o.Alive[p.Node]
	s := g.ledger.State()
	if !s.Active(p.Node) || s.RegionOf(p.Node) != p.Region || !alive || o.Silent[p.Node] || o.Yielding[p.Node] {
		g.fail("a region is coordinated by one of its own", "%s is to coordinate %s; alive %v, silent %v, goes %v", g.name(p.Node), p.Region, alive,
			o.Silent[p.Node], o.Yielding[p.Node])
	}
}

// checkRegions: in one term a region has one coordinator, and never another.
func (g *group) checkRegions() {
	for _, r := range g.ledger.State().Regions.List {
		at := office{r.Name, r.Term}
		if before, ok := g.elected[at]; ok && before != r.Coordinator {
			g.fail("one coordinator per region and term", "%s in term %d: %s, then %s", r.Name, r.Term, g.name(before), g.name(r.Coordinator))
		}
		g.elected[at] = r.Coordinator
	}
}

// checkQuorum: with the voters that a proposal leads to, those whom the leader sees alive are a majority.
func (g *group) checkQuorum(o coordinator.Observation, voters []identity.NodeID) {
	living := 0
	for _, id := range voters {
		if _, ok := o.Alive[id]; ok && g.ledger.State().Active(id) {
			living++
		}
	}
	if living <= len(voters)/2 {
		g.fail("no proposal loses the quorum", "%d of the voters %s would be alive", living, g.names(voters))
	}
}

// checkGroup looks at a configuration that has just come into force.
func (g *group) checkGroup(before []identity.NodeID) {
	diff := 0
	for _, id := range slices.Concat(before, g.voters) {
		if slices.Contains(before, id) != slices.Contains(g.voters, id) {
			diff++
		}
	}
	if diff > 1 {
		g.fail("one change at a time", "voters %s become %s", g.names(before), g.names(g.voters))
	}
	if n := len(g.voters); n == 0 || n > 6 { // the sixth is about to relieve one of the five
		g.fail("one, three or five voters", "there are %d: %s", n, g.names(g.voters))
	}
}

// checkLedger looks at the ledger after a command.
func (g *group) checkLedger() {
	s := g.ledger.State()
	leases, names, used := map[netip.Addr]identity.NodeID{}, map[string]identity.NodeID{}, map[string]uint32{}
	for _, m := range s.Members {
		if m.Invitation != "" {
			used[m.Invitation]++
		}
		if m.Status != coordinator.Active {
			if s.MaySpeakRaft(m.ID, m.Since) {
				g.fail("revoked means out", "%s may still coordinate", g.name(m.ID))
			}
			continue
		}
		if other, ok := leases[m.Certificate.IPv4]; ok {
			g.fail("one lease per address", "%s and %s have %s", g.name(other), g.name(m.ID), m.Certificate.IPv4)
		}
		if other, ok := names[m.Certificate.Name]; ok {
			g.fail("one name per member", "%s and %s are called %s", g.name(other), g.name(m.ID), m.Certificate.Name)
		}
		leases[m.Certificate.IPv4], names[m.Certificate.Name] = m.ID, m.ID
	}
	for _, t := range g.tokens {
		if used[t.id] > t.uses {
			g.fail("an invitation admits as many as it says", "%s admitted %d, it has %d uses", t.id, used[t.id], t.uses)
		}
	}
	g.checkRegions()
	g.checkAudit()
}

// checkAudit: every command is one entry more, and what was there is not touched.
func (g *group) checkAudit() {
	a := g.ledger.Audit()
	if err := a.Verify(); err != nil {
		g.fail("audit chain", "%v", err)
	}
	if a.Count() < g.audited.Count() {
		g.fail("audit chain", "%d entries, there were %d", a.Count(), g.audited.Count())
	}
	if n := g.audited.Count(); n > 0 {
		was, _ := g.audited.HeadAt(n)
		if is, ok := a.HeadAt(n); !ok || is != was {
			g.fail("audit chain", "entry %d is another than it was", n)
		}
	}
	g.audited = a
}

// checkReplicas: both ledgers have applied the same log, and must be the same.
func (g *group) checkReplicas() {
	var a, b bytes.Buffer
	if err := g.ledger.Encode(&a); err != nil {
		g.fail("replicas agree", "%v", err)
	}
	if err := g.follower.Encode(&b); err != nil {
		g.fail("replicas agree", "%v", err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) || g.ledger.State().Digest() != g.follower.State().Digest() {
		g.fail("replicas agree", "two voters that applied the same %d entries differ", len(g.log))
	}
	d := g.ledger.State().Digest()
	g.note("state %x", d[:8])
}

// settle is the liveness phase: with no more faults the group gets a leader, then its full strength, then rest.
func (g *group) settle() {
	bound := g.now + g.timing.Shrink + g.timing.Grace + 2*g.timing.Stable + 3*time.Minute
	const quietTicks = 12
	g.quiet = 0
	for g.now < bound && (g.quiet < quietTicks || !g.can() || g.now-g.busy < g.timing.Stable+g.timing.Grace+g.timing.Shrink) {
		g.until(g.now + 5*time.Second)
	}
	switch {
	case !g.can() && !g.parents():
		g.note("all who could make issuers were revoked or are gone, and the group with them: a person has to bring the root key")
		return
	case !g.can():
		g.fail("a healed group decides", "nobody leads %s after the bound", g.names(g.voters))
	case g.quiet < quietTicks:
		g.fail("deciders come to rest", "there are still proposals after the bound; voters %s", g.names(g.voters))
	}
	g.checkRest()
	g.followUp()
}

// parents tells whether somebody is left who can make issuers. If all were revoked, a person has to bring the root key.
func (g *group) parents() bool {
	return slices.ContainsFunc(g.members(), func(m *machine) bool {
		member, _ := g.ledger.State().Issuer(m.id)
		return m.up && (m == g.machines[0] || member != nil && member.Depth >= certificate.DepthParent)
	})
}

// checkRest looks at what the group has come to.
func (g *group) checkRest() {
	s, able, parents, now := g.ledger.State(), 0, g.parents(), g.clock(g.leader)
	for _, m := range g.members() {
		if m.up && (parents || s.MaySpeakRaft(m.id, now)) {
			able++
		}
	}
	for _, id := range g.voters {
		m := g.byID[id]
		if !s.Active(id) {
			g.fail("revoked means out", "%s still votes", m.name)
		}
		if !m.up && able >= 3 {
			g.fail("a lost voter is replaced", "%s votes, and is gone for good; %d members are able", m.name, able)
		}
		if parents && !s.MaySpeakRaft(id, now) {
			g.fail("voters are issuers", "%s votes, and has no issuer certificate", m.name)
		}
	}
	for _, m := range g.members() {
		if !m.up {
			continue
		}
		region := s.RegionOf(m.id)
		if id, _, ok := s.RegionCoordinator(region); !ok || !g.byID[id].up {
			g.fail("every region is coordinated", "%s, where %s is, has no coordinator that is there (%s)", region, m.name, g.name(id))
		}
	}
	want := coordinator.VotersFor(able)
	if !parents && len(g.voters)%2 == 1 {
		want = len(g.voters) // voters that are issuers no longer are heard by nobody, and nobody makes others: a person has to bring the root key
	}
	if len(g.voters) != want && !(able == 2 && len(g.voters) == 3) {
		g.fail("one, three or five voters", "%d vote, %d should: %s", len(g.voters), want, g.names(g.voters))
	}
	if len(s.Keyring.Keys) != 1 {
		g.fail("the gossip key changes", "%d gossip keys at rest", len(s.Keyring.Keys))
	}
	for _, m := range s.Members {
		if m.Status != coordinator.Active && m.Version > s.Keyring.Version {
			g.fail("the gossip key changes", "%s is out and knows the gossip key", g.name(m.ID))
		}
	}
}

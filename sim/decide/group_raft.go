package decide

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// heard are the voters of a configuration that a leader reaches: those it does not know to be revoked, itself too.
func (g *group) heard(by *machine, voters []identity.NodeID) []*machine {
	var out []*machine
	for _, id := range voters {
		if m := g.byID[id]; g.reaches(by, m) && (m == by || g.ledger.State().Active(id)) {
			out = append(out, m)
		}
	}
	return out
}

func (g *group) majority(by *machine, voters []identity.NodeID) bool {
	return len(g.heard(by, voters)) > len(voters)/2
}

// append replicates a command if the leader has a majority, and applies it.
func (g *group) append(c coordinator.Command) (coordinator.Result, bool) {
	if g.leader == nil || !g.leader.up || !g.majority(g.leader, g.voters) {
		g.note("%v is not replicated: no majority", c.Kind)
		return coordinator.Result{}, false
	}
	g.log = append(g.log, c)
	g.spread()
	res := g.applyTo(g.ledger, len(g.log))
	outcome := "done"
	if err := res.Err(); err != nil {
		outcome = err.Error()
	}
	g.note("entry %d %v for %s: %s", len(g.log), c.Kind, g.name(c.Asker), outcome)
	g.busy = g.now
	g.checkLedger()
	if c.Kind == coordinator.KindRevoke {
		g.tickIn(10 * time.Millisecond) // coordinator's wake
	}
	return res, true
}

func (g *group) applyTo(l *coordinator.Ledger, index int) coordinator.Result {
	c := g.log[index-1]
	if c.Kind == 0 {
		return coordinator.Result{}
	}
	if g.bugs.apply != nil {
		c = g.bugs.apply(l == g.follower, c)
	}
	return l.Apply(c, uint64(index))
}

// spread gives the log to a majority at least.
func (g *group) spread() {
	heard := g.heard(g.leader, g.voters)
	need := len(g.voters)/2 + 1
	for i, m := range heard {
		if i < need || m == g.leader || chance(g.net, 0.9) {
			m.have = uint64(len(g.log))
		}
	}
	g.leader.have = uint64(len(g.log))
}

// configure changes the group's configuration; the new one counts at once (hashicorp/raft, as Ongaro's thesis §4.1).
func (g *group) configure(voters, staged []identity.NodeID) bool {
	if !g.leader.up || !g.majority(g.leader, voters) {
		g.note("the change of the group is not replicated: no majority")
		return false
	}
	before := g.voters
	g.voters, g.staged = sorted(voters), sorted(staged)
	g.log = append(g.log, coordinator.Command{})
	g.spread()
	g.note("entry %d voters %s staged %s", len(g.log), g.names(g.voters), g.names(g.staged))
	g.busy = g.now
	g.checkGroup(before)
	return true
}

func sorted(ids []identity.NodeID) []identity.NodeID {
	out := slices.Clone(ids)
	slices.SortFunc(out, identity.NodeID.Compare)
	return out
}

func without(ids []identity.NodeID, id identity.NodeID) []identity.NodeID {
	return slices.DeleteFunc(slices.Clone(ids), func(x identity.NodeID) bool { return x == id })
}

// catchUp lets those behind receive what they miss, and members pull the state.
func (g *group) catchUp() {
	for _, id := range slices.Concat(g.voters, g.staged) {
		if m := g.byID[id]; g.reaches(g.leader, m) && chance(g.net, 0.7) {
			m.have = uint64(len(g.log))
		}
	}
	version := g.ledger.State().Version
	for _, m := range g.members() {
		if g.reaches(g.leader, m) && (m == g.leader || chance(g.net, 0.5)) {
			m.holds = version
		}
	}
}

// elect replaces a leader that is gone, when some voter reaches a majority.
func (g *group) elect() {
	if g.leads() {
		return
	}
	if g.now-g.lost < g.timing.Lease+2*g.timing.Election {
		return
	}
	var able []*machine
	for _, id := range g.voters {
		m := g.byID[id]
		if m.up && g.ledger.State().Active(id) && g.majority(m, g.voters) && g.upToDate(m) {
			able = append(able, m)
		}
	}
	if len(able) > 0 {
		g.lead(pick(g.net, able))
	}
}

// upToDate tells whether a majority would vote for m: its log is no shorter than theirs (Raft §5.4.1).
func (g *group) upToDate(m *machine) bool {
	votes := 0
	for _, other := range g.heard(m, g.voters) {
		if other.have <= m.have {
			votes++
		}
	}
	return votes > len(g.voters)/2
}

// leads tells whether the leader still is one: it has a majority behind it, or had until a lease ago.
func (g *group) leads() bool {
	m := g.leader
	switch {
	case m != nil && m.up && g.majority(m, g.voters) && g.isVoter(m.id):
		g.lost = 0
		return true
	case g.lost == 0:
		g.note("%s has no majority", g.leaderName())
		g.lost = g.now
	}
	return m != nil && m.up && g.isVoter(m.id) && g.now-g.lost < g.timing.Lease
}

func (g *group) isVoter(id identity.NodeID) bool { return slices.Contains(g.voters, id) }

func (g *group) leaderName() string {
	if g.leader == nil {
		return "nobody"
	}
	return g.leader.name
}

// lead makes m the leader: its ledger is the one that was behind, brought up to date.
func (g *group) lead(m *machine) {
	if m.have != uint64(len(g.log)) {
		g.fail("acknowledged decisions survive", "%s is elected with %d of %d entries", m.name, m.have, len(g.log))
	}
	g.leader, g.lost, g.busy = m, 0, g.now
	g.term++
	g.sights, g.watches, g.keyringSeen = map[identity.NodeID]*sight{}, map[identity.NodeID]time.Duration{}, -1
	g.unwilling, g.yielding = map[identity.NodeID]time.Duration{}, map[identity.NodeID]time.Duration{}
	g.note("%s leads in term %d", m.name, g.term)
	g.followUp()
	g.ledger, g.follower = g.follower, g.ledger
	g.tickIn(10 * time.Millisecond)
}

// followUp lets the other ledger apply what it misses, or take a snapshot, and compares the two.
func (g *group) followUp() {
	if g.followed == 0 && chance(g.net, 0.5) || chance(g.net, 0.2) {
		var snapshot bytes.Buffer
		if err := g.ledger.Encode(&snapshot); err != nil {
			g.fail("replicas agree", "the snapshot does not encode: %v", err)
		}
		l, err := coordinator.DecodeLedger(&snapshot)
		if err != nil {
			g.fail("replicas agree", "the snapshot does not decode: %v", err)
		}
		g.follower, g.followed = l, len(g.log)
	}
	for g.followed < len(g.log) {
		g.followed++
		g.applyTo(g.follower, g.followed)
	}
	g.checkReplicas()
}

// tickIn schedules the leader's next look at the mesh, in place of the one that was scheduled.
func (g *group) tickIn(d time.Duration) {
	g.ticks++
	mine := g.ticks
	g.after(d, func() {
		if mine == g.ticks {
			g.tick()
		}
	})
}

// tick is coordinator's steer and lead: look, decide, carry out; again soon if something was decided.
func (g *group) tick() {
	g.elect()
	if !g.leads() {
		g.tickIn(g.timing.Tick)
		return
	}
	if g.bugs.tick != nil {
		g.bugs.tick(g)
	}
	g.look()
	g.catchUp()
	o := g.observation()
	decided := 0
	for _, d := range g.deciders {
		for i, p := range g.decide(d, o) {
			if i == 8 || g.leader == nil || g.leader.id != o.Self || !g.carryOut(d.Name, p) {
				break
			}
			decided++
		}
	}
	switch {
	case decided > 0:
		g.quiet = 0
		g.tickIn(10 * time.Millisecond)
	case g.now-g.busy < 5*time.Second:
		g.quiet++
		g.tickIn(g.timing.Tick)
	default: // nothing but the passing of time can change what is decided
		g.quiet++
		g.tickIn(4 * g.timing.Tick)
	}
}

func (g *group) carryOut(by string, p coordinator.Proposal) bool {
	g.note("%s: %s %s%s (%s)", by, p.Action, g.name(p.Node), forRegion(p), p.Why)
	switch p.Action {
	case coordinator.ElectRegion:
		res, ok := g.append(must(g.author(g.leader).Region(p)))
		return ok && (res.Err() == nil || res.Refused != nil && res.Refused.Code == "conflict")
	case coordinator.AppointRelay, coordinator.DismissRelay:
		res, ok := g.append(must(g.author(g.leader).Relay(p)))
		return ok && (res.Err() == nil || res.Refused != nil && res.Refused.Code == "conflict")
	case coordinator.SignIssuer:
		return g.grantIssuer(p)
	case coordinator.Stage:
		g.byID[p.Node].have = 0
		return g.configure(g.voters, append(without(g.staged, p.Node), p.Node))
	case coordinator.Promote:
		return g.configure(append(without(g.voters, p.Node), p.Node), without(g.staged, p.Node))
	case coordinator.RemoveVoter:
		return g.configure(without(g.voters, p.Node), without(g.staged, p.Node))
	case coordinator.Transfer:
		if m := g.byID[p.Node]; g.reaches(g.leader, m) && m.have == uint64(len(g.log)) {
			g.lead(m)
			return true
		}
		return false
	case coordinator.Reissue:
		m, ok := g.ledger.State().Member(p.Node)
		return ok && g.commit(must(g.author(g.leader).Reissue(m, identity.NodeID{}, "renewed", func(*certificate.Member) {})))
	case coordinator.AnnounceKey, coordinator.UseKey:
		return g.commit(must(g.author(g.leader).Keyring(g.ledger.State(), p.Action == coordinator.AnnounceKey)))
	}
	panic(mistake("no model of the action " + string(p.Action)))
}

func forRegion(p coordinator.Proposal) string {
	switch p.Action {
	case coordinator.ElectRegion:
	case coordinator.AppointRelay, coordinator.DismissRelay:
		return " for " + p.Region
	default:
		return ""
	}
	return fmt.Sprintf(" for %s in term %d", p.Region, p.Term)
}

// commit tells whether a command was replicated and changed something.
func (g *group) commit(c coordinator.Command) bool {
	res, ok := g.append(c)
	return ok && res.Err() == nil
}

// grantIssuer is coordinator's grantIssuer: the signer has its own clock, its own idea of who is a member, and maybe no ear.
func (g *group) grantIssuer(p coordinator.Proposal) bool {
	signer, root := g.byID[p.Signer], g.root
	member, ok := g.ledger.State().Member(p.Node)
	knows := ok && (signer == g.leader || member.Version <= signer.holds)
	if signer != g.machines[0] {
		root = nil
	}
	var voters []identity.NodeID // that the signer knows of
	if g.isVoter(signer.id) {
		voters = g.voters
	}
	knows = knows && coordinator.CountsAsCoordinator(g.ledger.State(), voters, g.leader.id, g.clock(signer))
	if !g.reaches(g.leader, signer) || !knows || chance(g.net, 0.05) {
		g.note("%s signs nothing", signer.name)
		g.unwilling[p.Signer] = g.now
		return false
	}
	raw, err := g.author(signer).SignIssuer(g.ledger.State(), p.Node, p.Depth, root)
	if err != nil {
		g.note("%s refuses to sign: %v", signer.name, err)
		g.unwilling[p.Signer] = g.now
		return false
	}
	res, ok := g.append(must(g.author(g.leader).Issuer(raw)))
	if ok && res.Err() != nil {
		g.unwilling[p.Signer] = g.now
	}
	return ok && (res.Err() == nil || res.Refused != nil && res.Refused.Code == "conflict")
}

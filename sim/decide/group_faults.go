package decide

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/invitation"
)

// groupFaults are what happens to a mesh, with how often.
var groupFaults = []struct {
	weight int
	do     func(*group, *rand.Rand)
}{
	{30, (*group).joins},
	{8, (*group).race},
	{20, (*group).goesDown},
	{8, (*group).splits},
	{8, (*group).rejoins},
	{7, (*group).isRevoked},
	{3, (*group).areRevoked},
	{4, (*group).leaves},
	{5, (*group).clockSteps},
	{2, (*group).daysPass},
	{4, (*group).isRenamed},
	{4, (*group).forges},
	{4, (*group).leadershipMoves},
	{3, (*group).natChanges},
	{5, (*group).moves},
	{3, (*group).yields},
}

// schedule draws what will happen before end. The mesh first gets some members.
func (g *group) schedule(end time.Duration) {
	joins := g.random.IntN(machinesMax)
	if g.nodes > 0 {
		joins = g.nodes - 1
	}
	for range joins {
		g.fault(between(g.random, 0, 20*time.Second), func(r *rand.Rand) { g.joins(r) })
	}
	total := 0
	for _, f := range groupFaults {
		total += f.weight
	}
	for range 5 + g.random.IntN(25) {
		at, n := between(g.random, 5*time.Second, end), g.random.IntN(total)
		for _, f := range groupFaults {
			if n -= f.weight; n < 0 {
				g.fault(at, func(r *rand.Rand) { f.do(g, r) })
				break
			}
		}
	}
}

// can tells whether the mesh can decide now.
func (g *group) can() bool { return g.leader != nil && g.leader.up && g.majority(g.leader, g.voters) }

// newcomer is a machine that was never a member.
func (g *group) newcomer() *machine {
	for _, m := range g.machines {
		if _, known := g.ledger.State().Member(m.id); !known {
			return m
		}
	}
	return nil
}

// someone is an active member, nil if none fits.
func (g *group) someone(r *rand.Rand, fits func(*machine) bool) *machine {
	list := slices.DeleteFunc(g.members(), func(m *machine) bool { return !fits(m) })
	if len(list) == 0 {
		return nil
	}
	return pick(r, list)
}

func anyone(*machine) bool { return true }

// invite makes an invitation in the ledger.
func (g *group) invite(r *rand.Rand, uses uint32) *token {
	by := g.someone(r, anyone)
	if by == nil || !g.can() {
		return nil
	}
	t := &token{id: fmt.Sprintf("%016x", len(g.tokens)+1), uses: uses}
	_, _ = (&reader{r}).Read(t.key[:])
	inv := coordinator.Invitation{ID: t.id, Key: t.key, Uses: uses, Expires: g.clock(g.leader).Add(between(r, time.Second, 24*time.Hour))}
	if !g.commit(must(g.author(g.leader).Invite(by.id, inv))) {
		return nil
	}
	g.tokens = append(g.tokens, t)
	return t
}

// enroll has a machine ask to be admitted; its answer may be lost, then it asks again.
func (g *group) enroll(r *rand.Rand, m *machine, t *token) {
	if !g.can() || !m.up {
		return
	}
	mesh := g.ledger.State().Mesh.ID
	raw := must(invitation.SignRequest(m.key, invitation.Request{Mesh: mesh, Name: pick(r, []string{m.name, "twin"}), Region: m.region, Invitation: t.id,
		Proof: invitation.Proof(t.key, mesh, m.id), Time: g.clock(m)}))
	command, known, err := g.author(g.leader).Enroll(g.ledger, g.leader.id, raw)
	switch {
	case err != nil:
		g.note("%s is not admitted: %v", m.name, err)
	case known != nil:
		g.note("%s is in already", m.name)
	case g.commit(command):
		m.holds = 0
	}
	if chance(r, 0.1) {
		g.after(between(r, time.Millisecond, 5*time.Second), func() { g.enroll(r, m, t) })
	}
}

func (g *group) joins(r *rand.Rand) {
	m := g.newcomer()
	if m == nil {
		return
	}
	if t := g.invite(r, uint32(1+r.IntN(3))); t != nil {
		g.after(between(r, time.Millisecond, 3*time.Second), func() { g.enroll(r, m, t) })
	}
}

// race lets several machines use one invitation that has fewer uses. Some of them drafted before the others were in.
func (g *group) race(r *rand.Rand) {
	t := g.invite(r, 1)
	if t == nil {
		return
	}
	var drafts []coordinator.Command
	mesh := g.ledger.State().Mesh.ID
	for _, m := range g.machines {
		if _, known := g.ledger.State().Member(m.id); known || len(drafts) == 3 {
			continue
		}
		raw := must(invitation.SignRequest(m.key, invitation.Request{Mesh: mesh, Name: m.name, Invitation: t.id,
			Proof: invitation.Proof(t.key, mesh, m.id), Time: g.clock(g.leader)}))
		if c, _, err := g.author(g.leader).Enroll(g.ledger, g.leader.id, raw); err == nil {
			drafts = append(drafts, c)
		}
	}
	for _, c := range drafts {
		g.append(c)
	}
}

func (g *group) goesDown(r *rand.Rand) {
	if m := g.someone(r, func(m *machine) bool { return m.up }); m != nil {
		m.up = false
		g.note("%s is down", m.name)
		d := between(r, 50*time.Millisecond, 30*time.Second)
		if chance(r, 0.3) {
			d *= 10
		}
		g.after(d, func() { g.comesUp(m) })
	}
}

func (g *group) comesUp(m *machine) {
	if !m.ruined && !m.up {
		m.up = true
		g.note("%s is up", m.name)
	}
}

func (g *group) splits(r *rand.Rand) {
	sides := 2 + r.IntN(2)
	byRegion := chance(r, 0.5)
	for _, m := range g.machines {
		m.side = r.IntN(sides)
		if byRegion {
			m.side = slices.Index(regions, m.region)
		}
	}
	g.note("the network splits")
	g.after(between(r, 100*time.Millisecond, 3*time.Minute), g.reunite)
}

func (g *group) rejoins(*rand.Rand) { g.reunite() }

func (g *group) reunite() {
	for _, m := range g.machines {
		m.side = 0
	}
	g.note("the network is whole")
}

// isRevoked revokes a member, on the word of another.
func (g *group) isRevoked(r *rand.Rand) {
	by, m := g.someone(r, anyone), g.someone(r, anyone)
	if by != nil && m != nil {
		g.revoke(r, by, m)
	}
}

// areRevoked revokes two at once.
func (g *group) areRevoked(r *rand.Rand) { g.isRevoked(r); g.isRevoked(r) }

func (g *group) revoke(r *rand.Rand, by, m *machine) {
	if !g.can() {
		return
	}
	if err := coordinator.MayRevoke(g.ledger.State(), g.voters, g.leader.id, m.id); err != nil {
		g.note("%s is not revoked: %v", m.name, err)
		return
	}
	c := must(g.author(g.leader).EndMembership(g.ledger.State(), by.id, certificate.Revocation{Node: m.id, Reason: "lost"}))
	if g.commit(c) && m == g.leader && chance(r, 0.5) {
		g.note("nobody listens to %s any more", m.name)
		g.leader = nil
	}
}

// leaves: a member that votes has handed its vote over before (coordinator's handover).
func (g *group) leaves(r *rand.Rand) {
	m := g.someone(r, func(m *machine) bool {
		return m.up && !slices.Contains(g.voters, m.id) && !slices.Contains(g.staged, m.id)
	})
	if m != nil && g.can() {
		g.commit(must(g.author(g.leader).EndMembership(g.ledger.State(), m.id, certificate.Revocation{Node: m.id, Reason: "left", Left: true})))
	}
}

func (g *group) clockSteps(r *rand.Rand) {
	m := pick(r, g.machines)
	m.skew = drawSkew(r)
	g.note("the clock of %s is %s off", m.name, m.skew)
}

// daysPass: everything sleeps for days, as a laptop mesh over a holiday.
func (g *group) daysPass(r *rand.Rand) {
	d := between(r, time.Hour, 25*24*time.Hour).Truncate(time.Second)
	g.slept += d
	g.note("%s pass", d)
}

func (g *group) isRenamed(r *rand.Rand) {
	m := g.someone(r, anyone)
	if m == nil || !g.can() {
		return
	}
	member, _ := g.ledger.State().Member(m.id)
	name := pick(r, []string{"twin", "nas", m.name})
	g.commit(must(g.author(g.leader).Reissue(member, m.id, "renamed", func(c *certificate.Member) { c.Name = name })))
}

// forges: a node that is out writes commands with its own key, and a traitor has them in the log. No ledger may take them.
func (g *group) forges(r *rand.Rand) {
	outcasts := slices.DeleteFunc(slices.Clone(g.machines), func(m *machine) bool {
		known, ok := g.ledger.State().Member(m.id)
		return !ok || known.Status != coordinator.Revoked
	})
	if len(outcasts) == 0 || !g.can() {
		return
	}
	forger := pick(r, outcasts)
	a := coordinator.Author{Key: forger.key, Now: g.clock(g.leader), Rand: &reader{r}}
	var c coordinator.Command
	victim, _ := g.ledger.State().Member(g.machines[r.IntN(len(g.machines))].id)
	switch {
	case victim == nil || victim.Status != coordinator.Active:
		return
	case chance(r, 0.5): // a revocation it could sign: package certificate says why (Trust.VerifyRevocation)
		c = must(a.Reissue(victim, forger.id, "forged", func(m *certificate.Member) { m.Tags = []string{"admin"} }))
	default:
		c = must(a.Issuer(must(a.SignIssuer(g.ledger.State(), victim.ID, certificate.DepthLeaf, nil))))
	}
	g.note("%s forges", forger.name)
	if res, ok := g.append(c); ok && res.Err() == nil {
		g.fail("revoked means out", "the ledger takes a command that %s signed, who was revoked", forger.name)
	}
}

func (g *group) leadershipMoves(r *rand.Rand) {
	if m := g.byID[pick(r, g.voters)]; g.can() && g.reaches(g.leader, m) && g.ledger.State().Active(m.id) && m.have == uint64(len(g.log)) && m != g.leader {
		g.lead(m)
	}
}

func (g *group) natChanges(r *rand.Rand) {
	m := pick(r, g.machines)
	m.poor, m.poorAt = !m.poor, g.now
	g.note("%s is hard to reach: %v", m.name, m.poor)
}

// moves: a member goes to another region (coordinator's executeMoveRegion).
func (g *group) moves(r *rand.Rand) {
	m := g.someone(r, anyone)
	if m == nil || !g.can() {
		return
	}
	member, _ := g.ledger.State().Member(m.id)
	m.region = pick(r, regions)
	g.commit(must(g.author(g.leader).Reissue(member, m.id, "moved", func(c *certificate.Member) { c.Region = m.region })))
}

// yields: a member that is about to stop gives up its region (coordinator's executeYield).
func (g *group) yields(r *rand.Rand) {
	m := g.someone(r, func(m *machine) bool { return m.up })
	if m == nil || !g.can() || !g.reaches(g.leader, m) {
		return
	}
	g.note("%s yields", m.name)
	g.yielding[m.id] = g.now
	g.tickIn(10 * time.Millisecond)
}

// heal ends all faults: the network is whole, clocks are right, machines are up. Few stay away for good: never so many voters that the
// rest is no majority.
func (g *group) heal() {
	g.queue = nil
	g.note("healing")
	g.reunite()
	g.slept += clockOffMax // what was signed by a clock ahead is valid by now
	for _, m := range g.machines {
		g.comesUp(m)
		m.skew = 0
	}
	for _, m := range g.machines {
		if !chance(g.random, 0.15) {
			continue
		}
		m.up = false
		healthy := false
		for _, id := range g.voters {
			v := g.byID[id]
			healthy = healthy || v.up && g.ledger.State().Active(id) && g.majority(v, g.voters)
		}
		if m.up = !healthy; healthy {
			m.ruined = true
			g.note("%s is ruined", m.name)
		}
	}
	g.busy = g.now
	g.tickIn(g.timing.Tick)
}

package coordinator

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// standsBy waits until a member without a vote holds the whole ledger and may sign.
func standsBy(l *lab, m *member) {
	l.t.Helper()
	l.eventually(30*time.Second, m.name+" stands by", func() bool {
		r, lead := m.group.current(), l.leader()
		if r == nil || lead == nil || m.group.Voting() || !m.group.State().MaySpeakRaft(m.id(), time.Now()) {
			return false
		}
		return r.raft.AppliedIndex() == lead.group.current().raft.AppliedIndex()
	})
}

func refusedWith(t *testing.T, err error, words string) {
	t.Helper()
	if r, ok := asRefused(err); !ok || !strings.Contains(r.Reason, words) {
		t.Errorf("%v, want a refusal that says %q", err, words)
	}
}

func TestTheSurvivorOfTwoRecoversAndTheFounderReturnsAsAMember(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(2)
		founder, survivor := nodes[0], nodes[1]
		standsBy(l, survivor)
		if _, err := survivor.group.Recover(t.Context()); err == nil {
			t.Fatal("recovered beside a leader")
		} else {
			refusedWith(t, err, "nothing to recover")
		}
		kept := founder.invite(InviteSpec{})
		l.eventually(5*time.Second, "the survivor has the invitation", func() bool {
			return survivor.group.current().raft.AppliedIndex() == founder.group.current().raft.AppliedIndex()
		})

		// Cut off, the founder goes on deciding for itself: nobody will ever know of it.
		l.net.split(1, founder.id())
		lost := founder.invite(InviteSpec{})
		plan, err := survivor.group.Recover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if plan.Generation != 1 || !plan.Whole || len(plan.Lost) != 1 || plan.Lost[0] != founder.id() {
			t.Errorf("plan %+v", plan)
		}
		if l.voters() == 0 || survivor.group.Version() <= founder.group.Version() {
			t.Errorf("version %x does not hold against %x", survivor.group.Version(), founder.group.Version())
		}
		third := l.node(2)
		third.join(survivor, kept) // an invitation of before holds
		if _, err := l.node(3).tryJoin(t.Context(), survivor, lost); err == nil {
			t.Error("an invitation of the other branch admits")
		}

		l.net.split(0, founder.id())
		l.eventually(20*time.Second, "the founder is overruled", func() bool {
			return founder.group.Overruled() != nil && founder.group.State().Lineage() == survivor.group.State().Lineage()
		})
		if o := founder.group.Overruled(); o.Total != 1 || len(o.Lost) != 1 || o.Lost[0].Action != "invite" {
			t.Errorf("lost %+v", o)
		}
		// Three members: the group fills up, and all are of one mind.
		settle(l, 3)
		l.eventually(10*time.Second, "one state", func() bool {
			return founder.group.State().Digest() == survivor.group.State().Digest() && third.group.State().Digest() == survivor.group.State().Digest()
		})
		audit, err := founder.group.Audit(t.Context())
		if err != nil || audit.Verify() != nil {
			t.Fatal(err, audit.Verify())
		}
		said := false
		for _, e := range audit.Entries {
			said = said || e.Action == "recover" && e.Asker == survivor.id() && strings.Contains(e.Subject, "is void")
		}
		if !said {
			t.Error("the audit log does not tell of the recovery")
		}
	})
}

func TestTheFounderReturnsFromItsOldDisk(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(2)
		founder, survivor := nodes[0], nodes[1]
		standsBy(l, survivor)
		founder.kill()
		if _, err := survivor.group.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		survivor.kill() // and it survives that
		survivor.open()
		l.eventually(5*time.Second, "the survivor decides", func() bool { return l.leader() == survivor })
		founder.open()
		l.eventually(20*time.Second, "the founder stands by", func() bool {
			r := founder.group.current()
			return r != nil && r.lineage == survivor.group.State().Lineage() && !founder.group.Voting() && founder.group.State().Coordinators.Leader == survivor.id()
		})
		founder.invite(InviteSpec{}) // through the survivor
		if l.voters() != 1 {
			t.Errorf("%d voters", l.voters())
		}
	})
}

// A revocation that only the lost side knew is asked for again by who returns from there.
func TestARevocationIsNotLostByARecovery(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(2)
		founder, survivor := nodes[0], nodes[1]
		standsBy(l, survivor)
		thief := l.node(2)
		thief.join(founder, founder.invite(InviteSpec{}))
		l.eventually(5*time.Second, "the survivor knows the third", func() bool { return survivor.group.State().Active(thief.id()) })
		thief.kill()
		l.net.split(1, founder.id())
		if err := founder.group.Revoke(t.Context(), thief.id(), "stolen"); err != nil {
			t.Fatal(err)
		}
		if _, err := survivor.group.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.net.split(0, founder.id())
		l.eventually(30*time.Second, "the third is out again", func() bool { return !survivor.group.State().Active(thief.id()) })
	})
}

// Both halves of a mesh recover: one of them holds in the end, the same one everywhere.
func TestOfTwoRecoveriesAtOnceTheLowerNodeHolds(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(4)
		settle(l, 3)
		var by [2]*member
		voters := l.leader().group.State().Coordinators.Voters
		n := 0
		for _, m := range nodes {
			switch {
			case !contains(voters, m.id()):
				l.net.split(n%2, m.id())
			case n < 2:
				by[n] = m
				l.net.split(n, m.id())
				n++
			default:
				m.kill()
			}
		}
		for _, m := range by {
			if _, err := m.group.Recover(t.Context()); err != nil {
				t.Fatal(m.name, err)
			}
		}
		winner, loser := by[0], by[1]
		if loser.id().Compare(winner.id()) < 0 {
			winner, loser = loser, winner
		}
		for range 3 { // decisions do not count: the loser's versions stay lower
			loser.invite(InviteSpec{})
		}
		for _, m := range nodes {
			if m.group != nil {
				l.net.split(0, m.id())
			}
		}
		l.eventually(60*time.Second, "one mesh", func() bool {
			for _, m := range nodes {
				if m.group != nil && (m.group.State().Lineage() != winner.group.State().Lineage() || m.group.State().Digest() != winner.group.State().Digest()) {
					return false
				}
			}
			return winner.group.State().Recovery.By == winner.id() && l.leader() != nil
		})
		l.eventually(20*time.Second, "the loser is told", func() bool { return loser.group.Overruled() != nil })
	})
}

// Regression: whoever had last been told that a dead node knew more, or asked the dead voters first, heard of a recovery after as long as 16 s.
func TestASurvivorSoonHearsOfARecovery(t *testing.T) {
	for name, seed := range map[string]int{"once": 0, "and again": 1, "and another time": 2} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *lab) {
				nodes := l.mesh(5)
				settle(l, 5)
				recovers, other, dead := nodes[seed], nodes[4], []*member{}
				for _, m := range nodes {
					if m != recovers && m != other {
						dead = append(dead, m)
						m.kill()
					}
				}
				time.Sleep(10 * time.Second)
				for _, m := range dead { // as news from before may have it
					other.group.PullSoon(m.id())
					time.Sleep(time.Millisecond)
				}
				if _, err := recovers.group.Recover(t.Context()); err != nil {
					t.Fatal(err)
				}
				took := l.eventually(30*time.Second, "the other survivor knows", func() bool {
					return other.group.State().Lineage() == recovers.group.State().Lineage()
				})
				if most := heraldEvery + 2*l.timing.RPC + 2*time.Second; took > most {
					t.Errorf("after %v, want at most %v", took, most)
				}
			})
		})
	}
}

func TestALaterGenerationHoldsAgainstALowerNode(t *testing.T) {
	a, b := identity.NodeID{1}, identity.NodeID{2}
	order := []Lineage{{}, {1, b}, {1, a}, {2, b}, {2, a}}
	for i, older := range order {
		for j, newer := range order {
			if got := newer.newer(older); got != (j > i) {
				t.Errorf("%v newer than %v: %t", newer, older, got)
			}
			if got := newer.version(3) > older.version(1<<30); got != (j > i) {
				t.Errorf("versions of %v and %v", newer, older)
			}
		}
	}
}

func TestWhoMayNotRecover(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(4)
		settle(l, 3)
		lead := l.leader()
		var out, stays *member
		for _, m := range nodes {
			if m != lead && m.group.Voting() {
				out, stays = m, out
			}
		}
		// Cut off from the others, a voter of three that was not revoked may; one that was, and knows, may not. It may not have heard: who is revoked is
		// cut off as soon as the others know, and then the control channel tells it. So the state of one that knows is asked.
		if err := lead.group.Revoke(t.Context(), out.id(), "stolen"); err != nil {
			t.Fatal(err)
		}
		l.eventually(10*time.Second, "the others know", func() bool { return !stays.group.State().Active(out.id()) })
		s := stays.group.State()
		refusedWith(t, s.mayRecover(out.id(), time.Now()), "revoked")
		m, _ := s.Member(stays.id())
		refusedWith(t, s.mayRecover(stays.id(), m.Certificate.NotAfter.Add(RenewalGrace+time.Second)), "expired")
		refusedWith(t, s.mayRecover(identity.NodeID{1}, time.Now()), "not a member")
	})
}

// A revoked coordinator that recovers although its program forbids it is followed by nobody who knows.
func TestNobodyFollowsARevokedNodesRecovery(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(2)
		founder, thief := nodes[0], nodes[1]
		standsBy(l, thief)
		before := thief.group.State()
		if err := founder.group.Revoke(t.Context(), thief.id(), "stolen"); err != nil {
			t.Fatal(err)
		}
		raw, err := signRecovery(thief.key, before.Mesh.ID, Recovery{Lineage: Lineage{Generation: 1, By: thief.id()}, At: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		forged := newBuilder(before)
		forged.recovery, _, _ = parseRecovery(raw)
		forged.recovery.Version = forged.recovery.version(99)
		forged.recovery.hashed()
		s, err := forged.build()
		if err != nil {
			t.Fatal(err)
		}
		if forged.head, err = signHead(thief.key, s, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := founder.group.adopt(forged, thief.id()); !errors.Is(err, errRecovery) {
			t.Errorf("adopting it: %v", err)
		}
		if founder.group.State().Recovery != nil || !founder.group.Voting() {
			t.Error("the founder followed")
		}
	})
}

// Without a log the signed state is all there is: enough to go on, and said.
func TestAVoterWhoseDiskLostTheLogRecoversFromTheState(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		only := l.mesh(1)[0]
		token := only.invite(InviteSpec{})
		only.close()
		if err := os.RemoveAll(filepath.Join(only.dir, meshDir, raftName)); err != nil {
			t.Fatal(err)
		}
		only.open()
		plan, err := only.group.Recover(t.Context())
		if err != nil || plan.Whole {
			t.Fatal(plan, err)
		}
		if _, err := l.node(1).tryJoin(t.Context(), only, token); err == nil {
			t.Error("an invitation that is not in the state was known")
		}
		l.node(2).join(only, only.invite(InviteSpec{}))
	})
}

func TestAnInterruptedRecoveryIsFinishedOrUndone(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		only := l.mesh(1)[0]
		only.close()
		mesh := filepath.Join(only.dir, meshDir)
		// Not whole yet: the old log stays.
		if err := os.Mkdir(filepath.Join(mesh, reseedName), 0o700); err != nil {
			t.Fatal(err)
		}
		only.open()
		l.eventually(5*time.Second, "the old log", func() bool { return l.leader() == only && only.group.State().Recovery == nil })
		if _, err := os.Stat(filepath.Join(mesh, reseedName)); !os.IsNotExist(err) {
			t.Error("a leftover stays: ", err)
		}
		// Whole, but not in its place: the old one is already away.
		only.close()
		if err := os.Rename(filepath.Join(mesh, raftName), filepath.Join(mesh, reseededName)); err != nil {
			t.Fatal(err)
		}
		only.open()
		l.eventually(5*time.Second, "the new log", func() bool { return l.leader() == only })
	})
}

func FuzzRecovery(f *testing.F) {
	raw, err := signRecovery(testKey(0), identity.MeshID{1}, Recovery{Lineage: Lineage{Generation: 1, By: testKey(0).ID()}, Lost: []identity.NodeID{{1}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, claim, err := parseRecovery(b)
		if err != nil {
			return
		}
		if r.Generation == 0 || len(r.Lost) > maxServers {
			t.Errorf("took %+v", claim)
		}
		if _, err := wire.Marshal(newRecoveryRecord(r)); err != nil {
			t.Error(err)
		}
	})
}

// Raft itself counts who stands by as one that confirms the leader.
func TestALeaderIsNotConfirmedByWhoStandsBy(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(4)
		settle(l, 3)
		lead := l.leader()
		for _, m := range nodes {
			if !m.group.Voting() {
				standsBy(l, m)
			}
		}
		for _, m := range nodes {
			if m != lead && m.group.Voting() {
				l.net.split(1, m.id())
			}
		}
		if err := lead.group.current().verify(t.Context()); err == nil {
			t.Error("a leader without its voters was confirmed")
		}
	})
}

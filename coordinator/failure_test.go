package coordinator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/durable"
)

// settle waits until the group has its size in the eyes of all its voters: then the last change is committed.
func settle(l *lab, n int) {
	l.t.Helper()
	l.eventually(30*time.Second, "the group has its size", func() bool {
		agree := 0
		for _, m := range l.nodes {
			if m.group != nil && m.group.Voting() && l.votersOf(m) == n && contains(m.group.State().Coordinators.Voters, m.id()) {
				agree++
			}
		}
		return agree == n && l.voters() == n
	})
}

func TestKilledLeaderIsReplacedAndNothingIsLost(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		settle(l, 3)
		token := l.leader().invite(InviteSpec{})
		dead := l.leader()
		dead.kill()
		took := l.eventually(5*time.Second, "a new leader", func() bool { return l.leader() != nil })
		t.Logf("new leader after %v", took)
		survivors := slices.DeleteFunc(slices.Clone(nodes), func(m *member) bool { return m == dead })
		late := l.node(3)
		late.join(survivors[0], token) // the invitation survived
		if late.group.State().ActiveMembers() != 4 {
			t.Fatalf("%d members", late.group.State().ActiveMembers())
		}
	})
}

func TestLostVoterIsReplacedAndReturnsAsMember(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(4)
		settle(l, 3)
		voters := l.leader().group.State().Coordinators.Voters
		var dead *member
		for _, m := range nodes {
			if contains(voters, m.id()) && m != l.leader() {
				dead = m
			}
		}
		dead.kill()
		took := l.eventually(40*time.Second, "the dead voter is replaced", func() bool {
			v := l.leader()
			return v != nil && !contains(v.group.State().Coordinators.Voters, dead.id()) && l.voters() == 3
		})
		t.Logf("replaced after %v (grace %v)", took, l.timing.Grace)
		dead.open()
		l.eventually(20*time.Second, "the returned node gives its old replica up", func() bool { return !dead.group.Voting() })
		l.eventually(20*time.Second, "and follows the state", func() bool {
			return dead.group.Version() == l.leader().group.Version() && dead.group.State().Coordinators.Quorum
		})
		// It can still decide things, through the leader.
		dead.invite(InviteSpec{})
	})
}

func TestOneUseInvitationAdmitsOne(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		settle(l, 3)
		token := nodes[0].invite(InviteSpec{Uses: 1})
		racers := []*member{l.node(3), l.node(4), l.node(5)}
		errs := make([]error, len(racers))
		answers := make([]Answer, len(racers))
		var wg sync.WaitGroup
		for i, m := range racers {
			wg.Go(func() { answers[i], errs[i] = m.tryJoin(t.Context(), nodes[i], token) })
		}
		wg.Wait()
		in, winner := 0, -1
		for i, err := range errs {
			var refusal *Refused
			switch {
			case err == nil:
				in, winner = in+1, i
			case !errors.As(err, &refusal) || refusal.Code != RefusedInvitation || !strings.Contains(refusal.Reason, "already used"):
				t.Errorf("racer %d: %v", i, err)
			}
		}
		if in != 1 {
			t.Fatalf("%d machines were admitted", in)
		}
		// The winner's answer is lost: it asks again and gets the same certificate, without another use.
		again, err := racers[winner].tryJoin(t.Context(), nodes[1], token)
		if err != nil || again.Member.Serial != answers[winner].Member.Serial {
			t.Fatalf("asking again: %v", err)
		}
	})
}

func TestWithoutQuorumDecisionsFailFast(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(4)
		settle(l, 3)
		voters := l.leader().group.State().Coordinators.Voters
		var left []*member
		down := 0
		for _, m := range nodes {
			if contains(voters, m.id()) && down < 2 {
				down++
				m.kill()
			} else {
				left = append(left, m)
			}
		}
		for _, m := range left {
			start := time.Now()
			_, _, err := m.group.Invite(t.Context(), InviteSpec{})
			if took := time.Since(start); !errors.Is(err, ErrNoQuorum) || took > 3*time.Second {
				t.Errorf("%s (voter %v): %v after %v", m.name, m.group.Voting(), err, took)
			} else {
				t.Logf("%s (voter %v): no quorum after %v", m.name, m.group.Voting(), took)
			}
		}
		time.Sleep(20 * time.Second)
		for _, m := range left {
			start := time.Now()
			_, err := m.group.Invitations(t.Context())
			if took := time.Since(start); !errors.Is(err, ErrNoQuorum) || took > time.Second {
				t.Errorf("%s later: %v after %v", m.name, err, took)
			}
			if m.group.State().Coordinators.Quorum {
				t.Errorf("%s still believes in a quorum", m.name)
			}
		}
	})
}

func TestMinorityCannotDecideAndHeals(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(5)
		settle(l, 5)
		old := l.leader()
		other := nodes[0]
		if other == old {
			other = nodes[1]
		}
		l.net.split(1, old.id(), other.id())
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, _, err := old.group.Invite(ctx, InviteSpec{})
		cancel()
		if !errors.Is(err, ErrNoQuorum) {
			t.Fatalf("the cut off leader decided: %v", err)
		}
		var major *member
		for _, m := range nodes {
			if m != old && m != other {
				major = m
			}
		}
		if err := major.group.Tag(t.Context(), major.id(), []string{"server"}); err != nil {
			t.Fatal(err)
		}
		l.net.split(0, old.id(), other.id())
		l.eventually(20*time.Second, "both sides agree", func() bool {
			m, ok := old.group.State().Member(major.id())
			return ok && slices.Equal(m.Certificate.Tags, []string{"server"})
		})
	})
}

func TestRestartFromDisk(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(4)
		settle(l, 3)
		digest := l.leader().group.State().Digest()
		l.eventually(20*time.Second, "all have the state", func() bool {
			return !slices.ContainsFunc(nodes, func(m *member) bool { return m.group.State().Digest() != digest })
		})
		for _, m := range nodes {
			m.kill()
		}
		for _, m := range nodes {
			m.open()
			if m.group.State().Digest() != digest {
				t.Errorf("%s forgot something", m.name)
			}
		}
		l.eventually(5*time.Second, "a leader", func() bool { return l.leader() != nil })
		nodes[3].invite(InviteSpec{})
	})
}

func TestRevokedVoterIsCutOffAndReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(4)
		settle(l, 3)
		leader := l.leader()
		var asker *member
		for _, m := range nodes {
			if m != leader {
				asker = m
			}
		}
		// The leader itself, by any member.
		if err := asker.group.Revoke(t.Context(), leader.id(), "stolen"); err != nil {
			t.Fatal(err)
		}
		l.eventually(10*time.Second, "another leads", func() bool { m := l.leader(); return m != nil && m != leader })
		for _, m := range nodes {
			if m == leader {
				continue
			}
			l.eventually(10*time.Second, m.name+" distrusts it", func() bool { return m.group.Trust().Revoked(leader.id()) })
			if _, err := m.group.Trust().VerifyMember(m.mustRaw(), time.Now()); err != nil {
				t.Errorf("%s no longer trusts its own certificate: %v", m.name, err)
			}
		}
		l.eventually(30*time.Second, "three voters without it", func() bool {
			m := l.leader()
			return m != nil && m != leader && l.votersOf(m) == 3 && !contains(m.group.State().Coordinators.Voters, leader.id())
		})
	})
}

// Regression: two of three voters revoked at once left nobody who could take their votes away, and the mesh without a majority for good.
func TestRevokingVotersAtOnceLeavesAMajority(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(6)
		settle(l, 5)
		leader := l.leader()
		var out []*member
		for _, m := range nodes {
			if m != leader && len(out) < 3 && contains(leader.group.State().Coordinators.Voters, m.id()) {
				out = append(out, m)
			}
		}
		for _, m := range out {
			l.eventually(30*time.Second, m.name+" is revoked", func() bool {
				err := leader.group.Revoke(t.Context(), m.id(), "stolen")
				var refused *Refused
				if err != nil && !errors.As(err, &refused) {
					t.Log(err)
				}
				return err == nil
			})
		}
		l.eventually(30*time.Second, "the rest decides without them", func() bool {
			m := l.leader()
			if m == nil {
				return false
			}
			for _, gone := range out {
				if contains(m.group.State().Coordinators.Voters, gone.id()) {
					return false
				}
			}
			return true
		})
		l.leader().invite(InviteSpec{})
	})
}

func (m *member) mustRaw() []byte {
	self, ok := m.group.State().Member(m.id())
	if !ok {
		m.lab.t.Fatalf("%s does not know itself", m.name)
	}
	return self.Raw
}

func (l *lab) votersOf(m *member) int { return len(m.group.State().Coordinators.Voters) }

func TestLastVoterHandsOverBeforeItLeaves(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(2)
		time.Sleep(5 * time.Second)
		first, second := nodes[0], nodes[1]
		if err := first.group.Leave(t.Context(), first.id()); err != nil {
			t.Fatal(err)
		}
		first.close()
		if err := Forget(durable.OS{}, first.dir); err != nil || Exists(first.dir) {
			t.Fatal("the folder is still there")
		}
		l.eventually(5*time.Second, "the other decides alone", func() bool { return l.leader() == second && l.votersOf(second) == 1 })
		if m, _ := second.group.State().Member(first.id()); m.Status != Left {
			t.Errorf("status %v", m.Status)
		}
		third := l.node(2)
		third.join(second, second.invite(InviteSpec{}))
	})
}

func TestTheLastVoterStaysWhereNobodyCanTakeOver(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(2)
		time.Sleep(5 * time.Second)
		first, second := nodes[0], nodes[1]
		second.kill()
		time.Sleep(20 * time.Second) // gossip has noticed
		var refusal *Refused
		if err := first.group.Leave(t.Context(), first.id()); !errors.As(err, &refusal) || refusal.Code != RefusedNotAllowed {
			t.Fatalf("the mesh's only coordinator left: %v", err)
		}
		if m, _ := first.group.State().Member(first.id()); m.Status != Active {
			t.Errorf("status %v", m.Status)
		}
		first.invite(InviteSpec{}) // it decides as before
	})
}

func TestCleanShutdownHandsTheVoteOver(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5} {
		bubble(t, func(t *testing.T, l *lab) {
			l.mesh(n)
			settle(l, VotersFor(n))
			l.t.Logf("%d nodes", n)
			leader := l.leader()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if err := leader.group.Handover(ctx); err != nil {
				t.Fatalf("%d nodes: %v", n, err)
			}
			leader.kill()
			if n == 1 {
				return
			}
			took := l.eventually(2*time.Second, "another leads", func() bool { return l.leader() != nil })
			if next := l.leader().group.State(); contains(next.Coordinators.Voters, leader.id()) && n != 4 {
				t.Errorf("%d nodes: the vote stayed with the node that went", n)
			}
			t.Logf("%d nodes: next leader %v after the stop", n, took)
			leader.open()
			l.eventually(20*time.Second, "it follows again", func() bool { return leader.group.State().Coordinators.Quorum })
			leader.invite(InviteSpec{})
		})
	}
}

func TestJoinersClock(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.node(0)
		first.found()
		token := first.invite(InviteSpec{})
		m := l.node(1)
		_, err := first.group.Enroll(t.Context(), m.request(token, time.Now().Add(365*24*time.Hour)))
		var refusal *Refused
		if !errors.As(err, &refusal) || refusal.Code != RefusedClock || !strings.Contains(refusal.Reason, "365 days ahead") {
			t.Fatalf("%v", err)
		}
		if _, err := first.group.Enroll(t.Context(), m.request(token, time.Now().Add(-9*time.Minute))); err != nil {
			t.Fatal(err)
		}
	})
}

func TestEnrolmentRefusals(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.node(0)
		first.found()
		other := l.node(1)
		other.found()
		expired := first.invite(InviteSpec{Expires: time.Minute})
		cancelled := first.invite(InviteSpec{})
		if err := first.group.CancelInvitation(t.Context(), cancelled.ID()); err != nil {
			t.Fatal(err)
		}
		forged := first.invite(InviteSpec{})
		gone := l.node(2)
		gone.join(first, first.invite(InviteSpec{}))
		orphaned := gone.invite(InviteSpec{})
		if err := first.group.Revoke(t.Context(), gone.id(), "lost"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		m := l.node(3)
		good := first.invite(InviteSpec{Uses: 2})
		for name, c := range map[string]struct {
			raw  []byte
			code RefusalCode
			says string
		}{
			"another mesh": {m.request(other.invite(InviteSpec{}), time.Now()), RefusedMesh, "another mesh"},
			"expired":      {m.request(expired, time.Now()), RefusedInvitation, "expired on"},
			"cancelled":    {m.request(cancelled, time.Now()), RefusedInvitation, "not known"},
			"of a revoked": {m.request(orphaned, time.Now()), RefusedInvitation, "revoked since"},
			"wrong secret": {swapProof(m, forged, good), RefusedInvitation, "secret is wrong"},
			"revoked":      {gone.request(good, time.Now()), RefusedRevoked, "was revoked"},
			"noise":        {[]byte("noise"), RefusedRequest, "malformed"},
		} {
			_, err := first.group.Enroll(t.Context(), c.raw)
			var refusal *Refused
			if !errors.As(err, &refusal) || refusal.Code != c.code || !strings.Contains(refusal.Reason, c.says) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestMovedAwayLogDoesNotVoteTwice(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(4)
		settle(l, 3)
		var voter *member
		for _, m := range nodes {
			if m != l.leader() && m.group.Voting() {
				voter = m
			}
		}
		voter.kill()
		removeAll(t, voter.dir, meshDir, raftName)
		voter.open()
		for range 50 {
			time.Sleep(100 * time.Millisecond)
			if voter.group.Voting() && contains(l.leader().group.State().Coordinators.Voters, voter.id()) && !voter.group.hasForgotten() {
				t.Fatal("a node that forgot its promises votes again under its old vote")
			}
		}
		l.eventually(60*time.Second, "its vote went to another", func() bool {
			return !voter.group.hasForgotten() && l.voters() == 3
		})
	})
}

func TestLateVoterGetsASnapshot(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.node(0)
		first.found()
		token := first.invite(InviteSpec{Uses: 9})
		for range snapshotAfter {
			if err := first.group.CancelInvitation(t.Context(), first.invite(InviteSpec{}).ID()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * snapshotInterval)
		index, err := first.group.current().store.FirstIndex()
		if err != nil || index < snapshotAfter {
			t.Fatalf("the log was not cut: it begins at %d, %v", index, err)
		}
		for i := 1; i < 3; i++ {
			l.node(i).join(first, token)
		}
		settle(l, 3)
		first.kill()
		l.eventually(5*time.Second, "a leader out of a snapshot", func() bool { return l.leader() != nil })
		m := l.leader()
		audit, err := m.group.Audit(t.Context())
		if err != nil || audit.Dropped == 0 || audit.Verify() != nil {
			t.Fatalf("audit log: %v, %d dropped", err, audit.Dropped)
		}
		m.close()
		m.open()
		l.node(3).join(l.nodes[2], token)
	})
}

func TestTagsNamesAndAudit(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		first, other := nodes[0], nodes[2]
		if err := other.group.Tag(t.Context(), first.id(), []string{"server", "home"}); err != nil {
			t.Fatal(err)
		}
		var refusal *Refused
		if err := other.group.Rename(t.Context(), other.id(), "node-0"); !errors.As(err, &refusal) {
			t.Errorf("took another's name: %v", err)
		}
		if err := other.group.Rename(t.Context(), other.id(), "nas"); err != nil {
			t.Fatal(err)
		}
		if err := other.group.Leave(t.Context(), first.id()); !errors.As(err, &refusal) {
			t.Errorf("made another leave: %v", err)
		}
		l.eventually(20*time.Second, "both changes are here", func() bool {
			a, _ := other.group.State().Member(first.id())
			b, _ := first.group.State().Member(other.id())
			return slices.Equal(a.Certificate.Tags, []string{"home", "server"}) && b.Certificate.Name == "nas"
		})
		audit, err := nodes[1].group.Audit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(audit.Entries, func(e AuditEntry) bool {
			return e.Action == "reissue" && e.Asker == other.id() && strings.HasSuffix(e.Subject, "renamed") && e.Outcome == "done"
		}) {
			t.Error("the audit log does not say who renamed")
		}
	})
}

// A node that pulls from a member gets all or nothing: a cut or altered state does not verify.
func TestPulledStateCannotBeAltered(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		first, victim := nodes[0], nodes[2]
		if err := first.group.Revoke(t.Context(), nodes[1].id(), "lost"); err != nil {
			t.Fatal(err)
		}
		s := first.group.State()
		full := s.withHead(first.group.headOf(s))
		try := func(change func(b *builder)) error {
			b := newBuilder(full)
			b.head = full.head
			change(b)
			return victim.group.adopt(b, first.id())
		}
		if err := try(func(b *builder) { delete(b.members, nodes[1].id()) }); !errors.Is(err, errHead) {
			t.Errorf("a revocation was left out: %v", err)
		}
		if err := try(func(b *builder) { b.keyring.Version = 1 << 40 }); !errors.Is(err, errHead) {
			t.Errorf("a version was made up: %v", err)
		}
		if err := try(func(b *builder) { b.head = nil }); !errors.Is(err, errNothingNewer) {
			t.Errorf("a state without a head: %v", err)
		}
		if err := try(func(*builder) {}); err != nil || !victim.group.Trust().Revoked(nodes[1].id()) {
			t.Errorf("the true one: %v", err)
		}
	})
}

// approvalRequest is a request of a machine without an invitation.
func (m *member) approvalRequest(mesh identity.MeshID, at time.Time) []byte {
	m.lab.t.Helper()
	raw, err := invitation.SignRequest(m.key, invitation.Request{Mesh: mesh, Name: m.name, Time: at})
	if err != nil {
		m.lab.t.Fatal(err)
	}
	return raw
}

func TestAnApprovalAdmitsOneMachineAndTheLogSaysWhoseWordItWas(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		settle(l, 3)
		mesh := nodes[0].group.State().Mesh.ID
		late := l.node(3)
		raw := late.approvalRequest(mesh, time.Now())
		var refusal *Refused
		if _, err := nodes[1].group.Enroll(t.Context(), raw); !errors.As(err, &refusal) || !strings.Contains(refusal.Reason, "nobody has approved") {
			t.Fatalf("before the approval: %v", err)
		}
		for range 2 { // the second changes nothing
			if err := nodes[2].group.Approve(t.Context(), raw); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(ApprovalLife) // the request may be as old as that when it is taken in
		a, err := nodes[1].group.Enroll(t.Context(), raw)
		if err != nil || a.Member.NodeID() != late.id() {
			t.Fatalf("after it: %v", err)
		}
		if _, err := nodes[1].group.enrollStranger(t.Context(), l.node(4).id(), raw); !errors.As(err, &refusal) || refusal.Code != RefusedRequest {
			t.Errorf("another node was given the answer: %v", err)
		}
		log, err := nodes[0].group.Audit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(log.Entries, func(e AuditEntry) bool { return e.Action == "approve" })
		if i < 0 || log.Entries[i].Asker != nodes[2].id() || !strings.Contains(log.Entries[i].Subject, late.id().String()) {
			t.Errorf("the log says %+v", log.Entries)
		}
		if err := nodes[0].group.Revoke(t.Context(), late.id(), "test"); err != nil {
			t.Fatal(err)
		}
		again := late.approvalRequest(mesh, time.Now())
		if err := nodes[0].group.Approve(t.Context(), again); !errors.As(err, &refusal) || refusal.Code != RefusedRevoked {
			t.Errorf("a revoked node came back: %v", err)
		}
		token := nodes[0].invite(InviteSpec{})
		if err := nodes[0].group.Approve(t.Context(), l.node(5).request(token, time.Now())); !errors.As(err, &refusal) {
			t.Errorf("a request with an invitation was approved: %v", err)
		}
	})
}

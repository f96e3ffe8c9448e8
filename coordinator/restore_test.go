package coordinator

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// backup is what a running node has now.
func (m *member) backup() []byte {
	m.lab.t.Helper()
	var b bytes.Buffer
	if err := m.group.WriteSnapshot(&b); err != nil {
		m.lab.t.Fatalf("%s: %v", m.name, err)
	}
	return b.Bytes()
}

func (m *member) rootKey() []byte {
	b, err := os.ReadFile(filepath.Join(m.dir, RootKeyPath))
	if err != nil {
		m.lab.t.Fatal(err)
	}
	return b
}

// restore gives the node an empty disk and brings a backup back.
func (m *member) restore(backup, root []byte, only bool) error {
	m.lab.t.Helper()
	m.dir = m.lab.t.TempDir()
	s, err := ReadSnapshot(bytes.NewReader(backup))
	if err != nil {
		m.lab.t.Fatal(err)
	}
	return Restore(Restoring{Dir: m.dir, Key: m.key, RootKey: root, Snapshot: s, AsOnlyCoordinator: only, Now: time.Now(), NoSync: true})
}

func (m *member) mustRestore(backup, root []byte, only bool) {
	m.lab.t.Helper()
	if err := m.restore(backup, root, only); err != nil {
		m.lab.t.Fatal(err)
	}
}

func (l *lab) sameState(within time.Duration, nodes ...*member) {
	l.t.Helper()
	l.eventually(within, "the same state everywhere", func() bool {
		for _, m := range nodes {
			if m.group.State().Digest() != nodes[0].group.State().Digest() {
				return false
			}
		}
		return true
	})
}

func TestRestoredVoterDoesNotVoteTwice(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		settle(l, 3)
		leader := l.leader()
		var restored, third *member
		for _, m := range nodes {
			switch {
			case m == leader:
			case restored == nil:
				restored = m
			default:
				third = m
			}
		}
		old := restored.backup()
		token := leader.invite(InviteSpec{}) // acknowledged after the backup was made
		// The third is away, so that this decision lives with the leader and the voter that is about to forget it.
		third.kill()
		last := leader.invite(InviteSpec{})
		restored.kill()
		leader.kill()

		// Its vote would make a majority with the third, which does not have the last decision.
		restored.mustRestore(old, nil, false)
		restored.open()
		third.open()
		end := time.Now().Add(time.Minute)
		for time.Now().Before(end) {
			if l.leader() != nil {
				t.Fatalf("%s leads with the vote of a node that was restored from an old backup", l.leader().name)
			}
			if restored.group.Voting() {
				t.Fatal("the restored node runs a replica before the group has taken its old vote away")
			}
			time.Sleep(100 * time.Millisecond)
		}

		leader.open()
		l.eventually(20*time.Second, "a leader again", func() bool { return l.leader() != nil })
		late, later := l.node(3), l.node(4)
		late.join(leader, token)
		later.join(leader, last)
		l.eventually(3*time.Minute, "the restored node's state is up to date, and its vote as well", func() bool {
			return restored.group.State().Digest() == leader.group.State().Digest() && !restored.group.hasForgotten()
		})
	})
}

func TestMeshGoesOnAfterTheLossOfAllCoordinators(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(5)[:5]
		settle(l, 5)
		founder := nodes[0]
		invitation := l.leader().invite(InviteSpec{})
		l.sameState(20*time.Second, nodes...)
		backup, root := founder.backup(), founder.rootKey()
		// What is decided after the backup is lost with the coordinators.
		if err := l.leader().group.Tag(context.Background(), nodes[3].id(), []string{"lost"}); err != nil {
			t.Fatal(err)
		}
		l.sameState(20*time.Second, nodes...)
		term := founder.group.State().Coordinators.Term
		for _, m := range nodes {
			m.kill()
		}
		founder.mustRestore(backup, root, true)
		founder.open()
		l.eventually(10*time.Second, "the restored founder decides", func() bool { return l.leader() == founder })
		if got := founder.group.State().Coordinators.Term; got <= term {
			t.Fatalf("term %d is not beyond the lost group's %d", got, term)
		}
		// Two of the old voters were not lost after all. They take the restored mesh's state, and give their old votes up.
		nodes[3].open()
		nodes[4].open()
		l.sameState(time.Minute, founder, nodes[3], nodes[4])
		l.eventually(time.Minute, "the group grows again", func() bool { return l.voters() == 3 })
		l.node(5).join(founder, invitation) // made before the backup
		audit, err := founder.group.Audit(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		told := false
		for _, e := range audit.Entries {
			told = told || e.Action == "restore"
		}
		if !told {
			t.Error("the audit log does not tell that the group was founded anew")
		}
	})
}

func TestAFounderAloneComesBackFromItsBackup(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(2)
		time.Sleep(5 * time.Second)
		backup, root := nodes[0].backup(), nodes[0].rootKey()
		s, err := ReadSnapshot(bytes.NewReader(backup))
		if err != nil || !s.OnlyCoordinator(nodes[0].id()) {
			t.Fatalf("only coordinator: %v, %v", s.State.Coordinators.Voters, err)
		}
		nodes[0].kill()
		nodes[0].mustRestore(backup, root, true)
		nodes[0].open()
		l.eventually(10*time.Second, "it decides", func() bool { return l.leader() == nodes[0] })
		l.sameState(20*time.Second, nodes...)
		// And once more from the same old backup.
		nodes[0].kill()
		nodes[0].mustRestore(backup, root, true)
		nodes[0].open()
		l.eventually(10*time.Second, "it decides again", func() bool { return l.leader() == nodes[0] })
		l.sameState(30*time.Second, nodes...)
	})
}

func TestAPlainMembersStateIsEnoughWithTheRootKey(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(2)
		root := nodes[0].rootKey()
		member := nodes[1].backup()
		if err := nodes[1].restore(member, nil, true); !errors.Is(err, ErrNotCoordinator) {
			t.Errorf("a member without any right founded the group anew: %v", err)
		}
		s, err := ReadSnapshot(bytes.NewReader(member))
		if err != nil || s.Ledger != nil {
			t.Fatalf("a plain member's snapshot: %v, ledger %v", err, s.Ledger != nil)
		}
		nodes[0].kill()
		nodes[0].mustRestore(member, root, true)
		nodes[0].open()
		l.eventually(10*time.Second, "it decides", func() bool { return l.leader() == nodes[0] })
	})
}

func TestABackupOfARevokedNodeSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(2)
		if err := nodes[0].group.Revoke(context.Background(), nodes[1].id(), "lost"); err != nil {
			t.Fatal(err)
		}
		err := nodes[1].restore(nodes[0].backup(), nil, false)
		var refused *Refused
		if !errors.As(err, &refused) || refused.Code != RefusedRevoked {
			t.Errorf("restored although revoked: %v", err)
		}
	})
}

func TestAStoppedVotersFolderHoldsTheWholeLedger(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		for range 5 { // and the one that mesh made
			first.invite(InviteSpec{})
		}
		first.kill()
		var b bytes.Buffer
		if err := WriteFolderSnapshot(first.dir, &b); err != nil {
			t.Fatal(err)
		}
		s, err := ReadSnapshot(&b)
		if err != nil || s.Ledger == nil || len(s.Ledger.Invitations(time.Now())) != 6 {
			t.Fatalf("snapshot of the folder: %+v, %v", s, err)
		}
		first.open() // and the folder is unharmed
	})
}

func TestADamagedSnapshotIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		whole := first.backup()
		for _, at := range []int{0, 30, len(whole) / 2, len(whole) - 2} {
			b := bytes.Clone(whole)
			b[at] ^= 1
			if _, err := ReadSnapshot(bytes.NewReader(b)); err == nil {
				t.Errorf("a snapshot with byte %d changed was read", at)
			}
		}
		for _, n := range []int{0, 10, len(whole) / 3, len(whole) - 1} {
			if _, err := ReadSnapshot(bytes.NewReader(whole[:n])); err == nil {
				t.Errorf("a snapshot cut to %d bytes was read", n)
			}
		}
		if !strings.HasPrefix(string(whole), stateMagic) {
			t.Error("it does not begin with its name")
		}
	})
}

func FuzzReadSnapshot(f *testing.F) {
	f.Add([]byte(stateMagic))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if s, err := ReadSnapshot(bytes.NewReader(b)); err == nil && s.State == nil {
			panic("a snapshot without a state")
		}
	})
}

// A backup is older than a revocation that a surviving member knows: who was revoked does not stay in, and members do not refuse the mesh that has
// forgotten it.
func TestARevocationNewerThanTheBackupIsNotLost(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.mesh(1)[0]
		thief := guest(l, 1, first)
		witness := l.node(2)
		witness.join(first, first.invite(InviteSpec{}))
		old, root := first.backup(), first.rootKey()
		if err := first.group.Revoke(t.Context(), thief.id(), "stolen"); err != nil {
			t.Fatal(err)
		}
		if err := witness.group.Pull(t.Context(), first.id()); err != nil || witness.group.State().Active(thief.id()) {
			t.Fatal("the witness does not know", err)
		}
		first.kill()
		witness.close()
		first.mustRestore(old, root, true)
		first.open()
		l.eventually(10*time.Second, "the founder decides alone", func() bool { return l.leader() == first })
		if !first.group.State().Active(thief.id()) {
			t.Fatal("the backup is too new for this test")
		}
		witness.open()
		l.eventually(30*time.Second, "the revocation is back", func() bool { return !first.group.State().Active(thief.id()) })
		l.sameState(20*time.Second, first, witness)
		if first.group.State().Lineage().Generation != 1 {
			t.Error("no new lineage")
		}
	})
}

// A coordinator of the lost group that turns up after all, with a log of its own, does not decide beside the one that was restored.
func TestALostCoordinatorThatTurnsUpIsOverruledByTheRestoredOne(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		settle(l, 3)
		founder := nodes[0]
		old, root := founder.backup(), founder.rootKey()
		for _, m := range nodes {
			m.kill()
		}
		founder.mustRestore(old, root, true)
		founder.open()
		l.eventually(10*time.Second, "it decides", func() bool { return l.leader() == founder })
		nodes[1].open() // two of the three old voters: a majority of the old group
		nodes[2].open()
		l.eventually(60*time.Second, "all are of the new lineage", func() bool {
			for _, m := range nodes {
				if m.group.State().Lineage() != founder.group.State().Lineage() {
					return false
				}
			}
			return true
		})
		settle(l, 3)
		l.sameState(20*time.Second, nodes...)
	})
}

package coordinator

import (
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs a test in virtual time and closes its mesh.
func bubble(t *testing.T, f func(t *testing.T, l *lab)) {
	t.Helper()
	testKey(0)
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.close()
		f(t, l)
	})
}

func TestFounderAloneDecides(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.node(0)
		g := first.found()
		token := first.invite(InviteSpec{})
		if token.Mesh != g.State().Mesh.ID {
			t.Fatal("token of another mesh")
		}
		s := g.State()
		if s.ActiveMembers() != 1 || !s.Coordinators.Quorum || s.Coordinators.Leader != first.id() || g.Chain() == nil {
			t.Fatalf("state after founding: %+v", s.Coordinators)
		}
	})
}

func TestGroupGrowsToThreeAndFive(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.node(0)
		first.found()
		token := first.invite(InviteSpec{Uses: 5})
		for i := 1; i < 5; i++ {
			l.node(i).join(first, token)
			if i == 1 {
				time.Sleep(10 * time.Second)
				if n := l.voters(); n != 1 {
					t.Fatalf("two members have %d voters", n)
				}
			}
			if i == 2 {
				t.Logf("three voters after %v", l.eventually(20*time.Second, "three voters", func() bool { return l.voters() == 3 }))
			}
		}
		t.Logf("five voters after %v", l.eventually(20*time.Second, "five voters", func() bool { return l.voters() == 5 }))
		l.eventually(10*time.Second, "the same state everywhere", func() bool {
			for _, m := range l.nodes {
				if m.group.State().Digest() != first.group.State().Digest() {
					return false
				}
			}
			return true
		})
	})
}

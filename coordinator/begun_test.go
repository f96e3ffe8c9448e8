package coordinator

import (
	"context"
	"testing"
	"time"
)

// What was decided before a leader's term is in its ledger when it begins to decide, wherever that was kept: in the log, in a snapshot, or in a snapshot
// whose last entries no ledger can read.
func TestALeaderBeginsWithAllThatWasDecided(t *testing.T) {
	for name, before := range map[string]func(t *testing.T, r *replica){
		"in the log": func(*testing.T, *replica) {},
		"in a snapshot": func(t *testing.T, r *replica) {
			if err := r.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
		},
		"in a snapshot that ends in nonsense": func(t *testing.T, r *replica) {
			for range 3 {
				if err := r.raft.Apply([]byte("nonsense"), time.Second).Error(); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
		},
		"in a log that ends in nonsense": func(t *testing.T, r *replica) {
			if err := r.raft.Apply([]byte("nonsense"), time.Second).Error(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *lab) {
				m := l.node(0)
				m.found()
				for range 5 {
					m.invite(InviteSpec{Uses: 1})
				}
				before(t, m.group.current())
				m.kill()
				m.open()
				r := m.group.current()
				l.eventually(5*time.Second, "it leads", r.leads)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := r.begun(ctx); err != nil {
					t.Fatal(err)
				}
				r.machine.view(func(ledger *Ledger) {
					if n := len(ledger.Invitations(l.now())); n != 5 {
						t.Errorf("it begins with %d invitations, want 5", n)
					}
				})
				m.invite(InviteSpec{Uses: 1})
			})
		})
	}
}

// Who does not lead has begun nothing.
func TestAFollowerHasBegunNothing(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		l.mesh(3)
		settle(l, 3)
		lead := l.leader()
		for _, m := range l.nodes {
			if err := m.group.current().begun(t.Context()); (err == nil) != (m == lead) {
				t.Errorf("%s leads: %v, has begun: %v", m.name, m == lead, err)
			}
		}
	})
}

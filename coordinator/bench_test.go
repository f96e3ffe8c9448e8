package coordinator

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// BenchmarkFailover kills the leader of three over and over, in virtual time, and reports how long nobody led and how long
// until a decision succeeded again. Links take no time here; the waits are raft's own.
func BenchmarkFailover(b *testing.B) {
	testKey(0)
	var led, decided []float64
	for b.Loop() {
		synctest.Test(new(testing.T), func(t *testing.T) {
			l := newLab(b)
			defer l.close()
			l.mesh(3)
			settle(l, 3)
			time.Sleep(time.Second)
			l.leader().kill()
			start := time.Now()
			led = append(led, l.eventually(10*time.Second, "a leader", func() bool { return l.leader() != nil }).Seconds())
			for _, m := range l.nodes {
				if m.group != nil {
					if _, _, err := m.group.Invite(context.Background(), InviteSpec{}); err != nil {
						b.Fatal(err)
					}
					break
				}
			}
			decided = append(decided, time.Since(start).Seconds())
		})
	}
	slices.Sort(led)
	slices.Sort(decided)
	b.ReportMetric(led[len(led)/2]*1000, "ms-leader-p50")
	b.ReportMetric(led[len(led)-1]*1000, "ms-leader-max")
	b.ReportMetric(decided[len(decided)/2]*1000, "ms-decision-p50")
}

// BenchmarkDecision commits one invitation on a group of one, in real time and on a real disk.
func BenchmarkDecision(b *testing.B) {
	l := newLab(b)
	defer l.close()
	m := l.node(0)
	cfg := m.config()
	cfg.NoSync = false
	g, err := Found(cfg, Founding{MeshName: "lab", NodeName: "atlas"})
	m.up(g, err)
	l.eventually(5*time.Second, "it leads", func() bool { return l.leader() != nil })
	n := 0
	for b.Loop() {
		token, _, err := g.Invite(context.Background(), InviteSpec{})
		if err != nil {
			b.Fatal(err)
		}
		if n++; n%1000 == 0 { // below maxInvitations
			b.StopTimer()
			for _, inv := range mustInvitations(b, g) {
				if inv.ID != token.ID() {
					if err := g.CancelInvitation(context.Background(), inv.ID); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.StartTimer()
		}
	}
}

func mustInvitations(b *testing.B, g *Group) []Invitation {
	list, err := g.Invitations(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	return list
}

// BenchmarkApplyAdmit is what an admission costs every voter: two hybrid verifications would be too many.
func BenchmarkApplyAdmit(b *testing.B) {
	l, _ := founded(b, "10.0.0.0/16")
	c := must(b, KindInvite, day0, testKey(0).ID(), inviteBody{ID: "i", Key: [32]byte{1}, Uses: 9, Expires: day0.Add(time.Hour).UnixMilli()})
	l.Apply(c, 3)
	addr, err := l.nextLease(day0)
	if err != nil {
		b.Fatal(err)
	}
	admit := must(b, KindAdmit, day0, testKey(0).ID(), admitBody{Invitation: "i", Certificate: l.certificateFor(b, 1, "one", addr, day0)})
	for b.Loop() {
		if err := l.clone().Apply(admit, 4).Err(); err != nil {
			b.Fatal(err)
		}
	}
}

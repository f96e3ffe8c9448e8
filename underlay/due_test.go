package underlay

import (
	"math/rand/v2"
	"testing"
)

// Whatever is put in, moved and taken out, nodes come out when they are due, the earliest first, and each once.
func TestNodesComeOutOfTheQueueWhenTheyAreDue(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	nodes := make([]*node, 50)
	for i := range nodes {
		nodes[i] = &node{}
	}
	want := map[*node]instant{}
	var q dueQueue
	for range 5000 {
		n := nodes[r.IntN(len(nodes))]
		if r.IntN(3) == 0 {
			q.drop(n)
			delete(want, n)
			continue
		}
		at := instant(1 + r.IntN(1000))
		q.at(n, at)
		if old, ok := want[n]; !ok || at < old {
			want[n] = at
		}
	}
	for now := instant(0); now <= 1000; now += 10 {
		last := instant(0)
		for n := q.next(now); n != nil; n = q.next(now) {
			if n.due != want[n] || n.due > now || n.due < last {
				t.Fatalf("at %d came one that is due at %d, wanted at %d, after one of %d", now, n.due, want[n], last)
			}
			last = n.due
			q.drop(n)
			delete(want, n)
		}
		for n, at := range want {
			if at <= now {
				t.Fatalf("%p was due at %d and is still in at %d", n, at, now)
			}
		}
	}
	if len(want) != 0 || len(q) != 0 {
		t.Fatalf("%d and %d are left", len(want), len(q))
	}
}

// A node that is stirred again while the owner looks at it is looked at once more, and never twice for one time.
func TestWhoIsStirredIsTakenOnce(t *testing.T) {
	s := &Socket{kick: make(chan struct{}, 1)}
	a, b := &node{socket: s}, &node{socket: s}
	a.wake()
	b.wake()
	a.wake()
	if got := s.stirred.take(nil); len(got) != 2 || got[0] != a || got[1] != b {
		t.Fatalf("%v", got)
	}
	a.wake()
	if got := s.stirred.take(nil); len(got) != 1 || got[0] != a {
		t.Fatalf("%v", got)
	}
}

package gossip

import (
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Regression: every node that came back reached for four members of its address book at once, and went on with the next as soon as one had answered, so that
// a pool that was restarted as a whole connected everybody with everybody.
func TestAPoolThatIsRestartedDoesNotConnectEverybodyWithEverybody(t *testing.T) {
	const n = 40
	testKey(t, n-1)
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.delay = 20 * time.Millisecond
		hosts := w.hosts(n)
		var all []identity.NodeID
		for _, h := range hosts {
			all = append(all, h.id)
		}
		for _, h := range hosts {
			h.start(func(c *setup) { c.Book = func() []identity.NodeID { return all } })
			time.Sleep(10 * time.Millisecond)
		}
		took := eventually(t, 10*time.Second, "all alive everywhere", func() bool { return whole(hosts) })
		time.Sleep(10 * time.Second)
		t.Logf("%d streams, whole after %v", w.streams.Load(), took)
		if most := uint64(4 * n); w.streams.Load() > most {
			t.Errorf("%d streams between %d nodes, at most %d are needed", w.streams.Load(), n, most)
		}
		closeAll(hosts)
	})
}

// Regression: a newcomer was reached for by everybody at once.
func TestANewcomerIsNotReachedForByEverybody(t *testing.T) {
	if testing.Short() {
		t.Skip("tens of nodes")
	}
	const n = 40
	testKey(t, n)
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.delay = 20 * time.Millisecond
		hosts := w.hosts(n)
		for i, h := range hosts {
			p := h.start(func(c *setup) { c.Book = func() []identity.NodeID { return nil } })
			if i > 0 {
				if _, err := p.Join(t.Context(), []identity.NodeID{hosts[0].id}); err != nil {
					t.Fatal(err)
				}
			}
		}
		eventually(t, 10*time.Second, "all alive everywhere", func() bool { return whole(hosts) })
		time.Sleep(time.Minute)
		before := w.streams.Load()
		newcomer := w.host(n)
		for _, h := range hosts {
			newcomer.table.Admit(h.member, []byte{1})
			h.table.Admit(newcomer.member, []byte{1})
		}
		p := newcomer.start(func(c *setup) { c.Book = func() []identity.NodeID { return nil } })
		if _, err := p.Join(t.Context(), []identity.NodeID{hosts[0].id}); err != nil {
			t.Fatal(err)
		}
		took := eventually(t, 5*time.Second, "all alive everywhere", func() bool { return whole(append(hosts, newcomer)) })
		time.Sleep(10 * time.Second)
		t.Logf("%d streams, whole after %v", w.streams.Load()-before, took)
		if got := w.streams.Load() - before; got > n/2 {
			t.Errorf("%d streams for one newcomer to %d nodes", got, n)
		}
		closeAll(append(hosts, newcomer))
	})
}

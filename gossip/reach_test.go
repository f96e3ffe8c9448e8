package gossip

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// RUMOUR_NODES=500 go test ./gossip -run TestARumourReachesAllWithinSeconds -v prints the row of docs/performance.md: how long it takes until
// all members of one pool know of a new version of the state, as after a revocation. Any two are 40 ms of round trip apart, one packet of a
// hundred is lost.
func TestARumourReachesAllWithinSeconds(t *testing.T) {
	n := 30
	if v, err := strconv.Atoi(os.Getenv("RUMOUR_NODES")); err == nil {
		n = v
	}
	testKey(t, n-1)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.delay, w.loss = 20*time.Millisecond, 0.01
		hosts := w.hosts(n)
		for i, h := range hosts {
			p := h.start(func(c *setup) { c.Book = func() []identity.NodeID { return nil } })
			if i > 0 {
				go func() { _, _ = p.Join(t.Context(), []identity.NodeID{hosts[0].id}) }()
			}
			time.Sleep(20 * time.Millisecond)
		}
		for begun := time.Now(); !whole(hosts); time.Sleep(time.Second) { // each look is at n × n
			if time.Since(begun) > 5*time.Minute {
				t.Fatal("not all are alive everywhere")
			}
		}
		time.Sleep(time.Minute) // what there is to tell of the start has been told
		begin, before := time.Now(), w.packets.Load()
		if err := hosts[1].pool.Load().host.Rumour(7, []byte("a newer version")); err != nil {
			t.Fatal(err)
		}
		var took []time.Duration
		left := slices.DeleteFunc(slices.Clone(hosts), func(h *host) bool { return h == hosts[1] })
		eventually(t, 10*time.Second, "heard by all", func() bool {
			left = slices.DeleteFunc(left, func(h *host) bool {
				heard := slices.ContainsFunc(drain(h.pool.Load()), func(r Rumour) bool { return r.Topic == 7 })
				if heard {
					took = append(took, time.Since(begin))
				}
				return heard
			})
			return len(left) == 0
		})
		last := took[len(took)-1]
		if last > 3*time.Second {
			t.Errorf("the last of %d members heard after %v", n, last)
		}
		t.Logf("| %d | %v | %v | %d packets |", n, took[len(took)/2], last, w.packets.Load()-before)
		closeAll(hosts)
		time.Sleep(awarenessMax * LAN().ProbeInterval)
		synctest.Wait()
	})
}

// Regression: memberlist gives rumours only the room that its own news leave in a packet: none, for as long as many members of a large pool have something
// new to say of themselves.
func TestARumourIsNotHeldUpByOtherNews(t *testing.T) {
	if testing.Short() {
		t.Skip("tens of nodes")
	}
	const n = 60
	testKey(t, n-1)
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(n)
		defer closeAll(hosts)
		startAll(t, hosts)
		eventually(t, time.Minute, "all alive everywhere", func() bool { return whole(hosts) })
		time.Sleep(time.Minute)
		for i, h := range hosts {
			p := h.pool.Load()
			r := p.host.cfg.Record
			r.Sequence += 10
			for j := range 8 {
				r.Endpoints = append(r.Endpoints, peer.Endpoint{Addr: addrPort(100*i + j), Kind: peer.Local})
			}
			if err := p.host.SetRecord(r); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second) // everybody has much to pass on now
		begin := time.Now()
		if err := hosts[1].pool.Load().host.Rumour(7, []byte("a newer version")); err != nil {
			t.Fatal(err)
		}
		left := slices.DeleteFunc(slices.Clone(hosts), func(h *host) bool { return h == hosts[1] })
		eventually(t, 20*time.Second, "heard by all", func() bool {
			left = slices.DeleteFunc(left, func(h *host) bool {
				return slices.ContainsFunc(drain(h.pool.Load()), func(r Rumour) bool { return r.Topic == 7 })
			})
			return len(left) == 0
		})
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("the last of %d members heard after %v", n, took)
		} else {
			t.Logf("the last of %d members heard after %v", n, took)
		}
	})
}

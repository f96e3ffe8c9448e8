package gossip

import (
	"context"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

func TestFiveNodesKnowEachOtherWithinASecond(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(5)
		startAll(t, hosts)
		defer closeAll(hosts)
		took := eventually(t, time.Second, "all alive everywhere", func() bool { return whole(hosts) })
		t.Logf("took %v", took)
		e, _ := hosts[3].table.Get(hosts[1].id)
		if !e.HasRecord || e.Record.Region != "home" || len(e.Record.Endpoints) != 1 {
			t.Errorf("the table has the record %+v", e.Record)
		}
		if n := len(hosts[2].pool.Load().Members()); n != 5 {
			t.Errorf("%d members, the node itself included; want 5", n)
		}
	})
}

func TestNodesFindEachOtherFromTheAddressBookAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(5)
		for _, h := range hosts {
			h.start()
		}
		defer closeAll(hosts)
		t.Logf("took %v", eventually(t, 2*time.Second, "all alive everywhere", func() bool { return whole(hosts) }))
	})
}

func TestAKilledNodeIsDeadToAllWithinFiveSeconds(t *testing.T) {
	for range 20 {
		inBubble(t, func(t *testing.T) {
			w := newWorld(t)
			hosts := w.hosts(5)
			startAll(t, hosts)
			defer closeAll(hosts)
			eventually(t, time.Second, "all alive everywhere", func() bool { return whole(hosts) })
			time.Sleep(3 * time.Second)
			victim := hosts[2]
			victim.kill()
			suspected := false
			took := eventually(t, 6*time.Second, "dead everywhere", func() bool {
				suspected = suspected || hosts[0].pool.Load().roster.state(victim.id) == peer.Suspect
				return sees(hosts, victim.id, peer.Dead)
			})
			t.Logf("took %v", took)
			if !suspected {
				t.Error("nobody saw it suspected first")
			}
			for _, h := range hosts {
				if h != victim && !sees(hosts, h.id, peer.Alive) {
					t.Error("another node was suspected with it")
				}
			}
		})
	}
}

func TestANodeThatLeavesIsNotTakenForDead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(5)
		startAll(t, hosts)
		defer closeAll(hosts)
		eventually(t, time.Second, "all alive everywhere", func() bool { return whole(hosts) })
		start := time.Now()
		if err := hosts[4].pool.Load().Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		hosts[4].kill()
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("leaving took %v", d)
		}
		eventually(t, time.Second, "left everywhere", func() bool { return sees(hosts, hosts[4].id, peer.Left) })
		time.Sleep(10 * time.Second)
		if !sees(hosts, hosts[4].id, peer.Left) {
			t.Error("it did not stay left")
		}
	})
}

func TestLeavingAloneOrUnheardIsBoundedInTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(2)
		startAll(t, hosts)
		defer closeAll(hosts)
		eventually(t, time.Second, "both alive", func() bool { return whole(hosts) })
		hosts[1].kill()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_ = hosts[0].pool.Load().Leave(ctx)
		_ = hosts[0].pool.Load().host.Close()
		if d := time.Since(start); d > time.Second {
			t.Errorf("leave and close took %v", d)
		}
	})
}

func TestARestartedNodeIsTakenBackAtOnce(t *testing.T) {
	for name, end := range map[string]func(*host){
		"after it was killed and declared dead": func(h *host) { h.kill(); time.Sleep(8 * time.Second) },
		"before anyone noticed":                 func(h *host) { h.kill() },
		"after it left": func(h *host) {
			_ = h.pool.Load().Leave(context.Background())
			h.kill()
			time.Sleep(time.Second)
		},
		"after it was forgotten": func(h *host) { h.kill(); time.Sleep(2 * time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t)
				hosts := w.hosts(4)
				startAll(t, hosts)
				defer closeAll(hosts)
				eventually(t, time.Second, "all alive everywhere", func() bool { return whole(hosts) })
				back := hosts[3]
				for range 6 { // its incarnation is well above that of a fresh start
					_ = back.pool.Load().host.SetRecord(peer.Record{Region: "before"})
					time.Sleep(100 * time.Millisecond)
				}
				end(back)
				p := back.start(func(c *setup) { c.Record = peer.Record{Sequence: uint64(time.Now().UnixMilli()), Region: "after"} })
				if _, err := p.Join(t.Context(), []identity.NodeID{hosts[1].id}); err != nil {
					t.Fatal(err)
				}
				took := eventually(t, 2*time.Second, "alive again everywhere, with its new record", func() bool {
					for _, h := range hosts[:3] {
						if e, _ := h.table.Get(back.id); e.Record.Region != "after" {
							return false
						}
					}
					return whole(hosts)
				})
				t.Logf("took %v", took)
			})
		})
	}
}

func TestTwoHalvesFindEachOtherHoweverLongTheyWereApart(t *testing.T) {
	for _, apart := range []time.Duration{10 * time.Second, 45 * time.Second, 10 * time.Minute, time.Hour} {
		if apart == time.Hour && testing.Short() {
			continue
		}
		t.Run(apart.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t)
				hosts := w.hosts(6)
				startAll(t, hosts)
				defer closeAll(hosts)
				eventually(t, time.Second, "all alive everywhere", func() bool { return whole(hosts) })
				half := map[identity.NodeID]bool{hosts[0].id: true, hosts[1].id: true, hosts[2].id: true}
				w.split(half)
				time.Sleep(apart)
				if whole(hosts) {
					t.Fatal("the cut was not noticed")
				}
				w.split(nil)
				most := hosts[0].pool.Load().profile.RejoinMax*3/2 + 5*time.Second
				t.Logf("took %v", eventually(t, most, "whole again", func() bool { return whole(hosts) }))
			})
		})
	}
}

func TestARecordReachesEveryoneInSeconds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.loss = 0.05
		hosts := w.hosts(6)
		startAll(t, hosts)
		defer closeAll(hosts)
		eventually(t, 3*time.Second, "all alive everywhere", func() bool { return whole(hosts) })
		if err := hosts[0].pool.Load().host.SetRecord(peer.Record{Region: "moved", StateVersion: 7}); err != nil {
			t.Fatal(err)
		}
		eventually(t, 3*time.Second, "the new record everywhere", func() bool {
			for _, h := range hosts {
				if e, _ := h.table.Get(hosts[0].id); h != hosts[0] && (e.Record.Region != "moved" || e.Record.StateVersion != 7) {
					return false
				}
			}
			return true
		})
	})
}

func TestAClosedPoolStaysClosedAndHarmless(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(3)
		startAll(t, hosts)
		defer closeAll(hosts)
		p := hosts[0].pool.Load()
		done := make(chan struct{})
		go func() { // while joins, rumours, records and a leave are under way
			defer close(done)
			_, _ = p.Join(context.Background(), []identity.NodeID{hosts[1].id, hosts[2].id, {9}})
		}()
		go func() { _ = p.Leave(context.Background()) }()
		_ = p.host.SetRecord(peer.Record{Region: "x"})
		_ = p.host.Rumour(1, []byte("x"))
		start := time.Now()
		_ = p.host.Close()
		_ = p.host.Close()
		if d := time.Since(start); d > leaveMax {
			t.Errorf("closing took %v", d)
		}
		<-done
		_ = p.host.SetRecord(peer.Record{Region: "y"})
		_ = p.host.Rumour(1, []byte("y"))
		_ = p.Leave(context.Background())
		if _, err := p.Join(context.Background(), []identity.NodeID{hosts[1].id}); err == nil {
			t.Error("a closed pool joined")
		}
		p.Stats()
	})
}

func TestACutStreamDoesNotHoldUpClosing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(2)
		startAll(t, hosts)
		defer closeAll(hosts)
		conn, err := hosts[0].Open(t.Context(), hosts[1].id) // and never says a word
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		_ = hosts[1].pool.Load().host.Close()
		if d := time.Since(start); d > time.Second {
			t.Errorf("closing took %v", d)
		}
	})
}

package gossip

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

func TestANewMemberIsTakenInAsSoonAsItsCertificateIsHere(t *testing.T) {
	for name, direct := range map[string]bool{"over its own stream": true, "over another member, when it is out of reach": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t)
				hosts := w.hosts(4)
				startAll(t, hosts)
				defer closeAll(hosts)
				eventually(t, time.Second, "all alive", func() bool { return whole(hosts) })
				// The newcomer enrols at host 0; nobody else has its certificate, and the address book is empty.
				newcomer := w.host(4)
				newcomer.shows = false // so that it is the gossip that has to bring it in
				for _, h := range hosts {
					newcomer.table.Admit(h.member, nil)
				}
				hosts[0].table.Admit(newcomer.member, nil)
				if !direct {
					w.mu.Lock()
					w.noStreams = func(a, b identity.NodeID) bool {
						return (a == newcomer.id) != (b == newcomer.id) && a != hosts[0].id && b != hosts[0].id
					}
					w.mu.Unlock()
				}
				p := newcomer.start(func(c *setup) { c.Book = func() []identity.NodeID { return nil } })
				if _, err := p.Join(t.Context(), []identity.NodeID{hosts[0].id}); err != nil {
					t.Fatal(err)
				}
				// What the node does: on the event, pull the state (it takes a moment) and admit.
				for _, h := range hosts[1:] {
					go func() {
						timeout := time.After(3 * time.Second)
						for {
							select {
							case e := <-h.pool.Load().host.Events():
								if e.Kind != UnknownMember {
									continue
								}
								if e.ID != newcomer.id || !e.Via.IsZero() && !admitted(hosts, e.Via, newcomer.id) {
									t.Errorf("asked for %v via %v", e.ID.Short(), e.Via.Short())
								}
								time.Sleep(300 * time.Millisecond)
								h.table.Admit(newcomer.member, nil)
								return
							case <-timeout:
								t.Error("nobody asked for the certificate")
								return
							}
						}
					}()
				}
				all := append(hosts, newcomer)
				defer closeAll(all)
				limit := 2 * time.Second
				if !direct { // its own stream has to time out first
					limit += LAN().StreamTimeout
				}
				t.Logf("took %v", eventually(t, limit, "all alive everywhere", func() bool { return whole(all) }))
			})
		})
	}
}

// admitted tells whether the host called by holds another's certificate: only then can it pass it on.
func admitted(hosts []*host, by, other identity.NodeID) bool {
	for _, h := range hosts {
		if h.id == by {
			_, ok := h.table.Get(other)
			return ok
		}
	}
	return false
}

func TestAMemberThatTheLedgerNamesIsSoughtAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(2)
		nobody := func(c *setup) { c.Book = func() []identity.NodeID { return nil } }
		startAll(t, hosts, nobody)
		defer closeAll(hosts)
		eventually(t, time.Second, "both alive", func() bool { return whole(hosts) })
		silent := w.host(2) // is up, and joins nobody
		for _, h := range hosts {
			silent.table.Admit(h.member, nil)
		}
		p := silent.start(nobody)
		defer p.host.Close()
		hosts[1].table.Admit(silent.member, nil)
		hosts[0].table.Admit(silent.member, nil)
		all := append(hosts, silent)
		t.Logf("took %v", eventually(t, time.Second, "all alive everywhere", func() bool { return whole(all) }))
		if n := silent.pool.Load().Stats().Rejoins; n != 0 {
			t.Errorf("the silent one tried %d times", n)
		}
	})
}

func TestARevokedMemberIsOutWithinFiveSecondsAndStaysOut(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(5)
		startAll(t, hosts)
		defer closeAll(hosts)
		eventually(t, time.Second, "all alive", func() bool { return whole(hosts) })
		rest, out := hosts[:4], hosts[4]
		for _, h := range rest {
			h.table.Revoke(out.id)
		}
		gone := func() bool {
			for _, h := range rest {
				if h.pool.Load().roster.state(out.id) != peer.Dead {
					return false
				}
			}
			return true
		}
		eventually(t, 100*time.Millisecond, "shown as dead", gone)
		time.Sleep(5 * time.Second)
		for _, h := range rest {
			states, err := h.pool.Load().snapshot()
			if err != nil {
				t.Fatal(err)
			}
			if s, ok := states[out.id]; ok && here(s) {
				t.Errorf("memberlist still has it as %v", s)
			}
		}
		time.Sleep(time.Minute)
		if !gone() {
			t.Error("it came back")
		}
		for _, h := range rest {
			if !sees(rest, h.id, peer.Alive) {
				t.Error("others were hurt")
			}
		}
	})
}

func TestPendingNodesAreBounded(t *testing.T) {
	a := newAdmission(identity.NodeID{}, testMesh, peer.NewTable(identity.NodeID{}), newFence(nil, newRoster()))
	now := time.Unix(1000, 0)
	for i := range 2 * pendingMax {
		if !a.await(identity.NodeID{byte(i >> 8), byte(i), 1}, []byte("x"), identity.NodeID{}, now.Add(time.Duration(i))) {
			t.Fatal("a new one is not asked for")
		}
	}
	if len(a.pending) != pendingMax || a.pending[identity.NodeID{1, 255, 1}] == nil {
		t.Errorf("%d are pending, or not the newest", len(a.pending))
	}
	if a.await(identity.NodeID{1, 255, 1}, []byte("x"), identity.NodeID{}, now.Add(askEvery/2)) {
		t.Error("asked twice within a moment")
	}
	if !a.await(identity.NodeID{1, 255, 1}, []byte("x"), identity.NodeID{}, now.Add(askEvery+time.Millisecond)) {
		t.Error("not asked again later")
	}
	if a.await(identity.NodeID{7}, make([]byte, peer.RecordMax+1), identity.NodeID{}, now) {
		t.Error("a giant is remembered")
	}
	a.await(identity.NodeID{8}, nil, identity.NodeID{}, now.Add(2*pendingFor))
	if len(a.pending) != 1 {
		t.Errorf("%d are pending long after", len(a.pending))
	}
}

func TestChangingKeysLosesNobodyAndNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(5)
		startAll(t, hosts)
		defer closeAll(hosts)
		eventually(t, time.Second, "all alive", func() bool { return whole(hosts) })
		for i, keys := range [][][]byte{{gossipA, gossipB}, {gossipB, gossipA}, {gossipB}} {
			for _, h := range hosts { // one after the other, as a rollout is
				if err := h.pool.Load().host.SetKeyring(keys); err != nil {
					t.Fatal(err)
				}
				time.Sleep(700 * time.Millisecond)
				if !whole(hosts) {
					t.Fatalf("step %d lost somebody", i+1)
				}
			}
		}
		for _, h := range hosts {
			if n := h.pool.Load().host.stats.refused[refusedSeal].Load(); n != 0 {
				t.Errorf("%d packets did not open", n)
			}
		}
		late := w.host(5)
		for _, h := range hosts {
			h.table.Admit(late.member, nil)
			late.table.Admit(h.member, nil)
		}
		late.start()
		defer late.pool.Load().host.Close()
		time.Sleep(5 * time.Second)
		if hosts[0].pool.Load().host.stats.refused[refusedSeal].Load() == 0 {
			t.Error("the old key still opens")
		}
	})
}

// Who was away while the keys changed can open no packet of the others. It hears their records, and in them that there is a newer state, by
// push/pull, which travels in control streams.
func TestWhoMissedAChangeOfKeysHearsRecordsOverStreams(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(3)
		startAll(t, hosts)
		defer closeAll(hosts)
		eventually(t, time.Second, "all alive", func() bool { return whole(hosts) })
		away := hosts[2]
		away.kill()
		for _, h := range hosts[:2] {
			if err := h.pool.Load().host.SetKeyring([][]byte{gossipB}); err != nil {
				t.Fatal(err)
			}
			if err := h.pool.Load().host.SetRecord(peer.Record{ID: h.id, Region: "home", Sequence: 1000, StateVersion: 99}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(30 * time.Second)
		away.start()
		eventually(t, time.Minute, "the newer state is heard of", func() bool {
			e, ok := away.table.Get(hosts[0].id)
			return ok && e.HasRecord && e.Record.StateVersion == 99
		})
	})
}

func TestTheLargestPacketFitsTheSmallestLink(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(5)
		full := peer.Record{Region: "a-region-with-quite-a-long-name-for-a-region-as-names-of-regions-g"[:peer.RegionMax], Relays: []identity.NodeID{{1}, {2}}}
		for i := range peer.EndpointsMax {
			full.Endpoints = append(full.Endpoints, peer.Endpoint{Addr: addrPort(i), Kind: peer.PortMapped})
		}
		startAll(t, hosts, func(c *setup) { c.Record = full })
		defer closeAll(hosts)
		for i := range 60 {
			_ = hosts[i%5].pool.Load().host.Rumour(1, make([]byte, RumourMax-i*7))
			_ = hosts[(i+1)%5].pool.Load().host.SetRecord(full)
			time.Sleep(50 * time.Millisecond)
		}
		eventually(t, 5*time.Second, "all alive with full records", func() bool { return whole(hosts) })
		const room = 1280 - 40 - 8 - 1 - 16
		if n := w.largest.Load(); n > room || n < room/2 {
			t.Errorf("the largest packet has %d bytes, room is for %d", n, room)
		} else {
			t.Logf("the largest packet has %d bytes, room is for %d", n, room)
		}
	})
}

func TestAbsenteesAreTriedLessAndLessOften(t *testing.T) {
	a := absentees{least: time.Second, most: 30 * time.Second, spread: func(d time.Duration) time.Duration { return d }, tries: map[identity.NodeID]*try{}}
	now := time.Unix(1000, 0)
	one, two, left := identity.NodeID{1}, identity.NodeID{2}, identity.NodeID{3}
	wanted := map[identity.NodeID]peer.State{one: peer.Dead, two: peer.Unknown, left: peer.Left}
	a.want(wanted, now)
	var waits []string
	last := now
	for range 8 {
		now = now.Add(a.wait(now))
		for len(a.start(1, now)) == 0 {
			now = now.Add(a.wait(now))
		}
		started := one
		if a.tries[two].busy {
			started = two
		}
		if a.tries[left].busy {
			started = left
		}
		a.done(started, now)
		if started == one {
			waits = append(waits, now.Sub(last).String())
			last = now
		}
	}
	if got := fmt.Sprint(waits); got != "[500ms 1s 2s 4s]" {
		t.Errorf("the first was tried after %s", got)
	}
	a.hurry(two, one, now)
	if got := a.start(4, now); len(got) == 0 || got[0] != two && got[len(got)-1] != two {
		t.Errorf("started %v", got)
	}
	delete(wanted, one)
	a.want(wanted, now)
	if a.tries[one] != nil {
		t.Error("one that is back is still tried")
	}
	for range 40 {
		a.done(two, now)
	}
	if d := a.tries[two].next.Sub(now); d != 30*time.Second {
		t.Errorf("the backoff grew to %v", d)
	}
}

func addrPort(i int) netip.AddrPort {
	return netip.MustParseAddrPort(fmt.Sprintf("[2001:db8::%d]:51820", i+1))
}

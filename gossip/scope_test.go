package gossip

import (
	"bytes"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

const (
	north Scope = "north"
	south Scope = "south"
)

// regions says who belongs where; each host has its own, as each node has its own state.
type regions struct {
	mu sync.Mutex
	of map[identity.NodeID][]Scope
}

func (r *regions) set(id identity.NodeID, scopes ...Scope) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[id] = scopes
}

func (r *regions) admits(s Scope) func(identity.NodeID) bool {
	return func(id identity.NodeID) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, o := range r.of[id] {
			if o == s {
				return true
			}
		}
		return false
	}
}

// scoped are hosts in several pools.
type scoped struct {
	*world
	hosts   []*host
	regions []*regions
}

// newScoped starts hosts in the pools that layout gives each, all of one opinion about them.
func newScoped(t testing.TB, layout ...[]Scope) *scoped {
	s := &scoped{world: newWorld(t)}
	s.hosts = s.world.hosts(len(layout))
	for i := range s.hosts {
		r := &regions{of: map[identity.NodeID][]Scope{}}
		for j, scopes := range layout {
			r.set(s.hosts[j].id, scopes...)
		}
		s.regions = append(s.regions, r)
		s.hosts[i].start(func(c *setup) { c.Scope, c.Admits = layout[i][0], r.admits(layout[i][0]) })
		for _, more := range layout[i][1:] {
			s.open(i, more)
		}
	}
	return s
}

func (s *scoped) gossip(i int) *Host { return s.hosts[i].pool.Load().host }

func (s *scoped) open(i int, scope Scope) *Pool {
	s.t.Helper()
	p, err := s.gossip(i).Open(Config{Scope: scope, Admits: s.regions[i].admits(scope)})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// decide has every host learn where a node belongs, one after another.
func (s *scoped) decide(apart time.Duration, i int, scopes ...Scope) {
	for j, r := range s.regions {
		r.set(s.hosts[i].id, scopes...)
		for _, p := range s.gossip(j).Pools() {
			p.Reconsider()
		}
		time.Sleep(apart)
	}
}

// state is what host i says in a pool of host j; Unknown if it has no such pool.
func (s *scoped) state(i int, scope Scope, j int) peer.State {
	p := s.gossip(i).Pool(scope)
	if p == nil {
		return peer.Unknown
	}
	return p.roster.state(s.hosts[j].id)
}

func TestAPoolHoldsThoseOfItsScopeAndNoOthers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		// 0 and 3 bridge.
		s := newScoped(t, []Scope{north, Wide}, []Scope{north}, []Scope{south}, []Scope{south, Wide})
		defer closeAll(s.hosts)
		time.Sleep(20 * time.Second)
		for _, c := range []struct {
			at    int
			scope Scope
			alive []int
		}{
			{0, north, []int{0, 1}}, {1, north, []int{0, 1}}, {2, south, []int{2, 3}}, {3, south, []int{2, 3}},
			{0, Wide, []int{0, 3}}, {3, Wide, []int{0, 3}}, {1, Wide, nil},
		} {
			for j := range s.hosts {
				want := peer.Unknown
				for _, a := range c.alive {
					if a == j {
						want = peer.Alive
					}
				}
				if got := s.state(c.at, c.scope, j); got != want {
					t.Errorf("host %d in pool %s has %d as %v, want %v", c.at, c.scope, j, got, want)
				}
			}
		}
		if e, _ := s.hosts[1].table.Get(s.hosts[2].id); e.State != peer.Unknown {
			t.Errorf("a member without a bridge has one of another region as %v", e.State)
		}
		for i := range s.hosts {
			if n := s.gossip(i).Stats().Refused["scope"]; n != 0 {
				t.Errorf("host %d refused %d for another pool", i, n)
			}
		}
	})
}

func TestRumoursCrossFromPoolToPoolOnceAndLocalOnesDoNot(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		// Two bridges in the north, so that what crosses comes twice.
		s := newScoped(t, []Scope{north, Wide}, []Scope{north, Wide}, []Scope{north}, []Scope{south, Wide}, []Scope{south})
		defer closeAll(s.hosts)
		time.Sleep(10 * time.Second)
		if err := s.gossip(2).Rumour(5, []byte("crosses")); err != nil {
			t.Fatal(err)
		}
		if err := s.gossip(0).Pool(north).LocalRumour(6, []byte("stays")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		for i := range s.hosts {
			var crossed, stayed int
			for _, r := range drain(s.hosts[i].pool.Load()) {
				switch {
				case r.Topic == 5 && r.From == s.hosts[2].id && r.Scope == "" && string(r.Payload) == "crosses":
					crossed++
				case r.Topic == 6 && r.From == s.hosts[0].id && r.Scope == north && string(r.Payload) == "stays":
					stayed++
				default:
					t.Errorf("host %d heard %+v", i, r)
				}
			}
			wantCrossed, wantStayed := 1, 0
			if i == 2 {
				wantCrossed = 0 // its own
			}
			if i == 1 || i == 2 {
				wantStayed = 1
			}
			if crossed != wantCrossed || stayed != wantStayed {
				t.Errorf("host %d heard %d that cross and %d that stay, want %d and %d", i, crossed, stayed, wantCrossed, wantStayed)
			}
		}
	})
}

// What is sealed for one pool opens in no other; who belongs elsewhere is not let in with a seal of this one either.
func TestHostilePacketsAndStreamsOfOtherPools(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScoped(t, []Scope{north, Wide}, []Scope{north}, []Scope{south})
		defer closeAll(s.hosts)
		time.Sleep(5 * time.Second)
		judge, insider, outsider := s.hosts[0], s.hosts[1], s.hosts[2]
		a := aliveOf(t, outsider, peer.Record{Region: string(north)})
		plain := message(t, typeAlive, &a)
		send := func(from *host, sealed Scope, tag byte) {
			b, err := sealIn(t, testMesh, sealed, from.id, gossipA).close(judge.id, plain)
			if err != nil {
				t.Fatal(err)
			}
			b[0] = tag
			judge.in <- underlay.GossipPacket{FromID: from.id, Data: b, At: time.Now()}
			time.Sleep(100 * time.Millisecond)
		}
		for _, c := range []struct {
			name   string
			from   *host
			sealed Scope
			tag    byte
			reason string
		}{
			{"of a pool that is not here", insider, south, south.tag(testMesh), "scope"},
			{"of another pool under this one's tag", insider, south, north.tag(testMesh), "seal"},
			{"of this pool under another's tag", insider, north, Wide.tag(testMesh), "seal"},
			{"of this pool, by a member of another", outsider, north, north.tag(testMesh), "scope"},
			{"of the wide pool, by a member that does not bridge", insider, Wide, Wide.tag(testMesh), "scope"},
			{"of this pool, about a member of another", insider, north, north.tag(testMesh), "scope"},
		} {
			before := s.gossip(0).Stats().Refused[c.reason]
			send(c.from, c.sealed, c.tag)
			if after := s.gossip(0).Stats().Refused[c.reason]; after <= before {
				t.Errorf("a packet %s is not refused for %s", c.name, c.reason)
			}
			for _, scope := range []Scope{north, Wide} {
				if got := s.state(0, scope, 2); got != peer.Unknown {
					t.Fatalf("after a packet %s the outsider is %v in %s", c.name, got, scope)
				}
			}
		}
		for name, preface := range map[string][]byte{
			"for a pool that is not here": south.appendPreface(nil), "for a pool that it is not in": north.appendPreface(nil), "for none": {0},
			"for a name without end": append([]byte{255}, strings.Repeat("x", 255)...),
		} {
			conn, err := outsider.Open(t.Context(), judge.id)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			_, _ = conn.Write(preface)
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("a stream %s is answered", name)
			}
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Errorf("a stream %s stays open", name)
			}
			_ = conn.Close()
		}
	})
}

func TestAMemberThatMovesIsAliveToItsNewPoolAtOnceAndHasLeftTheOldOne(t *testing.T) {
	for name, apart := range map[string]time.Duration{"all know at once": 0, "states are apart by seconds": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScoped(t, []Scope{north}, []Scope{north}, []Scope{north}, []Scope{south}, []Scope{south})
				defer closeAll(s.hosts)
				time.Sleep(5 * time.Second)
				go s.decide(apart, 2, south)
				s.open(2, south)
				eventually(t, 8*time.Second+5*apart, "alive in the south", func() bool {
					return s.state(3, south, 2) == peer.Alive && s.state(4, south, 2) == peer.Alive && s.state(2, south, 4) == peer.Alive
				})
				old := s.gossip(2).Pool(north)
				if err := old.Leave(t.Context()); err != nil {
					t.Fatal(err)
				}
				_ = old.Close()
				eventually(t, 2*time.Second, "left in the north", func() bool {
					return s.state(0, north, 2) == peer.Left && s.state(1, north, 2) == peer.Left
				})
				time.Sleep(2 * scopeGrace)
				if s.state(0, north, 1) != peer.Alive || s.state(3, south, 4) != peer.Alive || s.state(3, south, 2) != peer.Alive {
					t.Error("somebody was lost")
				}
			})
		})
	}
}

// Who was voted out and in again within the grace never stops taking part; who is out for longer and stays is shut out.
func TestGraceForWhoBelongsHereNoLonger(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScoped(t, []Scope{Wide}, []Scope{Wide}, []Scope{Wide})
		defer closeAll(s.hosts)
		time.Sleep(5 * time.Second)
		s.decide(0, 2)
		for range 10 {
			time.Sleep(scopeGrace / 12)
			if got := s.state(0, Wide, 2); got != peer.Alive {
				t.Fatalf("%v within the grace", got)
			}
		}
		s.decide(0, 2, Wide)
		time.Sleep(2 * scopeGrace)
		if got := s.state(0, Wide, 2); got != peer.Alive {
			t.Fatalf("%v although it is back", got)
		}
		s.decide(0, 2)
		time.Sleep(scopeGrace + rejoinLook + time.Second)
		for i := range 2 {
			if got := s.state(i, Wide, 2); here(got) {
				t.Errorf("host %d has who overstays as %v", i, got)
			}
		}
		time.Sleep(time.Minute)
		if got := s.state(0, Wide, 2); here(got) || s.state(0, Wide, 1) != peer.Alive {
			t.Errorf("it is %v a minute later, the other %v", got, s.state(0, Wide, 1))
		}
	})
}

// Regression: a member whose clock was wrong for a while took another's certificate for expired and shut it out; memberlist had held that one alive all
// the time, so that nothing told of it when it was let in again.
func TestWhoIsShutOutByMistakeIsBackOnceLetIn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScoped(t, []Scope{north}, []Scope{north}, []Scope{north})
		defer closeAll(s.hosts)
		eventually(t, 20*time.Second, "all alive", func() bool { return whole(s.hosts) })
		thinks := func(scopes ...Scope) {
			s.regions[0].set(s.hosts[1].id, scopes...)
			s.gossip(0).Pool(north).Reconsider()
		}
		thinks(south)
		eventually(t, scopeGrace+20*time.Second, "shut out", func() bool { return s.state(0, north, 1) == peer.Left })
		thinks(north)
		eventually(t, 20*time.Second, "all alive again", func() bool { return whole(s.hosts) })
	})
}

// Regression: who was heard where it did not belong, and then belonged there, counted as the one that may know of itself; while no stream could be
// opened it was tried again and again without a pause.
func TestWhoCannotBeReachedIsTriedNowAndThen(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScoped(t, []Scope{north}, []Scope{north})
		defer closeAll(s.hosts)
		eventually(t, 20*time.Second, "both alive", func() bool { return whole(s.hosts) })
		s.regions[0].set(s.hosts[1].id, south)
		s.gossip(0).Pool(north).Reconsider()
		stray := func() bool {
			a := s.gossip(0).Pool(north).admission
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.pending[s.hosts[1].id] != nil && a.pending[s.hosts[1].id].via == s.hosts[1].id
		}
		eventually(t, 2*time.Minute, "it is heard where it does not belong", stray)
		s.offline.Store(true)
		s.regions[0].set(s.hosts[1].id, north)
		s.gossip(0).Pool(north).Reconsider()
		time.Sleep(time.Minute)
		if n := s.refused.Load(); n > 40 {
			t.Errorf("%d attempts in a minute", n)
		}
		s.offline.Store(false)
		eventually(t, 2*time.Minute, "both alive", func() bool { return whole(s.hosts) })
	})
}

func TestAScopeIsOpenOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScoped(t, []Scope{north})
		defer closeAll(s.hosts)
		for _, scope := range []Scope{north, "", Scope(strings.Repeat("x", scopeMax+1))} {
			if _, err := s.gossip(0).Open(Config{Scope: scope}); err == nil {
				t.Errorf("%q was opened", scope)
			}
		}
		before := s.gossip(0).Stats().PacketsSent
		_ = s.open(0, south).Close()
		if s.gossip(0).Pool(south) != nil || s.gossip(0).Stats().PacketsSent < before {
			t.Error("a closed pool is still there, or took its counts with it")
		}
		_ = s.open(0, south).Close()
	})
}

func FuzzPreface(f *testing.F) {
	f.Add(north.appendPreface(nil))
	f.Add([]byte{64, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := readPreface(bytes.NewReader(b))
		if err == nil && (s.check() != nil || !bytes.HasPrefix(b, s.appendPreface(nil))) {
			t.Fatalf("%x is read as %q", b, s)
		}
	})
}

// shelf is a Shared for tests: the largest text wins.
type shelf struct {
	mu   sync.Mutex
	text string
	host *Host
}

func (s *shelf) State(Scope) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []byte(s.text)
}

func (s *shelf) Merge(_ Scope, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = max(s.text, string(b))
}

func (s *shelf) Digest(Scope) (sum uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range []byte(s.text) {
		sum = sum*31 + uint64(c)
	}
	return sum
}

func TestWhatIsSharedReachesEveryMemberWithoutRumours(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(5)
		shelves := make([]*shelf, len(hosts))
		for i, h := range hosts {
			shelves[i] = &shelf{}
			shelves[i].host = h.start(func(c *setup) { c.Shared = shelves[i] }).host
		}
		defer closeAll(hosts)
		time.Sleep(time.Minute)
		shelves[2].Merge(testScope, bytes.Repeat([]byte("news"), 10_000))
		shelves[2].host.SharedChanged()
		t.Logf("took %v", eventually(t, 3*time.Minute, "everywhere", func() bool {
			for _, s := range shelves {
				if len(s.State(testScope)) != 40_000 {
					return false
				}
			}
			return true
		}))
		// What is too much is not sent, and hurts nothing.
		shelves[2].Merge(testScope, bytes.Repeat([]byte("x"), SharedMax+1))
		time.Sleep(5 * time.Minute)
		if len(shelves[1].State(testScope)) != 40_000 || !whole(hosts) {
			t.Error("an oversized state was spread, or somebody was lost over it")
		}
	})
}

// Regression: who left and is back at once hears from packets who is alive, as others still tell it of themselves. It missed nobody, reached for nobody,
// and did not have what is shared for half a minute.
func TestWhoIsBackAtOnceHasWhatIsShared(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(4)
		shelves := make([]*shelf, len(hosts))
		for i, h := range hosts {
			shelves[i] = &shelf{}
			shelves[i].host = h.start(func(c *setup) { c.Shared = shelves[i] }).host
		}
		defer closeAll(hosts)
		eventually(t, time.Minute, "all alive everywhere", func() bool { return whole(hosts) })
		shelves[1].Merge(testScope, []byte("news"))
		shelves[1].host.SharedChanged()
		shared := func() bool {
			return !slices.ContainsFunc(shelves, func(s *shelf) bool { return string(s.State(testScope)) != "news" })
		}
		eventually(t, 3*time.Minute, "shared by all", shared)
		time.Sleep(time.Minute)
		back := hosts[0]
		if err := back.pool.Load().Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		back.kill()
		for _, h := range hosts[1:] { // everybody has something to tell in packets
			p := h.pool.Load()
			r := p.host.cfg.Record
			r.Sequence += 10
			if err := p.host.SetRecord(r); err != nil {
				t.Fatal(err)
			}
		}
		shelves[0] = &shelf{}
		shelves[0].host = back.start(func(c *setup) {
			c.Shared = shelves[0]
			c.Book = func() []identity.NodeID { return nil } // hears of them before it tries them
		}).host
		t.Logf("took %v", eventually(t, 3*time.Second, "shared with who is back", shared))
	})
}

package place

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// earth is a world of machines in cities.
type earth struct {
	rand    *rand.Rand
	city    []int         // by machine
	within  time.Duration // a city
	between time.Duration // two cities
	jitter  time.Duration // added to a round trip, up to
	clients []*Client     // by machine
	lies    map[int]liar  // by machine
	ids     []identity.NodeID
}

type liar struct {
	says  func() peer.Coordinate
	delay time.Duration // of its answers
}

func newEarth(seed uint64, city ...int) *earth {
	e := &earth{rand: rand.New(rand.NewPCG(seed, 0)), city: city, within: 500 * time.Microsecond, between: 40 * time.Millisecond, lies: map[int]liar{}}
	for range city {
		var id identity.NodeID
		for i := range id {
			id[i] = byte(e.rand.Uint32())
		}
		e.ids = append(e.ids, id)
		e.clients = append(e.clients, New(id))
	}
	return e
}

func (e *earth) rtt(a, b int) time.Duration {
	d := e.within
	if e.city[a] != e.city[b] {
		d = e.between
	}
	if e.jitter > 0 {
		d += time.Duration(e.rand.Int64N(int64(e.jitter)))
	}
	return d
}

// run has every machine measure another, drawn by chance, so many times.
func (e *earth) run(rounds int) {
	for range rounds {
		for a := range e.clients {
			if b := e.rand.IntN(len(e.clients)); b != a {
				e.measure(a, b)
			}
		}
	}
}

func (e *earth) measure(a, b int) {
	l, lies := e.lies[b]
	if !lies {
		at, _ := e.clients[b].Coordinate()
		e.clients[a].Observe(e.ids[b], at, e.rtt(a, b))
		return
	}
	at := l.says()
	e.clients[a].Observe(e.ids[b], at, e.rtt(a, b)+l.delay)
}

// worst is the largest error of an estimate between two honest machines.
func (e *earth) worst() (worst time.Duration) {
	for a := range e.clients {
		for b := range a {
			_, aLies := e.lies[a]
			_, bLies := e.lies[b]
			if aLies || bLies {
				continue
			}
			x, _ := e.clients[a].Coordinate()
			y, _ := e.clients[b].Coordinate()
			truth := e.within
			if e.city[a] != e.city[b] {
				truth = e.between
			}
			worst = max(worst, (x.RTT(y) - truth).Abs())
		}
	}
	return worst
}

func TestMachinesOfThreeCitiesFindOutHowFarTheyAreApart(t *testing.T) {
	for seed := range uint64(20) {
		e := newEarth(seed, 0, 0, 0, 1, 1, 1, 2, 2, 2)
		e.run(100)
		if worst := e.worst(); worst > 8*time.Millisecond {
			t.Errorf("seed %d: an estimate is wrong by %v", seed, worst)
		}
	}
}

func TestAJitteryLinkDoesNotMakeACoordinateWander(t *testing.T) {
	e := newEarth(1, 0, 0, 0, 1, 1, 1)
	e.jitter = 3 * time.Millisecond
	e.run(200)
	records := 0
	said := map[int]*Said{}
	now := time.Unix(0, 0)
	for range 720 { // an hour, a round every 5 s
		e.run(1)
		now = now.Add(5 * time.Second)
		for i, c := range e.clients {
			if said[i] == nil {
				said[i] = &Said{}
			}
			before := said[i].at
			if said[i].Step(c, now); said[i].at != before {
				records++
			}
		}
	}
	if each := float64(records) / float64(len(e.clients)); each > 2 {
		t.Errorf("a machine published its coordinate %.1f times in an hour", each)
	}
}

func TestOneLiarOfSevenThrowsNobodyFar(t *testing.T) {
	far := peer.Coordinate{Vec: [peer.Dimensions]int16{32767, 32767, -32768, 32767, 32767, -32768, 32767, 32767}, Height: 65535}
	near := peer.Coordinate{}
	for name, lie := range map[string]liar{
		"far away, and sure of it":         {says: func() peer.Coordinate { return far }},
		"beside everybody, answering late": {says: func() peer.Coordinate { return near }, delay: 1900 * time.Millisecond},
		"another place each time": {says: func() func() peer.Coordinate {
			r := rand.New(rand.NewPCG(7, 7))
			return func() (c peer.Coordinate) {
				for i := range c.Vec {
					c.Vec[i] = int16(r.Uint32())
				}
				c.Height = uint16(r.Uint32())
				return c
			}
		}()},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEarth(3, 0, 0, 0, 1, 1, 1, 0)
			e.run(100)
			e.lies[6] = lie
			most := time.Duration(0)
			for range 200 {
				e.run(5)
				most = max(most, e.worst())
			}
			t.Logf("wrong by %v at most", most)
			if most > 20*time.Millisecond {
				t.Errorf("an estimate between two honest machines was wrong by %v", most)
			}
			if e.clients[0].Stats().Bounded == 0 {
				t.Error("no step was bounded: this liar tests nothing")
			}
			delete(e.lies, 6) // it is found out and revoked
			e.clients, e.city, e.ids = e.clients[:6], e.city[:6], e.ids[:6]
			e.run(100)
			if worst := e.worst(); worst > 8*time.Millisecond {
				t.Errorf("after the liar was gone an estimate is wrong by %v", worst)
			}
		})
	}
}

func TestALieMovesACoordinateByNoMoreThanAStep(t *testing.T) {
	c := New(identity.NodeID{1})
	for range 100 {
		c.Observe(identity.NodeID{2}, peer.Coordinate{Height: 10, Error: 20}, time.Millisecond)
	}
	before, _ := c.Coordinate()
	c.Observe(identity.NodeID{3}, peer.Coordinate{Vec: [peer.Dimensions]int16{32767}, Height: 65535}, time.Millisecond)
	after, _ := c.Coordinate()
	height := time.Duration(max(after.Height, before.Height)-min(after.Height, before.Height)) * 20 * time.Microsecond
	if d := max(before.Moved(after), height); d > 2100*time.Microsecond { // 2 ms and rounding
		t.Errorf("one observation moved the coordinate by %v", d)
	}
	for _, rtt := range []time.Duration{0, -time.Second, rttMost + 1} {
		c.Observe(identity.NodeID{4}, peer.Coordinate{}, rtt)
	}
	if s := c.Stats(); s.Refused != 3 || s.Bounded == 0 {
		t.Errorf("counted %+v", s)
	}
}

func TestAMachineThatMovedIsWhereItWentSoon(t *testing.T) {
	e := newEarth(4, 0, 0, 0, 1, 1, 1)
	e.run(200)
	e.city[0] = 1
	e.clients[0].Roamed()
	if _, settled := e.clients[0].Coordinate(); settled {
		t.Error("its coordinate still counts")
	}
	for i := range 40 {
		e.measure(0, 1+i%5)
	}
	if worst := e.worst(); worst > 12*time.Millisecond {
		t.Errorf("an estimate is wrong by %v", worst)
	}
	if _, settled := e.clients[0].Coordinate(); !settled {
		t.Error("its coordinate does not count yet")
	}
}

func TestWhoIsNoMemberAnyMoreIsForgotten(t *testing.T) {
	c := New(identity.NodeID{1})
	c.Observe(identity.NodeID{2}, peer.Coordinate{}, time.Millisecond)
	c.Observe(identity.NodeID{3}, peer.Coordinate{}, time.Millisecond)
	c.Retain(func(id identity.NodeID) bool { return id == identity.NodeID{3} })
	if len(c.known) != 1 {
		t.Errorf("%d are remembered", len(c.known))
	}
}

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/peer"
)

// electLimit is what re-election may take after a loss, of the coordinator alone or of the leader that it was.
const electLimit = 2 * time.Second

// regions is a mesh of nine: five in home, who vote, and four in east, who do not. It is done when both regions have a coordinator and all know.
func (l *lab) regions() (home, east []*member) {
	l.t.Helper()
	nodes := l.mesh(5)
	settle(l, 5)
	token := nodes[0].invite(InviteSpec{Uses: 4})
	for i := 5; i < 9; i++ {
		m := l.node(i)
		m.join(nodes[0], token)
		if err := m.group.MoveRegion(context.Background(), "east"); err != nil {
			l.t.Fatal(err)
		}
	}
	home, east = l.nodes[:5], l.nodes[5:]
	l.eventually(20*time.Second, "both regions are coordinated", func() bool {
		for _, m := range l.nodes {
			if m.group.Version() != nodes[0].group.Version() {
				return false
			}
		}
		return l.agree("home", home...) != nil && l.agree("east", l.nodes...) != nil && l.inOffice("home") == 1 && l.inOffice("east") == 1
	})
	return home, east
}

// agree returns the coordinator of a region if all of a list know the same living one.
func (l *lab) agree(region string, among ...*member) *member {
	var first identity.NodeID
	for _, m := range among {
		if m.group == nil {
			continue
		}
		id, _, ok := m.group.State().RegionCoordinator(region)
		if !ok || (!first.IsZero() && id != first) {
			return nil
		}
		first = id
	}
	for _, m := range l.nodes {
		if m.id() == first && m.group != nil {
			return m
		}
	}
	return nil
}

// inOffice counts who would serve a region as its coordinator now, wherever it is.
func (l *lab) inOffice(region string) (n int) {
	for _, m := range l.nodes {
		if m.group == nil {
			continue
		}
		if o, ok := m.group.Office(); ok && o.Region == region {
			n++
		}
	}
	return n
}

// describeOffices tells who would serve a region, and since which term.
func (l *lab) describeOffices(region string) (text string) {
	for _, m := range l.nodes {
		if m.group == nil {
			continue
		}
		if o, ok := m.group.Office(); ok && o.Region == region {
			text += fmt.Sprintf("\n%s: term %d, state %d, last beat %v ago, leads %v", m.name, o.Term, m.group.Version(), m.group.beats.since(), m == l.leader())
			if r := m.group.current(); r != nil {
				text += fmt.Sprintf(", raft term %d, state %v, contact %v ago", r.raft.CurrentTerm(), r.raft.State(), time.Since(r.raft.LastContact()))
			}
		}
	}
	return text
}

// oneInOffice waits for a condition and fails if a region ever has two in office meanwhile.
func (l *lab) oneInOffice(within time.Duration, what string, ok func() bool) time.Duration {
	l.t.Helper()
	return l.eventually(within, what, func() bool {
		for _, region := range []string{"home", "east"} {
			if n := l.inOffice(region); n > 1 {
				l.t.Fatalf("%d coordinators of %s are in office:%s", n, region, l.describeOffices(region))
			}
		}
		return ok()
	})
}

func TestALostCoordinatorOfARegionIsReplaced(t *testing.T) {
	for name, region := range map[string]string{"outside the group": "east", "a voter": "home"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *lab) {
				home, east := l.regions()
				of := map[string][]*member{"home": home, "east": east}[region]
				dead := l.agree(region, of...)
				_, term, _ := home[1].group.State().RegionCoordinator(region)
				if region == "home" && dead == l.leader() { // its own case below
					if err := dead.group.giveLeadership(t.Context(), dead.group.current()); err != nil {
						t.Fatal(err)
					}
					l.eventually(5*time.Second, "another leads", func() bool { m := l.leader(); return m != nil && m != dead })
					time.Sleep(5 * time.Second)
					if l.agree(region, of...) != dead {
						t.Fatal("a change of leaders replaced a living coordinator")
					}
				}
				dead.kill()
				took := l.oneInOffice(electLimit, "another is in office", func() bool {
					m := l.agree(region, l.leader())
					return m != nil && m != dead && l.inOffice(region) == 1
				})
				t.Logf("another in office after %v", took)
				l.oneInOffice(15*time.Second, "the region knows", func() bool { m := l.agree(region, of...); return m != nil && m != dead })
				if _, next, _ := of[0].aliveState(of).RegionCoordinator(region); next != term+1 {
					t.Errorf("term %d after %d", next, term)
				}
			})
		})
	}
}

// A region's coordinator that is taken into the group has been heard of all the time, if by beats until then.
func TestACoordinatorThatBecomesAVoterStays(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		home, east := l.regions()
		stays := l.agree("east", east...)
		_, term, _ := home[0].group.State().RegionCoordinator("east")
		voters := func() (v []identity.NodeID) {
			if lead := l.leader(); lead != nil {
				v, _ = lead.group.current().servers()
			}
			return v
		}
		for _, m := range home {
			if slices.Contains(voters(), stays.id()) {
				break
			}
			if m != l.leader() && m != l.agree("home", home...) {
				m.kill()
				l.oneInOffice(10*time.Minute, "another votes in its place", func() bool {
					v := voters()
					return len(v) == 5 && !slices.Contains(v, m.id())
				})
				time.Sleep(10 * time.Second)
			}
		}
		if !slices.Contains(voters(), stays.id()) {
			t.Fatal("the coordinator of east was not taken into the group")
		}
		if m := l.agree("east", l.leader()); m != stays {
			t.Error("it was replaced although it was there all the time")
		} else if _, now, _ := l.leader().group.State().RegionCoordinator("east"); now != term {
			t.Errorf("term %d after %d", now, term)
		}
	})
}

// aliveState is the state of the first of a list that runs.
func (m *member) aliveState(list []*member) *State {
	for _, m := range list {
		if m.group != nil {
			return m.group.State()
		}
	}
	return &State{}
}

func TestALostLeaderThatCoordinatedIsReplacedInBoth(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		home, _ := l.regions()
		dead := l.agree("home", home...)
		l.eventually(20*time.Second, "the coordinator leads", func() bool {
			leader := l.leader()
			if leader != nil && leader != dead {
				r := leader.group.current()
				r.raft.LeadershipTransferToServer(serverID(dead.id()), serverAddress(dead.id())).Error()
			}
			return leader == dead
		})
		time.Sleep(5 * time.Second)
		dead.kill()
		took := l.oneInOffice(2*electLimit, "another leads, and another is in office", func() bool {
			leader := l.leader()
			if leader == nil {
				return false
			}
			m := l.agree("home", leader)
			return m != nil && m != dead && l.inOffice("home") == 1
		})
		t.Logf("both after %v", took)
	})
}

// Of a leader that lost leadership because it was lost, a request for its vote that it does not answer is proof enough.
func TestWhenACoordinatorCountsAsSilent(t *testing.T) {
	wan := WAN() // Heartbeat 1000, Answer 300, Office 1500, Ask 2500; the leader asked for votes at 10000 and began to look at 10200
	for name, c := range map[string]struct {
		v    vitals
		want int
	}{
		"the leader before, lost":                    {vitals{server: true, spoke: at(8900)}, 10300},
		"the one before that, lost":                  {vitals{server: true, spoke: at(6500)}, 10300},
		"one of long ago":                            {vitals{server: true, spoke: at(4000)}, 11700},
		"one that handed over":                       {vitals{server: true, spoke: at(9950)}, 11700},
		"one whose followers lost it, but not we":    {vitals{server: true, spoke: at(9100)}, 11700},
		"one that never led":                         {vitals{server: true}, 11700},
		"the leader before gave its vote":            {vitals{server: true, spoke: at(8900), heard: at(10100)}, 11700},
		"the leader before is back, and gone again":  {vitals{server: true, spoke: at(8900), heard: at(12000)}, 13500},
		"the leader before answered before that":     {vitals{server: true, spoke: at(8900), heard: at(9999)}, 10300},
		"the leader before has no vote any more":     {vitals{spoke: at(8900)}, 11700},
		"the leader before, after others were mute":  {vitals{server: true, spoke: at(8900), mute: 2}, 10300},
		"another, after others were mute":            {vitals{server: true, mute: 2}, 16200},
		"not a server":                               {vitals{}, 11700},
		"not a server, heard of":                     {vitals{heard: at(11000)}, 12500},
		"a server, heard of before the leader began": {vitals{server: true, heard: at(9000)}, 11700},
	} {
		c.v.asked, c.v.since = at(10000), at(10200)
		if got := c.v.silentAt(wan); !got.Equal(at(c.want)) {
			t.Errorf("%s: silent at %v, want %dms", name, got.Sub(epoch), c.want)
		}
	}
	alone := vitals{since: at(10200)} // a vote of its own was enough
	if got := alone.silentAt(wan); !got.Equal(at(11700)) {
		t.Errorf("who was asked for nothing is silent at %v", got.Sub(epoch))
	}
}

// Who hands leadership over answers the request for its vote, and keeps its region.
func TestWhoHandsLeadershipOverKeepsItsRegion(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(5)
		settle(l, 5)
		coordinates := func(m *member) bool {
			id, _, ok := m.group.State().RegionCoordinator("home")
			return ok && id == m.id()
		}
		l.eventually(10*time.Second, "the leader coordinates", func() bool {
			m := l.leader()
			if m != nil && !coordinates(m) { // back to who does
				id, _, _ := m.group.State().RegionCoordinator("home")
				_ = m.group.handTo(t.Context(), m.group.current(), id)
				return false
			}
			return m != nil
		})
		lead := l.leader()
		_, term, _ := lead.group.State().RegionCoordinator("home")
		if err := lead.group.giveLeadership(t.Context(), lead.group.current()); err != nil {
			t.Fatal(err)
		}
		l.oneInOffice(5*time.Second, "another leads", func() bool { m := l.leader(); return m != nil && m != lead })
		for range 200 { // four times the patience with a coordinator
			l.oneInOffice(time.Second, "", func() bool { return true })
			time.Sleep(20 * time.Millisecond)
		}
		id, now, ok := nodes[0].group.State().RegionCoordinator("home")
		if !ok || id != lead.id() || now != term {
			t.Errorf("%s coordinates in term %d, want %s in term %d", id.Short(), now, lead.id().Short(), term)
		}
		if office, ok := lead.group.Office(); !ok || office.Term != term {
			t.Errorf("it is not in office: %+v, %v", office, ok)
		}
	})
}

// A leader that was lost answers no request for its vote: its region has another coordinator as soon as the mesh has another leader.
func TestARegionDoesNotWaitForALeaderThatWasLost(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		l.mesh(5)
		settle(l, 5)
		l.unseen.Store(true) // gossip tells nothing
		for range 4 {
			lead := l.leader()
			id, _, _ := lead.group.State().RegionCoordinator("home")
			if id != lead.id() {
				if err := lead.group.handTo(t.Context(), lead.group.current(), id); err != nil {
					t.Fatal(err)
				}
				l.eventually(5*time.Second, "the coordinator leads", func() bool { m := l.leader(); return m != nil && m.id() == id })
				time.Sleep(5 * time.Second) // it is a leader of some time ago
				lead = l.leader()
			}
			lead.kill()
			l.eventually(2*time.Second, "another leads", func() bool { return l.leader() != nil })
			took := l.oneInOffice(electLimit, "the region has another coordinator", func() bool {
				m := l.leader()
				if m == nil {
					return false
				}
				id, _, ok := m.group.State().RegionCoordinator("home")
				return ok && id != lead.id()
			})
			if most := l.timing.Answer + 50*time.Millisecond; took > most {
				t.Errorf("%v after another led, want at most %v", took, most)
			}
			lead.open()
			l.eventually(30*time.Second, "all vote again", func() bool { return l.voters() == 5 })
			time.Sleep(5 * time.Second)
		}
	})
}

func TestACoordinatorCutOffIsFencedAndStepsDown(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		_, east := l.regions()
		old := l.agree("east", east...)
		var with *member // of the region, on the coordinator's side
		for _, m := range east {
			if m != old {
				with = m
			}
		}
		before, ok := old.group.Office()
		if !ok {
			t.Fatal("not in office")
		}
		l.net.split(1, old.id(), with.id())
		l.oneInOffice(electLimit, "another is in office", func() bool {
			m := l.agree("east", l.leader())
			return m != nil && m != old && l.inOffice("east") == 1
		})
		if _, ok := old.group.Office(); ok {
			t.Error("the old one still believes it is in office")
		}
		time.Sleep(10 * time.Second)
		next := l.agree("east", l.leader())
		l.net.split(0, old.id())
		// Whoever it still gives orders to refuses, and that is how it learns.
		var other *member
		for _, m := range east {
			if m != old && m != with && m != next {
				other = m
			}
		}
		if err := old.group.Order(t.Context(), other.id(), before); !errors.Is(err, errSuperseded) || other.group.RefusedOrders() == 0 {
			t.Fatalf("an order of the old coordinator: %v", err)
		}
		if err := other.group.pullAs(t.Context(), old.id(), Office{Region: "east", Term: before.Term + 1, Node: old.id()}); err == nil {
			t.Error("it still serves as the coordinator")
		}
		l.oneInOffice(5*time.Second, "the old one knows", func() bool { return l.agree("east", old, next, other) == next })
		l.net.split(0, with.id())
		l.oneInOffice(20*time.Second, "all know", func() bool { return l.agree("east", east...) == next })
		office, ok := next.group.Office()
		if err := next.group.Order(t.Context(), old.id(), office); !ok || err != nil {
			t.Errorf("the new one's order: %v", err)
		}
	})
}

// Regression: of a region that was cut off as a whole, everybody was elected in turn, every 1.5 s, until gossip had noticed.
func TestARegionThatIsCutOffIsNotElectedThroughAndThrough(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		home, east := l.regions()
		_, before, _ := home[0].group.State().RegionCoordinator("east")
		l.unseen.Store(true)
		for _, m := range east {
			l.net.split(1, m.id())
		}
		cut := time.Now()
		term := func() uint64 {
			_, term, _ := l.leader().group.State().RegionCoordinator("east")
			return term - before
		}
		// After 1, 2, 4, 8, 16 and 32 times the patience with who is silent, by some milliseconds more.
		office := l.timing.Office
		for i, at := range []time.Duration{office, 2 * office, 4 * office, 8 * office, 16 * office} {
			time.Sleep(at*5/4 - time.Since(cut))
			if n := term(); n != uint64(i+1) {
				t.Errorf("%d elections within %s", n, time.Since(cut))
			}
		}
		for _, m := range east {
			l.net.split(0, m.id())
		}
		l.unseen.Store(false)
		l.eventually(20*time.Second, "one is in office", func() bool { return l.agree("east", east...) != nil && l.inOffice("east") == 1 })
		dead := l.agree("east", east...)
		dead.kill()
		l.oneInOffice(electLimit, "another is in office", func() bool { return l.agree("east", l.leader()) != dead && l.inOffice("east") == 1 })
	})
}

func TestPartitionsLeaveOneCoordinatorToObey(t *testing.T) {
	for name, minority := range map[string]int{"2 of 5 go, with the coordinator": 0, "2 of 5 go, without it": 1} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *lab) {
				home, _ := l.regions()
				old := l.agree("home", home...)
				var cut []identity.NodeID
				if minority == 0 {
					cut = append(cut, old.id())
				}
				for _, m := range home {
					if len(cut) < 2 && m != old {
						cut = append(cut, m.id())
					}
				}
				l.net.split(1, cut...)
				majority := func() *member { return l.leader() }
				l.oneInOffice(2*electLimit, "the majority has a coordinator", func() bool {
					leader := majority()
					if leader == nil || contains(cut, leader.id()) {
						return false
					}
					m := l.agree("home", leader)
					return m != nil && !contains(cut, m.id()) && l.inOffice("home") == 1
				})
				time.Sleep(5 * time.Second)
				now := l.agree("home", majority())
				if minority == 1 && now != old {
					t.Error("a coordinator that the majority kept was replaced")
				}
				l.net.split(0, cut...)
				l.oneInOffice(30*time.Second, "all agree", func() bool { return l.agree("home", home...) != nil && l.inOffice("home") == 1 })
				if l.agree("home", home...) != now {
					t.Error("the partition's end changed the coordinator")
				}
			})
		})
	}
}

func TestACleanStopHandsTheRegionOver(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		_, east := l.regions()
		gone := l.agree("east", east...)
		if err := gone.group.Handover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m := l.agree("east", l.leader()); m == nil || m == gone {
			t.Error("it is still the coordinator when Handover returns")
		}
	})
}

func TestACoordinatorKnowsItsRegion(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		home, east := l.regions()
		c := l.agree("east", l.nodes...)
		h, err := home[2].group.RegionHealth(t.Context(), "east")
		if err != nil || h.Members != 4 || h.Alive != 4 || h.Office.Node != c.id() {
			t.Fatalf("%+v, %v", h, err)
		}
		for _, m := range east {
			if m != c {
				m.kill()
				break
			}
		}
		l.offer(east[0], home[1])
		l.eventually(20*time.Second, "relays are appointed, and the region's coordinator names them", func() bool {
			h, err = home[2].group.RegionHealth(t.Context(), "east")
			return err == nil && len(h.Relays) == 2 && slices.Contains(h.Relays, east[0].id()) && slices.Contains(h.Relays, home[1].id())
		})
		if h, err = home[2].group.RegionHealth(t.Context(), "east"); err != nil || h.Members != 4 || h.Alive != 3 {
			t.Errorf("after a loss: %+v, %v", h, err)
		}
		if _, err := home[0].group.RegionHealth(t.Context(), "nowhere"); err == nil {
			t.Error("a region that is not")
		}
	})
}

// offer has members say to all that they relay for others.
func (l *lab) offer(members ...*member) {
	l.t.Helper()
	for _, m := range members {
		for _, n := range l.nodes {
			n.peers.Update(peer.Record{ID: m.id(), Sequence: 1, Relay: true, NAT: peer.NATNone})
		}
	}
}

// What members send each other about regions, as bytes from anybody who holds a certificate.
func FuzzRegion(f *testing.F) {
	ledger, _ := founded(f, "10.0.0.0/28")
	self, home := testKey(0).ID(), regionBody{Region: DefaultRegion, Coordinator: testKey(0).ID(), Term: 1}
	if err := ledger.Apply(must(f, KindRegion, day0, self, home), 9).Err(); err != nil {
		f.Fatal(err)
	}
	for _, body := range []any{
		regionMessage{Kind: regionBeat, LeaderTerm: 1, Region: DefaultRegion, Term: 1, Version: 3},
		regionMessage{Kind: regionOrder, Region: DefaultRegion, Term: 1, Version: 3},
		regionHealthRecord{Region: DefaultRegion, Term: 1, Node: self, Relays: []identity.NodeID{self}},
	} {
		b, err := wire.Marshal(body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &Group{self: self, cfg: Config{Now: func() time.Time { return day0 }}, pullFrom: make(chan identity.NodeID, 1)}
		g.state.Store(ledger.state)
		var m regionMessage
		if len(b) <= regionMessageMax && wire.Unmarshal(b, &m) == nil {
			for _, from := range []identity.NodeID{self, testKey(1).ID()} {
				if reply, ok := g.heedRegion(from, m); ok && from != self && !reply.Refused {
					t.Errorf("a stranger was obeyed: %+v", m)
				}
			}
		}
		if h, err := ledger.state.parseHealth(b, self, DefaultRegion); err == nil && (h.Office.Node != self || len(h.Relays) > relaysPerRegion) {
			t.Errorf("taken for health: %+v", h)
		}
	})
}

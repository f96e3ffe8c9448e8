package coordinator

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// place puts members into a region, as if they had joined there.
func (d *decisions) place(region string, members ...int) {
	for _, i := range members {
		m, _ := d.ledger.state.Member(testKey(i).ID())
		m.Certificate.Region = region
	}
	fmt.Fprintf(&d.trace, "%6s  %v are of region %s\n", d.now.Sub(day0), members, region)
}

// silent has the leader hear nothing from a coordinator.
func (d *decisions) silent(i int, is bool) {
	if d.o.Silent == nil {
		d.o.Silent = map[identity.NodeID]bool{}
	}
	d.o.Silent[testKey(i).ID()] = is
	fmt.Fprintf(&d.trace, "%6s  n%d silent=%v\n", d.now.Sub(day0), i, is)
}

// holder returns the number of the member that coordinates a region; -1: nobody does.
func (d *decisions) holder(region string) int {
	id, _, ok := d.ledger.state.RegionCoordinator(region)
	for i := range d.members {
		if ok && testKey(i).ID() == id {
			return i
		}
	}
	return -1
}

func TestRegionDeciderTraces(t *testing.T) {
	for name, play := range map[string]func(*decisions){
		"a-coordinator-falls-silent-and-returns": func(d *decisions) {
			d.run(2)
			d.silent(2, true)
			d.run(2)
			d.silent(2, false)
			d.run(60)
		},
		"a-whole-region-is-lost-and-returns": func(d *decisions) {
			d.run(2)
			for _, i := range []int{2, 3} {
				d.see(i, false)
				d.silent(i, true)
			}
			d.run(90)
			d.silent(3, false)
			d.see(3, true)
			d.run(5)
		},
		"members-move-until-a-region-is-empty": func(d *decisions) {
			d.run(2)
			d.place("west", 2)
			d.run(2)
			d.place("west", 3)
			d.run(2)
			d.place("east", 3)
			d.run(2)
		},
		"a-coordinator-is-revoked": func(d *decisions) {
			d.run(2)
			d.apply(KindRevoke, revokeBody{Revocation: revocation(d.t, d.ledger, 2, false, d.now)})
			d.run(2)
		},
		"a-coordinator-yields": func(d *decisions) {
			d.run(2)
			d.o.Yielding = map[identity.NodeID]bool{testKey(2).ID(): true}
			d.run(2)
			d.o.Yielding = nil
			d.run(30)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecisions(t, 4)
			d.place("east", 2, 3)
			play(d)
			for _, r := range d.ledger.state.Regions.List {
				fmt.Fprintf(&d.trace, "at the end %s: %s, term %d\n", r.Name, d.name(r.Coordinator), r.Term)
			}
			golden(t, filepath.Join("testdata", "deciders", "region-"+name+".txt"), d.trace.String())
		})
	}
}

// Who of a region is elected. All have been alive for as long, n0 leads and alone votes, n4 and n5 are of region east.
func TestTheBestOfARegionIsElected(t *testing.T) {
	for name, c := range map[string]struct {
		voters, poor, young, gone, silent, yielding []int
		home, east                                  int
	}{
		"a voter first":               {home: 0, east: 4},
		"in every region":             {voters: []int{5}, home: 0, east: 5},
		"no hard NAT":                 {poor: []int{4}, home: 0, east: 5},
		"a voter behind one before":   {voters: []int{5}, poor: []int{5}, home: 0, east: 5},
		"the one there longer":        {young: []int{4}, home: 0, east: 5},
		"not one that is away":        {gone: []int{0, 4}, home: 1, east: 5},
		"nor one that is about to go": {yielding: []int{0, 4}, home: 1, east: 5},
		"nor one that does not speak": {silent: []int{0, 4}, home: 1, east: 5},
		"nobody of another region":    {gone: []int{4, 5}, home: 0, east: -1},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecisions(t, 6)
			d.place("east", 4, 5)
			set := func(list []int) map[identity.NodeID]bool {
				out := map[identity.NodeID]bool{}
				for _, i := range list {
					out[testKey(i).ID()] = true
				}
				return out
			}
			for _, i := range c.voters {
				d.o.Voters = sortedIDs(append(d.o.Voters, testKey(i).ID()))
			}
			for i := range 6 {
				d.o.Alive[testKey(i).ID()] = day0
			}
			for _, i := range c.young {
				d.o.Alive[testKey(i).ID()] = day0.Add(time.Second)
			}
			for _, i := range c.gone {
				delete(d.o.Alive, testKey(i).ID())
				d.o.Gone[testKey(i).ID()] = day0
			}
			d.o.Poor, d.o.Silent, d.o.Yielding = set(c.poor), set(c.silent), set(c.yielding)
			d.o.Now, d.o.Wall = day0.Add(time.Minute), day0.Add(time.Minute)
			for _, p := range DecideRegions(d.ledger.state, d.o) {
				d.carryOut(p)
			}
			if home, east := d.holder(DefaultRegion), d.holder("east"); home != c.home || east != c.east {
				t.Errorf("n%d and n%d, want n%d and n%d", home, east, c.home, c.east)
			}
		})
	}
}

func TestOnlyTheNextTermOfARegionIsTaken(t *testing.T) {
	d := newDecisions(t, 3)
	d.place("east", 2)
	elect := func(region string, i int, term uint64) *Refused {
		d.index++
		return d.ledger.Apply(must(t, KindRegion, d.now, identity.NodeID{}, regionBody{Region: region, Coordinator: testKey(i).ID(), Term: term}), d.index).Refused
	}
	for _, c := range []struct {
		what   string
		region string
		member int
		term   uint64
		code   RefusalCode
	}{
		{"the first", DefaultRegion, 0, 1, ""},
		{"the same again", DefaultRegion, 0, 1, refusedConflict},
		{"one too far", DefaultRegion, 1, 3, refusedConflict},
		{"somebody of another region", DefaultRegion, 2, 2, refusedConflict},
		{"a stranger", DefaultRegion, 9, 2, refusedConflict},
		{"the next", DefaultRegion, 1, 2, ""},
		{"another region's first", "east", 2, 1, ""},
		{"a name that is none", "East", 2, 1, RefusedRequest},
	} {
		r := elect(c.region, c.member, c.term)
		if got := r; (got == nil) != (c.code == "") || (got != nil && got.Code != c.code) {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	if d.holder(DefaultRegion) != 1 || d.holder("east") != 2 {
		t.Error("not who was elected last")
	}

	// A region that is gone comes back above its old terms.
	d.place(DefaultRegion, 2)
	d.run(1)
	if _, known := d.ledger.state.Regions.Get("east"); known {
		t.Fatal("a region without members is still listed")
	}
	d.place("east", 2)
	d.run(1)
	if r, _ := d.ledger.state.Regions.Get("east"); r.Term < 3 {
		t.Errorf("the region came back with term %d", r.Term)
	}

	// Snapshots, files and digests hold the regions.
	again := d.ledger.reload(t)
	if !slices.Equal(again.state.Regions.List, d.ledger.state.Regions.List) || again.state.Digest() != d.ledger.state.Digest() {
		t.Error("the regions did not survive the snapshot")
	}
	var file bytes.Buffer
	if err := encodeState(&file, d.ledger.state); err != nil {
		t.Fatal(err)
	}
	if s, err := decodeState(&file, nil); err != nil || s.Digest() != d.ledger.state.Digest() || s.Version != d.ledger.state.Version {
		t.Errorf("nor the file: %v", err)
	}
}

func TestWhoNamesNoRegionBeginsInThatOfTheMemberThatLetItIn(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		if err := nodes[2].group.MoveRegion(t.Context(), "away"); err != nil {
			t.Fatal(err)
		}
		token := nodes[0].invite(InviteSpec{Uses: 3})
		for i, x := range []struct {
			asks string
			via  *member
			is   string
		}{{"", nodes[0], "home"}, {"", nodes[2], "away"}, {"moon", nodes[2], "moon"}} {
			m := l.node(3 + i)
			m.asks = &x.asks
			m.join(x.via, token)
			if is := m.group.State().RegionOf(m.id()); is != x.is {
				t.Errorf("let in by %s, asking for %q: begins in %s, want %s", x.via.name, x.asks, is, x.is)
			}
		}
	})
}

func TestAMemberMovesToAnotherRegionButNotAllTheTime(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.mesh(3)
		mover := nodes[2]
		coordinates := func(region string, m *member) bool {
			id, _, ok := nodes[0].group.State().RegionCoordinator(region)
			return ok && id == m.id()
		}
		l.eventually(5*time.Second, "home has a coordinator", func() bool { return coordinates("home", nodes[0]) })
		if err := mover.group.MoveRegion(t.Context(), "Not a label"); err == nil {
			t.Error("moved to what is no region")
		}
		if err := mover.group.MoveRegion(t.Context(), "away"); err != nil {
			t.Fatal(err)
		}
		l.eventually(10*time.Second, "the new region is coordinated, and all know", func() bool {
			return coordinates("away", mover) && coordinates("home", nodes[0]) && mover.group.State().RegionOf(mover.id()) == "away"
		})
		if err := nodes[0].group.MoveRegion(t.Context(), "away"); err != nil {
			t.Fatal(err)
		}
		l.eventually(5*time.Second, "another takes over the region that its coordinator left", func() bool {
			return coordinates("home", nodes[1]) && coordinates("away", mover)
		})
		var err error
		for i := range moveBurst {
			err = mover.group.MoveRegion(t.Context(), fmt.Sprint("place-", i))
		}
		if refusal, refused := asRefused(err); !refused || refusal.Code != RefusedNotAllowed {
			t.Errorf("one that flaps: %v", err)
		}
		time.Sleep(moveEvery)
		if err := mover.group.MoveRegion(t.Context(), "rest"); err != nil {
			t.Errorf("after a rest: %v", err)
		}
		audit, err := nodes[1].group.Audit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(audit.Entries, func(e AuditEntry) bool { return e.Action == "region" && e.Outcome == "done" }) {
			t.Error("the audit log does not tell of elections")
		}
	})
}

// A region's coordinator gives members that much longer before it takes them for behind, see coordinate.
func TestHowLongAMemberKeepsANewerStateToItself(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 0, 1: 0, versionCrowd: 0, versionCrowd + 1: versionTurn, 50: 3400 * time.Millisecond, 5000: versionPaceMax} {
		if got := VersionPace(n); got != want {
			t.Errorf("of %d: %v, want %v", n, got, want)
		}
	}
}

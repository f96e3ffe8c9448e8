package bulletin

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

var mesh = identity.MeshID{1, 2, 3}

var keys = sync.OnceValue(func() (out []*identity.Key) {
	for range 5 {
		k, err := identity.Generate(rand.Reader)
		if err != nil {
			panic(err)
		}
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b *identity.Key) int { return a.ID().Compare(b.ID()) })
	return out
})

func TestASetIsReadAsItWasWrittenAndIsShort(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 7, 8, 9, 50, 1000, 10_000} {
		for _, share := range []float64{0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999, 1} {
			in := make([]bool, n)
			for i := range in {
				in[i] = r.Float64() < share
			}
			b := encodeSet(in)
			out, err := decodeSet(b, n)
			if err != nil || !slices.Equal(in, out) {
				t.Fatalf("%d places, a share of %v: %v", n, share, err)
			}
			if most := 1 + (n+7)/8; len(b) > most {
				t.Errorf("%d bytes for %d places", len(b), n)
			}
		}
	}
	one := make([]bool, 1000)
	one[777] = true
	if b := encodeSet(one); len(b) > 3 {
		t.Errorf("%d bytes for one of a thousand", len(b))
	}
	if b := encodeSet(slices.Repeat([]bool{true}, 1000)); len(b) > 1 {
		t.Errorf("%d bytes for all of a thousand", len(b))
	}
}

func FuzzSet(f *testing.F) {
	f.Add(encodeSet([]bool{true, false, true}), 3)
	f.Add([]byte{2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 100)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > 4096 {
			return
		}
		in, err := decodeSet(b, n)
		if err == nil && len(in) != n {
			t.Fatalf("%d places of %d", len(in), n)
		}
	})
}

// state is a view of a mesh: the regions of keys()[i].
type state struct {
	version     uint64
	of          []string
	coordinator map[string]int
	term        map[string]uint64
	dead        []int
	now         time.Time
}

func (s state) view() View {
	at := map[identity.NodeID]int{}
	v := View{Mesh: mesh, Now: s.now, Version: s.version, Regions: map[string][]identity.NodeID{}}
	for i, region := range s.of {
		id := keys()[i].ID()
		at[id] = i
		if region != "" {
			v.Regions[region] = append(v.Regions[region], id)
		}
	}
	v.RegionOf = func(id identity.NodeID) string {
		if i, ok := at[id]; ok {
			return s.of[i]
		}
		return ""
	}
	v.Public = func(id identity.NodeID) (*identity.Public, bool) {
		if i, ok := at[id]; ok {
			return keys()[i].Public(), true
		}
		return nil, false
	}
	v.Coordinator = func(region string) (identity.NodeID, uint64, bool) {
		i, ok := s.coordinator[region]
		if !ok {
			return identity.NodeID{}, s.term[region], false
		}
		return keys()[i].ID(), s.term[region], true
	}
	v.Presides = func(_ string, id identity.NodeID) bool { return !slices.Contains(s.dead, at[id]) }
	return v
}

var noon = time.UnixMilli(1_800_000_000_000)

// east is a mesh in which 0, 1 and 2 are in the east, 3 and 4 in the west, with 0 and 3 to coordinate.
func east() state {
	return state{version: 10, of: []string{"east", "east", "east", "west", "west"}, coordinator: map[string]int{"east": 0, "west": 3},
		term: map[string]uint64{"east": 5, "west": 2}, now: noon}
}

// said is a bulletin of the east by one of the keys.
func said(t testing.TB, by int, change func(*Bulletin)) []byte {
	t.Helper()
	b := Bulletin{
		Mark:    Mark{Region: "east", Term: 5, Number: uint64(noon.UnixMilli())},
		Version: 10, Roll: RollOf(east().view().Regions["east"]), Away: []bool{false, true, false}, Left: []bool{false, false, false},
	}
	if change != nil {
		change(&b)
	}
	raw, err := b.Sign(mesh, keys()[by])
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestWhoseBulletinIsBelieved(t *testing.T) {
	orphaned, deserted := east(), east()
	delete(orphaned.coordinator, "east")
	deserted.dead = []int{0}
	number := func(n uint64) func(*Bulletin) { return func(b *Bulletin) { b.Number = n } }
	term := func(n uint64) func(*Bulletin) { return func(b *Bulletin) { b.Term = n } }
	forged := said(t, 0, nil)
	forged[len(forged)-1] ^= 1
	other := said(t, 0, func(b *Bulletin) { b.Region = "west" })
	for _, c := range []struct {
		name string
		in   state
		raw  []byte
		want error
	}{
		{"the coordinator's", east(), said(t, 0, nil), nil},
		{"another member's", east(), said(t, 1, nil), ErrEntitled},
		{"another member's, of a region without a coordinator", orphaned, said(t, 1, nil), nil},
		{"another member's, of a region whose coordinator is dead", deserted, said(t, 1, nil), nil},
		{"another region's coordinator's", east(), said(t, 3, nil), ErrEntitled},
		{"another region's member's, of a region without a coordinator", orphaned, said(t, 4, nil), ErrEntitled},
		{"the coordinator's, about another region", east(), other, ErrAhead}, // of a term that the west has not reached
		{"of an old term", east(), said(t, 0, term(4)), ErrStale},
		{"of a term to come", east(), said(t, 0, term(6)), ErrAhead},
		{"a forged one", east(), forged, ErrSignature},
		{"with a number from the future", east(), said(t, 0, number(uint64(noon.Add(skew+time.Second).UnixMilli()))), ErrTime},
		{"with a number from the end of time", orphaned, said(t, 1, number(1<<64-1)), ErrTime},
		{"by a list that is not known yet", east(), said(t, 0, func(b *Bulletin) { b.Version, b.Roll = 11, Roll{} }), ErrAhead},
		{"by a list that is not known any more", east(), said(t, 0, func(b *Bulletin) { b.Version, b.Roll = 9, Roll{} }), nil},
		{"an oversized one", east(), make([]byte, Max+1), ErrForm},
		{"nothing", east(), nil, ErrForm},
	} {
		board := NewBoard()
		board.Turn(c.in.view())
		if _, err := board.Take(c.raw); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestTheNewestBulletinStays(t *testing.T) {
	s := east()
	board := NewBoard()
	board.Turn(s.view())
	at := func(n uint64) []byte {
		return said(t, 0, func(b *Bulletin) { b.Number = n })
	}
	for _, c := range []struct {
		number uint64
		want   error
	}{{100, nil}, {100, ErrStale}, {99, ErrStale}, {101, nil}} {
		if _, err := board.Take(at(c.number)); !errors.Is(err, c.want) {
			t.Errorf("number %d: got %v, want %v", c.number, err, c.want)
		}
	}
	if n := board.NextNumber("east"); n <= 101 {
		t.Errorf("the next number is %d", n)
	}
	// Another is elected: what the old one still says is refused, whatever its number.
	s.coordinator["east"], s.term["east"], s.version = 1, 6, 11
	board.Turn(s.view())
	if _, err := board.Take(at(200)); !errors.Is(err, ErrStale) {
		t.Errorf("the old coordinator: %v", err)
	}
	if _, err := board.Take(said(t, 1, func(b *Bulletin) { b.Term, b.Number = 6, 1 })); err != nil {
		t.Errorf("the new coordinator, with a clock that is behind: %v", err)
	}
}

func TestABulletinOfANewerStateWaitsForIt(t *testing.T) {
	s := east()
	board := NewBoard()
	board.Turn(s.view())
	next := east()
	next.version, next.term["east"], next.coordinator["east"] = 11, 6, 1
	next.of[4] = "east" // has moved
	members := next.view().Regions["east"]
	raw := said(t, 1, func(b *Bulletin) {
		b.Term, b.Version, b.Roll, b.Away, b.Left = 6, 11, RollOf(members), make([]bool, len(members)), make([]bool, len(members))
	})
	if _, err := board.Take(raw); !errors.Is(err, ErrAhead) {
		t.Fatal(err)
	}
	if changed := board.Turn(next.view()); !slices.Contains(changed, "east") {
		t.Errorf("changed are %v", changed)
	}
	n, ok := board.Notice("east")
	list, known := board.Members(n)
	if !ok || !known || !slices.Equal(list, members) || n.Author != keys()[1].ID() {
		t.Errorf("%v, %v: %+v", ok, known, n)
	}
	// The list changes once more: the bulletin is read by the one that it was written by.
	next.version, next.of[2] = 12, ""
	board.Turn(next.view())
	if list, known := board.Members(n); !known || len(list) != len(members) {
		t.Error("the old list is forgotten")
	}
	next.version, next.of = 13, []string{"", "", "", "west", ""}
	board.Turn(next.view())
	if _, ok := board.Notice("east"); ok {
		t.Error("a region without members has a bulletin")
	}
}

func TestAHorizonIsTheOwnRegionsOnly(t *testing.T) {
	s := east()
	board := NewBoard()
	board.Turn(s.view())
	says := func(by int, region string, term, number uint64) []byte {
		h := Horizon{Mark: Mark{Region: region, Term: term, Number: number}, Dark: []Dark{DarkOf("west")}}
		raw, err := h.Sign(mesh, keys()[by])
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for i, c := range []struct {
		raw  []byte
		want error
	}{
		{says(3, "west", 2, 1), ErrEntitled}, {says(1, "east", 5, 1), ErrEntitled}, {says(0, "east", 4, 1), ErrStale},
		{said(t, 0, nil), ErrForm}, {says(0, "east", 5, 1), nil}, {says(0, "east", 5, 1), ErrStale}, {says(0, "east", 5, 2), nil},
	} {
		if err := board.TakeHorizon(c.raw, "east"); !errors.Is(err, c.want) {
			t.Errorf("horizon %d: got %v, want %v", i, err, c.want)
		}
	}
	speaker := keys()[0].ID()
	if !board.OutOfSight("east", speaker, "west") || board.OutOfSight("east", speaker, "east") || board.Headless("east", speaker, "west") {
		h, _ := board.Horizon("east")
		t.Errorf("%+v", h)
	}
	full := Horizon{Mark: Mark{Region: fmt.Sprintf("%063d", 1), Term: 1<<64 - 1, Number: 1<<64 - 1}, Dark: make([]Dark, DarkMax+9)}
	raw, err := full.Sign(mesh, keys()[0])
	if err != nil || len(raw) > HorizonMax {
		t.Errorf("the largest horizon has %d bytes, %v", len(raw), err)
	}
}

// Regression: a coordinator had said that another region was out of sight, its successor that it was not, and then it coordinated again and took
// the successor's word for told; those who had not heard the successor in time never heard it.
func TestAHorizonIsItsSpeakersInThePresentTerm(t *testing.T) {
	s, first, second := east(), keys()[0].ID(), keys()[1].ID()
	board := NewBoard()
	board.Turn(s.view())
	west := []Dark{DarkOf("west")}
	take := func(by int, term, number uint64, dark []Dark) error {
		h := Horizon{Mark: Mark{Region: "east", Term: term, Number: number}, Dark: dark}
		raw, err := h.Sign(mesh, keys()[by])
		if err != nil {
			t.Fatal(err)
		}
		return board.TakeHorizon(raw, "east")
	}
	turn := func(coordinator int, term uint64) {
		s.version++
		s.coordinator["east"], s.term["east"] = coordinator, term
		board.Turn(s.view())
	}
	check := func(when string, of identity.NodeID, lost bool, dark []Dark, untold bool) {
		t.Helper()
		if board.OutOfSight("east", of, "west") != lost || board.Untold("east", of, dark) != untold {
			t.Errorf("%s: out of sight %v, untold %v; want %v, %v", when, !lost, !untold, lost, untold)
		}
	}
	check("nothing lost, nothing told", first, false, nil, false)
	check("lost, not told", first, false, west, true)
	if err := take(0, 5, 1, west); err != nil {
		t.Fatal(err)
	}
	check("told", first, true, west, false)
	check("seen again", first, true, nil, true)

	turn(1, 6)
	check("another speaks", second, false, west, true)
	if err := take(1, 7, 3, west); !errors.Is(err, ErrAhead) {
		t.Errorf("of a newer term: %v", err)
	}
	if err := take(1, 7, 2, nil); !errors.Is(err, ErrAhead) {
		t.Errorf("of a newer term, and older: %v", err)
	}
	turn(1, 7)
	check("what was ahead has come", second, true, west, false)
	turn(0, 8)
	check("the first speaks again, and who heard it in its first term alone", first, false, nil, true)
}

// Regression: two halves of a region were cut off from each other, and each said that the other was away. They met again, and the half without the
// coordinator spoke once more before it noticed: who had believed it then refused the coordinator's word, which was older, for ever.
func TestACoordinatorThatIsOutbidSpeaksAgain(t *testing.T) {
	others, its := NewBoard(), NewBoard()
	s := east()
	its.Turn(s.view())
	s.dead = []int{0}
	others.Turn(s.view()) // who holds the coordinator for dead
	number := func(n uint64) func(*Bulletin) { return func(b *Bulletin) { b.Number = n } }
	first, rival := said(t, 0, number(100)), said(t, 1, number(200))
	for _, raw := range [][]byte{first, rival} {
		if _, err := others.Take(raw); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := its.Take(first); err != nil || its.Outbid("east") {
		t.Fatal(err, "outbid by nobody")
	}
	if _, err := its.Take(said(t, 3, number(150))); !errors.Is(err, ErrEntitled) || its.Outbid("east") {
		t.Errorf("%v; outbid by somebody of another region", err)
	}
	if _, err := its.Take(said(t, 1, number(uint64(noon.Add(time.Hour).UnixMilli())))); !errors.Is(err, ErrEntitled) || its.Outbid("east") {
		t.Errorf("%v; outbid from the future", err)
	}
	if _, err := its.Take(rival); !errors.Is(err, ErrEntitled) || !its.Outbid("east") {
		t.Fatalf("%v; not outbid", err)
	}
	again := said(t, 0, number(its.NextNumber("east")))
	for _, b := range []*Board{others, its} {
		if _, err := b.Take(again); err != nil || b.Outbid("east") {
			t.Errorf("what it says then: %v", err)
		}
	}
}

// Regression: a member that had been revoked, and did not know, spoke for its region on the wrong side of a partition; what it had said stood there until
// the coordinator had something new to say.
func TestWhatARevokedMemberHasSaidGivesWay(t *testing.T) {
	s := east()
	s.dead = []int{0}
	board := NewBoard()
	board.Turn(s.view())
	number := func(n uint64) func(*Bulletin) { return func(b *Bulletin) { b.Number = n } }
	older := said(t, 0, number(100))
	if _, err := board.Take(said(t, 1, number(200))); err != nil {
		t.Fatal(err)
	}
	if _, err := board.Take(older); !errors.Is(err, ErrStale) {
		t.Fatalf("an older one: %v", err)
	}
	s.version, s.of[1] = s.version+1, ""
	board.Turn(s.view())
	if n, _ := board.Notice("east"); !board.Deposed(n.Mark) {
		t.Error("a revoked member still speaks")
	}
	if n, err := board.Take(older); err != nil || board.Deposed(n.Mark) {
		t.Errorf("the coordinator's: %v", err)
	}
}

// Regression: who went by what another saw refused whoever spoke in the place of a coordinator that is lost, and had forgotten it when it learned that.
func TestWhatWasRefusedIsReconsidered(t *testing.T) {
	s := east()
	board := NewBoard()
	board.Turn(s.view())
	number := func(n uint64) func(*Bulletin) { return func(b *Bulletin) { b.Number = n } }
	first, newer, older := said(t, 0, number(100)), said(t, 1, number(300)), said(t, 2, number(200))
	if _, err := board.Take(first); err != nil {
		t.Fatal(err)
	}
	for _, raw := range [][]byte{newer, older, said(t, 3, number(400))} {
		if _, err := board.Take(raw); !errors.Is(err, ErrEntitled) {
			t.Fatal(err)
		}
	}
	if again := board.Reconsider(); len(again) > 0 {
		t.Error("before anything has changed")
	}
	s.dead = []int{0}
	board.Turn(s.view())
	if again := board.Reconsider(); len(again) != 1 || !bytes.Equal(again[0], newer) {
		t.Fatalf("%d are reconsidered, want the newest of the region", len(again))
	}
	if again := board.Reconsider(); len(again) > 0 {
		t.Error("it is reconsidered twice")
	}
}

// Who has said that a coordinator is lost may have lied: what was believed then ends with the lie, not when the coordinator has something new to say.
func TestACoordinatorThatIsBackIsBelievedThoughItsWordIsOlder(t *testing.T) {
	s := east()
	s.dead = []int{0}
	board := NewBoard()
	board.Turn(s.view())
	number := func(n uint64) func(*Bulletin) { return func(b *Bulletin) { b.Number = n } }
	its, rival := said(t, 0, number(100)), said(t, 1, number(200))
	if _, err := board.Take(rival); err != nil {
		t.Fatal(err)
	}
	if _, err := board.Take(its); !errors.Is(err, ErrStale) {
		t.Errorf("an older one of who is lost: %v", err)
	}
	s.dead = nil
	board.Turn(s.view())
	if _, err := board.Take(said(t, 2, number(150))); !errors.Is(err, ErrStale) {
		t.Errorf("an older one of another: %v", err)
	}
	if _, err := board.Take(its); err != nil {
		t.Errorf("an older one of who is back: %v", err)
	}
	if _, err := board.Take(rival); !errors.Is(err, ErrEntitled) {
		t.Errorf("the rival's once more: %v", err)
	}
}

func TestTheHorizonTellsWhichRegionsAreHeadlessInItsSpeakersTermOnly(t *testing.T) {
	s := east()
	board := NewBoard()
	board.Turn(s.view())
	first, second := keys()[0].ID(), keys()[1].ID()
	h := Horizon{Mark: Mark{Region: "east", Term: 5, Number: 1}, Dark: []Dark{DarkOf("north"), HeadlessOf("west")}}
	raw, err := h.Sign(mesh, keys()[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := board.TakeHorizon(raw, "east"); err != nil {
		t.Fatal(err)
	}
	for region, want := range map[string][2]bool{"west": {false, true}, "north": {true, false}, "south": {}} {
		if got := [2]bool{board.OutOfSight("east", first, region), board.Headless("east", first, region)}; got != want {
			t.Errorf("the %s is out of sight and headless %v, want %v", region, got, want)
		}
	}
	if board.Headless("east", second, "west") {
		t.Error("by the horizon of another than who speaks")
	}
	s.term["east"] = 6
	board.Turn(s.view())
	if board.Headless("east", first, "west") {
		t.Error("by a horizon of a former term")
	}
}

// Regression: a coordinator whose clock had been ahead numbered its bulletins by that for as long, and nobody took them.
func TestWhatWasSaidByAClockThatWasAheadIsSaidAgain(t *testing.T) {
	s := east()
	others, its := NewBoard(), NewBoard()
	others.Turn(s.view())
	s.now = noon.Add(40 * 24 * time.Hour)
	ahead := s.view()
	ahead.Self = keys()[0].ID()
	its.Turn(ahead)
	say := func() ([]byte, []byte) {
		n := its.NextNumber("east")
		h := Horizon{Mark: Mark{Region: "east", Term: 5, Number: its.NextNumber("east")}, Dark: []Dark{DarkOf("west")}}
		raw, err := h.Sign(mesh, keys()[0])
		if err != nil {
			t.Fatal(err)
		}
		return said(t, 0, func(b *Bulletin) { b.Number = n }), raw
	}
	both := func(want error) {
		t.Helper()
		b, h := say()
		_, err := its.Take(b)
		if err := errors.Join(err, its.TakeHorizon(h, "east")); err != nil {
			t.Fatal(err)
		}
		if _, err := others.Take(b); !errors.Is(err, want) {
			t.Errorf("the bulletin: %v, want %v", err, want)
		}
		if err := others.TakeHorizon(h, "east"); !errors.Is(err, want) {
			t.Errorf("the horizon: %v, want %v", err, want)
		}
	}
	both(ErrTime)
	untold := func() bool { return its.Untold("east", keys()[0].ID(), []Dark{DarkOf("west")}) }
	if its.Outbid("east") || untold() {
		t.Error("it doubts what it says before it knows the time")
	}
	its.Now(noon)
	if !its.Outbid("east") || !untold() {
		t.Error("it takes for said what nobody has taken")
	}
	both(nil)
	if its.Outbid("east") || untold() {
		t.Error("it says so again")
	}
}

func TestTheLargestBulletinFits(t *testing.T) {
	half := make([]bool, MembersMax)
	for i := range half {
		half[i] = i%2 == 0
	}
	b := Bulletin{Mark: Mark{Region: fmt.Sprintf("%063d", 1), Term: 1<<64 - 1, Number: 1<<64 - 1}, Version: 1<<64 - 1, Away: half, Left: half, Keys: 1<<64 - 1}
	raw, err := b.Sign(mesh, keys()[0])
	if err != nil || len(raw) > Max {
		t.Errorf("%d bytes, at most %d, %v", len(raw), Max, err)
	}
	b.Away, b.Left = half[:1000], make([]bool, 1000)
	if raw, _ := b.Sign(mesh, keys()[0]); len(raw) > 512 {
		t.Errorf("a region of a thousand, half of them away: %d bytes", len(raw))
	}
	b.Region, b.Away = "east", slices.Repeat([]bool{false}, 1000)
	raw, _ = b.Sign(mesh, keys()[0])
	t.Logf("a thousand members, all alive: %d bytes", len(raw))
}

func FuzzBulletin(f *testing.F) {
	b := Bulletin{Mark: Mark{Region: "east", Term: 5, Number: 9}, Away: []bool{false, true}, Left: []bool{false, true}}
	if raw, err := b.Sign(mesh, keys()[0]); err == nil {
		f.Add(raw)
	}
	h := Horizon{Mark: Mark{Region: "east"}, Dark: []Dark{{1}}}
	if raw, err := h.Sign(mesh, keys()[0]); err == nil {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if n, w, err := parse(raw); err == nil {
			if len(n.Away) > MembersMax || len(n.Left) != len(n.Away) {
				t.Fatalf("%d and %d places", len(n.Away), len(n.Left))
			}
			if bytes.Equal(w.Signature, nil) {
				t.Fatal("no signature")
			}
		}
		if h, _, err := parseHorizon(raw); err == nil && len(h.Dark) > DarkMax {
			t.Fatalf("%d dark regions", len(h.Dark))
		}
	})
}

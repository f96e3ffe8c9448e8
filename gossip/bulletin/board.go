package bulletin

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

const (
	// rollsKept is how many of a region's last lists are remembered: a bulletin may name members by one that was true some changes ago.
	rollsKept = 4
	// aheadMax bounds the bulletins that wait for a newer state, one of a region.
	aheadMax = 64
	// skew is granted to an author's clock, as to certificates.
	skew = 5 * time.Minute
)

// View is what the state that is held here says, and the little that is seen beside it.
type View struct {
	Mesh identity.MeshID
	Self identity.NodeID // who looks
	// Now is the machine's clock, which authors number by and which may be off.
	Now     time.Time
	Version uint64
	// RegionOf is a member's region, empty if it is no active member.
	RegionOf func(identity.NodeID) string
	// Public is a member's key.
	Public func(identity.NodeID) (*identity.Public, bool)
	// Coordinator is who coordinates a region, and in which term; the term is known even while nobody does.
	Coordinator func(region string) (id identity.NodeID, term uint64, ok bool)
	// Presides tells whether a region's coordinator is held alive here. Only while it is not, others of the region may speak for it.
	Presides func(region string, coordinator identity.NodeID) bool
	// Regions are the active members of every region, sorted.
	Regions map[string][]identity.NodeID
}

// Why something was not taken.
var (
	// ErrStale: what is held is as new, or its term is over.
	ErrStale = errors.New("bulletin: not newer than what is held")
	// ErrAhead: it speaks of a state that is not held here yet. It waits until Board.Turn.
	ErrAhead = errors.New("bulletin: of a newer state")
	// ErrEntitled: its author does not speak for the region.
	ErrEntitled = errors.New("bulletin: its author does not speak for the region")
	// ErrTime: its number lies in the future.
	ErrTime = errors.New("bulletin: from the future")
)

// Notice is a bulletin as the board holds it.
type Notice struct {
	Bulletin
	Raw []byte
}

type roll struct {
	hash    Roll
	members []identity.NodeID
}

// Board holds the newest bulletin of every region and the horizon of our own. It is for one goroutine at a time.
type Board struct {
	view    View
	notices map[string]Notice
	ahead   map[string][]byte
	rolls   map[string][]roll // by region, the newest first
	refused map[string]Notice // by region, the newest whose author does not speak for it, by what is seen here

	horizonOutbid uint64 // the same of the horizons of our own region

	horizon      Horizon
	horizonRaw   []byte
	horizonAhead waitingHorizon
}

// waitingHorizon is a horizon of a newer term than the one that is held here; its author has signed it.
type waitingHorizon struct {
	mark Mark
	raw  []byte
}

// NewBoard returns an empty board.
func NewBoard() *Board {
	return &Board{notices: map[string]Notice{}, ahead: map[string][]byte{}, rolls: map[string][]roll{}, refused: map[string]Notice{}}
}

// Turn has the board look at the world through another view. What is said of regions that are no more is forgotten. It returns the regions
// whose bulletin has come with it, having waited for a newer state, and those whose bulletin is now to be read by another list. A horizon that
// has waited is taken too.
func (b *Board) Turn(v View) (changed []string) {
	b.view = v
	for region, members := range v.Regions {
		hash := RollOf(members)
		list := b.rolls[region]
		if len(list) > 0 && list[0].hash == hash {
			continue
		}
		list = slices.DeleteFunc(list, func(r roll) bool { return r.hash == hash })
		b.rolls[region] = slices.Insert(list, 0, roll{hash, members})[:min(len(list)+1, rollsKept)]
		changed = append(changed, region)
	}
	gone := func(region string) bool { return len(v.Regions[region]) == 0 }
	maps.DeleteFunc(b.rolls, func(region string, _ []roll) bool { return gone(region) })
	maps.DeleteFunc(b.notices, func(region string, _ Notice) bool { return gone(region) })
	maps.DeleteFunc(b.refused, func(region string, _ Notice) bool { return gone(region) })
	waiting := b.ahead
	b.ahead = map[string][]byte{}
	for region, raw := range waiting {
		if n, err := b.Take(raw); err == nil {
			changed = append(changed, n.Region)
		} else if errors.Is(err, ErrAhead) && !gone(region) {
			b.ahead[region] = raw
		}
	}
	if w := b.horizonAhead; w.raw != nil {
		b.horizonAhead = waitingHorizon{}
		_ = b.TakeHorizon(w.raw, w.mark.Region) // if it is still ahead it waits again
	}
	slices.Sort(changed)
	return slices.Compact(changed)
}

// Now tells the board the time.
func (b *Board) Now(now time.Time) { b.view.Now = now }

// Take puts a bulletin on the board, or says why not.
func (b *Board) Take(raw []byte) (Notice, error) {
	n, w, err := parse(raw)
	if err != nil {
		return Notice{}, err
	}
	if old, ok := b.notices[n.Region]; ok && !b.void(old.Mark) && !b.Deposed(old.Mark) && !b.returned(old.Mark, n.Mark) && !n.newer(old.Mark) {
		return Notice{}, ErrStale
	}
	public, known := b.view.Public(n.Author)
	if known {
		if err := w.verify(b.view.Mesh, public); err != nil {
			return Notice{}, err
		}
	}
	if err := b.entitled(n.Mark, n.Version); err != nil {
		if known && b.rivals(n.Mark, err) && n.newer(b.refused[n.Region].Mark) {
			b.refused[n.Region] = Notice{Bulletin: n, Raw: slices.Clone(raw)}
		}
		return Notice{}, b.await(n.Region, raw, err)
	}
	if _, ok := b.list(n); !ok && n.Version > b.view.Version {
		return Notice{}, b.await(n.Region, raw, ErrAhead)
	}
	taken := Notice{Bulletin: n, Raw: slices.Clone(raw)}
	b.notices[n.Region] = taken
	if !b.refused[n.Region].newer(n.Mark) {
		delete(b.refused, n.Region)
	}
	return taken, nil
}

// entitled tells whether who signed speaks for the region.
func (b *Board) entitled(m Mark, version uint64) error {
	coordinator, term, held := b.view.Coordinator(m.Region)
	switch {
	case m.Term < term:
		return ErrStale
	case m.Term > term:
		return ErrAhead
	case b.view.RegionOf(m.Author) != m.Region && version > b.view.Version:
		return ErrAhead
	case b.view.RegionOf(m.Author) != m.Region, held && coordinator != m.Author && b.view.Presides(m.Region, coordinator):
		return ErrEntitled
	case b.future(m.Number):
		return ErrTime
	}
	return nil
}

// rivals reports whether somebody who was refused may speak for the region in the eyes of others: of those who hold its coordinator for dead.
func (b *Board) rivals(m Mark, refused error) bool {
	return errors.Is(refused, ErrEntitled) && b.view.RegionOf(m.Author) == m.Region && !b.future(m.Number)
}

// Reconsider returns what was refused because its region's coordinator was held alive, and need not be any more, each once: who has said it may not say
// so again for long.
func (b *Board) Reconsider() (raw [][]byte) {
	for _, region := range slices.Sorted(maps.Keys(b.refused)) {
		if r := b.refused[region]; !errors.Is(b.entitled(r.Mark, r.Version), ErrEntitled) {
			delete(b.refused, region)
			raw = append(raw, r.Raw)
		}
	}
	return raw
}

// returned reports whether a region's coordinator, which is held alive here, says something where another has spoken in its place. That gives way, though
// the coordinator's word be older: whoever believed that it was lost, or was told so by a liar, need not wait until it has something new to say.
func (b *Board) returned(old, m Mark) bool {
	coordinator, term, held := b.view.Coordinator(m.Region)
	return held && m.Author == coordinator && old.Author != coordinator && m.Term == term && old.Term == term && b.view.Presides(m.Region, coordinator)
}

// future reports whether a number is none that a clock gives now.
func (b *Board) future(number uint64) bool {
	return number > uint64(max(0, b.view.Now.Add(skew).UnixMilli()))
}

// void reports whether something is our own and from the future: the clock of this machine was ahead when it was said, and nobody else has taken it.
func (b *Board) void(m Mark) bool { return m.Author == b.view.Self && b.future(m.Number) }

// Deposed reports whether who has said something is no member of the region any more. Whatever one of the region says takes its place, though it be older:
// who speaks for the region may never have heard of it.
func (b *Board) Deposed(m Mark) bool { return b.view.RegionOf(m.Author) != m.Region }

// Outbid reports whether another has said something for a region that is newer than what is held here and was refused, or nobody else has taken what is
// held here. Who speaks for the region then has to say anew what it has said: whoever took the other's word for the newest refuses what is older.
func (b *Board) Outbid(region string) bool {
	n, ok := b.notices[region]
	return ok && (b.void(n.Mark) || b.refused[region].Number > n.Number)
}

// await keeps what is of a newer state.
func (b *Board) await(region string, raw []byte, why error) error {
	if _, ok := b.ahead[region]; errors.Is(why, ErrAhead) && (ok || len(b.ahead) < aheadMax) {
		b.ahead[region] = slices.Clone(raw)
	}
	return why
}

// list finds the members by which a bulletin names those of its region.
func (b *Board) list(n Bulletin) ([]identity.NodeID, bool) {
	for _, r := range b.rolls[n.Region] {
		if r.hash == n.Roll && len(r.members) == len(n.Away) {
			return r.members, true
		}
	}
	return nil, false
}

// Notice returns what is held of a region.
func (b *Board) Notice(region string) (Notice, bool) {
	n, ok := b.notices[region]
	return n, ok
}

// Members returns whom a notice names, in the order of its places; false if it is by a list that is not known here.
func (b *Board) Members(n Notice) ([]identity.NodeID, bool) { return b.list(n.Bulletin) }

// Notices returns all that are held, by region.
func (b *Board) Notices() []Notice {
	out := make([]Notice, 0, len(b.notices))
	for _, region := range slices.Sorted(maps.Keys(b.notices)) {
		out = append(out, b.notices[region])
	}
	return out
}

// NextNumber is the number of what is said next for a region: the time, or one above the last that is known.
func (b *Board) NextNumber(region string) uint64 {
	next := uint64(max(0, b.view.Now.UnixMilli()))
	for _, m := range []Mark{b.notices[region].Mark, b.horizon.Mark} {
		if m.Region == region && !b.void(m) {
			next = max(next, m.Number+1)
		}
	}
	if r, ok := b.refused[region]; ok {
		next = max(next, r.Number+1)
	}
	if b.horizon.Region == region {
		next = max(next, b.horizonOutbid+1)
	}
	return next
}

// TakeHorizon takes the horizon of a region, which is to be our own.
func (b *Board) TakeHorizon(raw []byte, region string) error {
	h, w, err := parseHorizon(raw)
	if err != nil {
		return err
	}
	if h.Region != region {
		return ErrEntitled
	}
	if b.horizon.Region == region && !b.void(b.horizon.Mark) && !b.Deposed(b.horizon.Mark) && !h.newer(b.horizon.Mark) {
		return ErrStale
	}
	public, ok := b.view.Public(h.Author)
	if !ok {
		return ErrEntitled
	}
	if err := w.verify(b.view.Mesh, public); err != nil {
		return err
	}
	if err := b.entitled(h.Mark, 0); err != nil {
		if wait := b.horizonAhead; errors.Is(err, ErrAhead) && (wait.mark.Region != region || h.newer(wait.mark)) {
			b.horizonAhead = waitingHorizon{h.Mark, slices.Clone(raw)}
		}
		if b.rivals(h.Mark, err) && b.horizon.Region == region {
			b.horizonOutbid = max(b.horizonOutbid, h.Number)
		}
		return err
	}
	if b.horizon.Region != region {
		b.horizonOutbid = 0
	}
	b.horizon, b.horizonRaw = h, slices.Clone(raw)
	return nil
}

// Horizon returns the horizon that is held of a region, and its bytes; zero: none.
func (b *Board) Horizon(region string) (Horizon, []byte) {
	if b.horizon.Region != region {
		return Horizon{}, nil
	}
	return b.horizon, b.horizonRaw
}

// OutOfSight reports whether whoever speaks for our own region now has said, in the region's present term, that it has lost sight of another.
// What was said before is over: who followed has refused it, or had nothing to add.
func (b *Board) OutOfSight(own string, speaker identity.NodeID, region string) bool {
	return b.told(own, speaker, DarkOf(region))
}

// Headless reports whether it has said, likewise, that another's coordinator is lost.
func (b *Board) Headless(own string, speaker identity.NodeID, region string) bool {
	return b.told(own, speaker, HeadlessOf(region))
}

func (b *Board) told(own string, speaker identity.NodeID, name Dark) bool {
	h, raw := b.Horizon(own)
	_, term, _ := b.view.Coordinator(own)
	return raw != nil && h.Author == speaker && h.Term == term && slices.Contains(h.Dark, name)
}

// Untold reports whether who speaks for its own region has to tell it which others are out of sight or headless: the region has not heard that from this
// node in the present term, or something newer from another. While nobody was ever out of sight there is nothing to tell.
func (b *Board) Untold(own string, self identity.NodeID, dark []Dark) bool {
	h, raw := b.Horizon(own)
	if raw == nil {
		return len(dark) > 0
	}
	_, term, _ := b.view.Coordinator(own)
	outbid := b.void(h.Mark) || b.horizonOutbid > h.Number
	return outbid || h.Author != self || h.Term != term || !slices.Equal(h.Dark, dark)
}

// String is a mark as logs show it.
func (m Mark) String() string {
	return fmt.Sprintf("%s %d/%d by %s", m.Region, m.Term, m.Number, m.Author.Short())
}

package node

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/gossip/bulletin"
	"github.com/phantommesh/phantommesh/peer"
)

// What a node knows of other regions. In a mesh with one region there are none, and all of this rests.
//
// Who is alive there it knows from bulletins (gossip/bulletin), which come as rumours (followRumours), with gossip's exchanges (Merge) or in
// answer to a post (post.go). What they say goes into the peer table as the verdict of one more source beside the pools. Where somebody is,
// it knows of those whom everybody needs, who tell it themselves (topicRecord); of others it asks when it wants to reach them (lookup.go).
//
// One goroutine (run) looks at all of it when something has happened, and now and then.

// verdictOfBulletins is the source of what bulletins say, in the peer table.
const verdictOfBulletins = "bulletin"

const (
	// abroadLook is the time between two looks when nothing happens, and abroadPause the least between any two: what happens at once is
	// told at once.
	abroadLook  = 5 * time.Second
	abroadPause = 250 * time.Millisecond
	// restLook is the time between two looks in a mesh with one region. A second would come with a change of the state, which has us look.
	restLook = time.Minute
	// darkAfter is how long whoever speaks for a region must have been lost to the wide pool until the region is given up: time for another
	// to be elected there and to say so.
	darkAfter = 10 * time.Second
	// orphanLook is the time between two questions to a voter in a region that nobody connects with the others: rumours do not come there.
	orphanLook = 3 * time.Second
	// mergesMax is how many exchanges' worth of news may wait. What is lost comes with the next.
	mergesMax = 8
	// learnedMax bounds the records that are kept to be passed on: those of the members that a region's coordinator or the leader hears of.
	learnedMax = 4096
	// followTable is how long a bulletin's word on a member that is of our own region now still counts, until its pool knows better.
	followTable = 30 * time.Second
)

// abroad is what this node knows of other regions.
type abroad struct {
	m      *membership
	wake   chan struct{}        // 1: look
	merges chan []byte          // what others share
	shared atomic.Pointer[what] // what we share; nil: nothing

	counts bulletinCounts

	mu      sync.Mutex         // guards what follows
	closed  bool               // nothing more is begun
	state   *coordinator.State // that the board knows; nil before the first look
	own     string             // our region
	several bool
	members map[string][]identity.NodeID // active ones, by region
	board   *bulletin.Board
	records map[identity.NodeID]toldRecord // of those that everybody needs
	learned map[identity.NodeID][]byte     // records that were put forward or asked for, at most learnedMax
	heard   map[string]time.Time           // when a region's bulletin came
	lost    map[string]time.Time           // since when whoever speaks for a region has been gone
	dark    map[string]bool                // regions given up

	outlook outlook
	speech  speech // what we said for our own region
	search  searches
	posts   posts

	news []transition // to be told once the lock is free

	orphaned time.Time // when a voter was last asked because nobody connects our region
	turn     int       // whom
}

// transition is what has become known of a member: its state has changed, or where it is.
type transition struct {
	id    identity.NodeID
	state peer.State // Unknown: it has not changed
	addrs []netip.AddrPort
}

// unlock gives the lock back and tells the rest of the node what has become known meanwhile.
func (a *abroad) unlock() {
	news := a.news
	a.news = nil
	a.mu.Unlock()
	for _, t := range news {
		if len(t.addrs) > 0 {
			a.m.note(t.id, t.addrs)
		}
		if t.state != peer.Unknown {
			a.m.heed(t.id, t.state)
		}
	}
}

// toldRecord is a record as its node has told all regions.
type toldRecord struct {
	signed   []byte
	sequence uint64
}

func newAbroad(m *membership) *abroad {
	return &abroad{
		m: m, wake: make(chan struct{}, 1), merges: make(chan []byte, mergesMax), board: bulletin.NewBoard(),
		records: map[identity.NodeID]toldRecord{}, learned: map[identity.NodeID][]byte{}, heard: map[string]time.Time{}, lost: map[string]time.Time{}, dark: map[string]bool{}, search: newSearches(), posts: newPosts(),
	}
}

// run looks at the other regions until the membership ends.
func (a *abroad) run() {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.closed = true
	}()
	timer := time.NewTimer(a.look())
	defer timer.Stop()
	for {
		select {
		case <-a.m.ctx.Done():
			return
		case b := <-a.merges:
			a.merge(b)
			continue
		case <-a.wake:
		case <-timer.C:
		}
		timer.Reset(a.look())
		if !sleep(a.m.ctx, abroadPause) {
			return
		}
	}
}

// look does what there is to do, and returns when to look again.
func (a *abroad) look() time.Duration {
	state := a.m.group.State()
	now := time.Now()
	a.m.noteWide(state)
	a.lock()
	several := a.several
	if several {
		a.judgeRegions(state, now)
		a.settleOwn(now)
	}
	a.unlock()
	if !several {
		return restLook
	}
	again := min(abroadLook, a.speakFor(state, now), a.report(state, now))
	if a.orphan(state, now) {
		again = min(again, orphanLook)
	}
	return again
}

// turnTo has the board follow the mesh's state.
func (a *abroad) turnTo(state *coordinator.State, now time.Time) {
	a.board.Now(a.m.node.cfg.Now())
	if a.state != nil && state.Version == a.state.Version && state.Coordinators.AsOf.Equal(a.state.Coordinators.AsOf) {
		return
	}
	before, changes := a.own, a.state == nil || state.Version != a.state.Version
	a.state = state
	if !changes { // but for who votes, which no bulletin depends on
		return
	}
	a.own, a.members = state.RegionOf(a.m.node.ID()), state.MembersOf()
	was := a.several
	a.several = len(a.members) > 1
	if !a.several {
		if was {
			a.m.node.peers.Retract(verdictOfBulletins, now)
			a.shared.Store(nil)
		}
		return
	}
	changed := a.board.Turn(a.view(state))
	for id := range a.records {
		if !isNotable(state, id) {
			delete(a.records, id)
		}
	}
	for region := range a.heard {
		if len(a.members[region]) == 0 {
			delete(a.heard, region)
			delete(a.lost, region)
			delete(a.dark, region)
		}
	}
	if before != a.own {
		changed = changed[:0]
		for region := range a.members {
			changed = append(changed, region)
		}
		slices.Sort(changed)
	}
	for _, region := range changed {
		if _, ok := a.board.Notice(region); ok {
			a.heard[region] = now // perhaps one that had to wait
		}
		a.apply(region, now)
	}
	a.share()
}

// view is what the board goes by.
func (a *abroad) view(state *coordinator.State) bulletin.View {
	return bulletin.View{
		Mesh: state.Mesh.ID, Self: a.m.node.ID(), Now: a.m.node.cfg.Now(), Version: state.Version, Regions: a.members,
		RegionOf: func(id identity.NodeID) string {
			if !state.Active(id) {
				return ""
			}
			return state.RegionOf(id)
		},
		Public: func(id identity.NodeID) (*identity.Public, bool) {
			m, ok := state.Member(id)
			if !ok || m.Status != coordinator.Active {
				return nil, false
			}
			return &m.Certificate.Public, true
		},
		Coordinator: state.RegionCoordinator,
		Presides:    a.presides,
	}
}

// isNotable tells whether everybody may need a member: to decide, to hear of its region, or to be relayed.
func isNotable(state *coordinator.State, id identity.NodeID) bool {
	if _, _, ok := state.Coordinates(id); ok || state.Coordinators.Voter(id) {
		return true
	}
	for _, r := range state.Regions.List {
		if state.Relays.Appointed(r.Name, id) {
			return true
		}
	}
	return false
}

// lock takes the lock, with the board at the mesh's state.
func (a *abroad) lock() {
	state := a.m.group.State()
	a.mu.Lock()
	a.turnTo(state, time.Now())
}

// hear takes a bulletin that somebody passed on, and reports whether it is news. A newer state than ours is fetched from its author.
func (a *abroad) hear(raw []byte) bool {
	a.lock()
	defer a.unlock()
	return a.hearLocked(raw)
}

func (a *abroad) hearLocked(raw []byte) bool {
	if !a.several {
		return false
	}
	now := time.Now()
	a.board.Now(a.m.node.cfg.Now())
	n, err := a.board.Take(raw)
	if a.counts.note(err) {
		if b, perr := bulletin.Parse(raw); perr == nil {
			a.m.group.PullSoon(b.Author)
		}
	}
	if err != nil {
		return false
	}
	a.m.node.log.Debug("bulletin", "region", n.Region, "mark", n.Mark.String())
	a.heard[n.Region] = now
	delete(a.lost, n.Region)
	delete(a.dark, n.Region)
	a.apply(n.Region, now)
	a.share()
	signal(a.wake)
	return true
}

// hearHorizon takes what those who speak for our own region have lost sight of.
func (a *abroad) hearHorizon(raw []byte) {
	a.lock()
	defer a.unlock()
	if !a.several {
		return
	}
	a.board.Now(a.m.node.cfg.Now())
	err := a.board.TakeHorizon(raw, a.own)
	a.counts.note(err)
	if err == nil {
		a.share()
		signal(a.wake)
	}
}

// hearRecord takes what a member that everybody needs says of itself.
func (a *abroad) hearRecord(id identity.NodeID, signed []byte) {
	a.lock()
	defer a.unlock()
	if a.hearRecordLocked(id, signed) {
		a.share()
	}
}

func (a *abroad) hearRecordLocked(id identity.NodeID, signed []byte) bool {
	e, ok := a.m.node.peers.Get(id)
	if !a.several || !ok || e.Revoked || !isNotable(a.state, id) {
		return false
	}
	r, err := peer.ParseRecord(id, signed)
	if err != nil || r.Sequence <= a.records[id].sequence {
		return false
	}
	if r, err = peer.VerifyRecord(&e.Member.Public, signed); err != nil {
		a.counts.refused.Add(1)
		return false
	}
	a.records[id] = toldRecord{append([]byte(nil), signed...), r.Sequence}
	if id != a.m.node.ID() && a.m.node.peers.Update(r) {
		a.news = append(a.news, transition{id: id, addrs: addresses(r)})
	}
	return true
}

// orphan has a voter asked for the state while nobody connects our region with the others, and reports whether that is so.
func (a *abroad) orphan(state *coordinator.State, now time.Time) bool {
	if a.m.connects(state) {
		return false
	}
	for _, p := range a.m.homeMembers() {
		_, _, coordinates := state.Coordinates(p.ID)
		if p.State == peer.Alive && (coordinates || state.Coordinators.Voter(p.ID)) {
			return false
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	voters := state.Coordinators.Voters
	if now.Sub(a.orphaned) >= orphanLook && len(voters) > 0 {
		a.orphaned = now
		a.turn++
		a.m.group.PullSoon(voters[a.turn%len(voters)])
	}
	return true
}

// homeMembers are those of our region's pool, this node among them.
func (m *membership) homeMembers() []gossip.Member {
	if p := m.homePool(); p != nil {
		return p.Members()
	}
	return nil
}

// holds is the version of the state that a member of another region is known to hold.
func (a *abroad) holds(id identity.NodeID) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	for region, list := range a.members {
		if region == a.own {
			continue
		}
		for _, other := range list {
			if other != id {
				continue
			}
			n, _ := a.board.Notice(region)
			return n.Keys
		}
	}
	return 0
}

// foreign reports whether a member is of another region.
func (a *abroad) foreign(id identity.NodeID) bool {
	e, ok := a.m.node.peers.Get(id)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.several && ok && string(regionScope(e.Member.Region)) != a.own
}

// within is a context for questions about other regions.
func (a *abroad) within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(a.m.ctx, d)
}

package gossip

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// roster is the pool's own view of its members' states. Memberlist tells through its delegates who came and who went; it does not
// tell who is suspected, nor whether the one who went has left or died. When there is a question of that kind (somebody went, or
// memberlist spreads a suspicion), the roster is unclear and the publisher settles it from a snapshot (snapshot.go).
//
// Its methods are called with memberlist's lock held. They take the roster's own, last in order, and never wait.
type roster struct {
	wake chan struct{} // has a token while there is something to settle or to publish

	mu      sync.Mutex // guards what follows
	members map[identity.NodeID]*standing
	changed map[identity.NodeID]struct{} // not yet published; no more than there are members
	unclear bool
	events  uint64 // counts what memberlist told; orders it against snapshots

	stirred    time.Time // when somebody last came, went, or was suspected
	news       time.Time // the same, or said something new of itself
	suspicions int       // how many are suspected
}

// standing is one member's place in the roster.
type standing struct {
	state  peer.State
	since  time.Time
	record peer.Record
	rtt    time.Duration // of the last answered probe; zero if none

	// touched is the count of events when memberlist last told of this member.
	touched uint64
	// expelled: the mesh revoked the member, or has it in another pool. It is gone for us, whatever memberlist still believes.
	expelled bool
	// published is the state that was last told; recordNew: the record has changed since.
	published peer.State
	recordNew bool
}

func newRoster() *roster {
	return &roster{
		wake:    make(chan struct{}, 1),
		members: map[identity.NodeID]*standing{},
		changed: map[identity.NodeID]struct{}{},
	}
}

func (r *roster) wakeLocked() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *roster) touchLocked(id identity.NodeID, s *standing) {
	r.events++
	s.touched = r.events
	r.changed[id] = struct{}{}
	r.wakeLocked()
}

// joined enters that memberlist holds the node alive, with the record it came with.
func (r *roster) joined(id identity.NodeID, record peer.Record, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.members[id]
	if s == nil {
		s = &standing{}
		r.members[id] = s
	}
	s.since, s.expelled = now, false
	r.setStateLocked(s, peer.Alive, now)
	s.setRecord(record)
	r.touchLocked(id, s)
}

// updated enters a member's new record.
func (r *roster) updated(id identity.NodeID, record peer.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.members[id]; s != nil {
		s.setRecord(record)
		r.news = time.Now()
		r.touchLocked(id, s)
	}
}

// setStateLocked enters a member's state; whatever changes it stirs the roster.
func (r *roster) setStateLocked(s *standing, state peer.State, now time.Time) {
	if s.state == peer.Suspect {
		r.suspicions--
	}
	if state == peer.Suspect {
		r.suspicions++
	}
	s.state = state
	r.stirLocked(now)
}

func (s *standing) setRecord(record peer.Record) {
	if record.Sequence >= s.record.Sequence {
		s.record, s.recordNew = record, true
	}
}

// gone enters that memberlist holds the node for dead or left; which of them, the next snapshot says.
func (r *roster) gone(id identity.NodeID, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.members[id]; s != nil {
		s.since = now
		r.setStateLocked(s, peer.Dead, now)
		r.unclear = true
		r.touchLocked(id, s)
	}
}

// suspected notes that memberlist spreads a suspicion of the node.
func (r *roster) suspected(id identity.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.members[id]; s != nil && s.state == peer.Alive {
		r.unclear = true
		r.stirLocked(time.Now())
		r.wakeLocked()
	}
}

// expelled enters that a member is out: Dead if the mesh has revoked it, Left if it has it elsewhere.
func (r *roster) expelled(id identity.NodeID, as peer.State, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.members[id]
	if s == nil || s.expelled {
		return
	}
	s.expelled = true
	if here(s.state) {
		s.since = now
		r.setStateLocked(s, as, now)
		r.touchLocked(id, s)
	}
}

// readmitted enters that a member belongs here after all, if it was out. Memberlist may have held it alive all the time and will not tell of it: a
// snapshot says.
func (r *roster) readmitted(id identity.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.members[id]; s != nil && s.expelled {
		s.expelled, r.unclear = false, true
		r.wakeLocked()
	}
}

// here reports whether a node in the state takes part.
func here(s peer.State) bool { return s == peer.Alive || s == peer.Suspect }

// question returns whether a snapshot is needed, and the mark that it must be settled with. While somebody is suspected, one is
// always needed: nothing tells when a suspicion ends well.
func (r *roster) question() (mark uint64, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	open = r.unclear || r.suspicions > 0
	r.unclear = false
	return r.events, open
}

// suspects reports whether anybody is suspected.
func (r *roster) suspects() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.suspicions > 0
}

// settle enters the states of a snapshot that was taken after question returned mark. What memberlist has told since is newer.
func (r *roster) settle(states map[identity.NodeID]peer.State, mark uint64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.members {
		state, ok := states[id]
		if !ok || s.expelled || s.touched > mark || s.state == state {
			continue
		}
		if s.state != peer.Dead || state != peer.Left { // dying and leaving happened at the same time
			s.since = now
		}
		r.setStateLocked(s, state, now)
		r.changed[id] = struct{}{}
	}
}

// answered notes the round trip of an answered probe and returns the member's record.
func (r *roster) answered(id identity.NodeID, rtt time.Duration) (record peer.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.members[id]; s != nil {
		s.rtt = rtt
		record = s.record
	}
	return record
}

// forget drops members that are gone and that keep refuses. One that takes part is never dropped: memberlist still has it.
func (r *roster) forget(keep func(identity.NodeID) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.members {
		if !here(s.state) && !keep(id) {
			delete(r.members, id)
			delete(r.changed, id)
		}
	}
}

// change is what there is to tell of one member.
type change struct {
	Member
	since     time.Time
	before    peer.State
	newRecord bool
}

// take returns what has changed since it was last called, by ID.
func (r *roster) take() []change {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []change
	for id := range r.changed {
		s := r.members[id]
		out = append(out, change{Member: s.member(id), since: s.since, before: s.published, newRecord: s.recordNew})
		s.published, s.recordNew = s.state, false
	}
	clear(r.changed)
	slices.SortFunc(out, func(a, b change) int { return a.ID.Compare(b.ID) })
	return out
}

func (s *standing) member(id identity.NodeID) Member {
	return Member{ID: id, State: s.state, Record: s.record, RTT: s.rtt}
}

// all returns every member, by ID.
func (r *roster) all() []Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Member, 0, len(r.members))
	for id, s := range r.members {
		out = append(out, s.member(id))
	}
	slices.SortFunc(out, func(a, b Member) int { return a.ID.Compare(b.ID) })
	return out
}

// draw returns up to n of those that are here, other than self, each as likely as any.
func (r *roster) draw(n int, self identity.NodeID) []identity.NodeID {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]identity.NodeID, 0, n)
	seen := 0
	for id, s := range r.members {
		if id == self || !here(s.state) || s.expelled {
			continue
		}
		seen++
		if len(out) < n {
			out = append(out, id)
		} else if at := rand.IntN(seen); at < n { // reservoir sampling, Vitter's algorithm R
			out[at] = id
		}
	}
	return out
}

// state returns the member's state; Unknown for one that never was here.
func (r *roster) state(id identity.NodeID) peer.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.members[id]; s != nil {
		return s.state
	}
	return peer.Unknown
}

// count returns how many members are here, gone ones included.
func (r *roster) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.members)
}

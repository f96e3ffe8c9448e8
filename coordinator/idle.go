package coordinator

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Raft speaks to each follower twice: heartbeats say who leads, and appends that carry nothing tell of the last commit, again and again.
// Here an append that says only what the follower has agreed to already is not sent. It waits for the answer to the next heartbeat, so that
// for raft it has been answered by a follower that is there, and no sooner than this is known; a new entry ends the wait at once. That is
// half of what an idle leader sends.
//
// A follower that starts again has forgotten what was committed, and has to be told anew. It cannot be reached over a stream of its former
// life, so what is known of it is forgotten with every stream that is made to it, and with every failure.

const (
	// saidMax is for how long nothing is said again: a bound on what a fault in the reasoning above could cost.
	saidMax = 10 * time.Second
	// recentEntries are kept in memory as they were written: the leader reads the last entry for each append, to name its term.
	recentEntries = 16
)

// said is what followers have agreed to. The zero value is ready.
type said struct {
	mu        sync.Mutex
	closed    bool
	followers map[raft.ServerID]*follower
}

type follower struct {
	term, last, commit uint64    // of the last append that it agreed to; term 0: none
	at                 time.Time // when it was
	answered           chan struct{}
}

// ofLocked returns what is known of a follower.
func (s *said) ofLocked(id raft.ServerID) *follower {
	f := s.followers[id]
	if f == nil {
		if s.followers == nil || len(s.followers) >= 2*maxServers {
			s.wakeLocked()
			s.followers = map[raft.ServerID]*follower{}
		}
		f = &follower{answered: make(chan struct{})}
		s.followers[id] = f
	}
	return f
}

func (f *follower) wake() {
	close(f.answered)
	f.answered = make(chan struct{})
}

func (s *said) wakeLocked() {
	for _, f := range s.followers {
		f.wake()
	}
}

// isHeartbeat reports whether raft takes a message for one (net_transport.go).
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && a.LeaderCommitIndex == 0 && len(a.Entries) == 0
}

// agreed takes in that a follower has agreed to a message.
func (s *said) agreed(id raft.ServerID, a *raft.AppendEntriesRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.ofLocked(id)
	if isHeartbeat(a) {
		f.wake()
		return
	}
	f.term, f.last, f.commit, f.at = a.Term, a.PrevLogEntry, a.LeaderCommitIndex, time.Now()
	if n := len(a.Entries); n > 0 {
		f.last = a.Entries[n-1].Index
	}
}

// forget has everything said to a node again.
func (s *said) forget(id raft.ServerID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.ofLocked(id)
	f.term = 0
	f.wake()
}

// hurry ends all waits: there is something new to say.
func (s *said) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeLocked()
}

// close ends all waits for good.
func (s *said) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wakeLocked()
}

// knows reports whether a follower has agreed to all that a message says.
func (s *said) knows(id raft.ServerID, a *raft.AppendEntriesRequest) (answered <-chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.ofLocked(id)
	return f.answered, !s.closed && len(a.Entries) == 0 && !isHeartbeat(a) && f.term == a.Term && f.last == a.PrevLogEntry &&
		f.commit == a.LeaderCommitIndex && time.Since(f.at) < saidMax
}

// spares reports whether a message need not be sent, after the follower has answered a heartbeat: within patience, or it is sent after all.
func (s *said) spares(id raft.ServerID, a *raft.AppendEntriesRequest, patience time.Duration) bool {
	answered, ok := s.knows(id, a)
	if !ok {
		return false
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-answered:
		_, ok = s.knows(id, a) // not if that was a failure
		return ok
	case <-late.C:
		return false
	}
}

// recent are the last entries that were written to the log. The zero value is ready.
type recent struct {
	mu      sync.Mutex
	entries [recentEntries]*raft.Log
}

func (r *recent) add(logs []*raft.Log) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range logs {
		r.entries[l.Index%recentEntries] = l
	}
}

func (r *recent) get(index uint64, log *raft.Log) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.entries[index%recentEntries]
	if l == nil || l.Index != index {
		return false
	}
	*log = *l
	return true
}

func (r *recent) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.entries[:])
}

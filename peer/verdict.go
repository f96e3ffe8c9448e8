package peer

import (
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// verdict is what one source says of a member: a gossip pool, or a region's bulletin.
type verdict struct {
	source string
	state  State
	since  time.Time
}

// judge is what several verdicts together say. Who is alive to one is alive: the others have not heard from it for reasons of their own, as it
// has moved to another region or the way there is cut. Next comes who is suspect, and so not given up, to one. Of those that have it gone, the
// last one knows how it went.
func judge(verdicts []verdict) (State, time.Time) {
	var best verdict
	for _, v := range verdicts {
		if better, worse := rank(v.state), rank(best.state); better > worse || better == worse && v.since.After(best.since) {
			best = v
		}
	}
	return best.state, best.since
}

func rank(s State) int {
	switch s {
	case Alive:
		return 3
	case Suspect:
		return 2
	case Dead, Left:
		return 1
	}
	return 0
}

// SetState enters the verdict of a single source on a member, reached at now. A verdict that changes nothing keeps the time of the first.
func (t *Table) SetState(id identity.NodeID, state State, now time.Time) {
	t.Report("", id, state, now)
}

// Report enters what one of several sources says of a member, in place of what it said before. Unknown takes that back. The table bounds the
// verdicts on a member by the sources there are: a node's few pools and its region's bulletin.
func (t *Table) Report(source string, id identity.NodeID, state State, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.slot(id); s != nil && t.reportLocked(s, source, state, now) {
		t.changedLocked()
	}
}

// Retract takes back all that a source has said.
func (t *Table) Retract(source string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := false
	t.byID.Range(func(_, v any) bool {
		changed = t.reportLocked(v.(*slot), source, Unknown, now) || changed
		return true
	})
	if changed {
		t.changedLocked()
	}
}

// reportLocked reports whether the member's state has changed.
func (t *Table) reportLocked(s *slot, source string, state State, now time.Time) bool {
	i := slices.IndexFunc(s.verdicts, func(v verdict) bool { return v.source == source })
	switch {
	case i >= 0 && s.verdicts[i].state == state, i < 0 && state == Unknown:
		return false
	case i < 0:
		s.verdicts = append(s.verdicts, verdict{source, state, now})
	case state == Unknown:
		s.verdicts = slices.Delete(s.verdicts, i, i+1)
	default:
		s.verdicts[i] = verdict{source, state, now}
	}
	old := s.entry.Load()
	best, since := judge(s.verdicts)
	if best == old.State {
		return false
	}
	if rank(best) <= rank(old.State) {
		since = now // what was better is so no longer
	}
	entry := *old
	entry.State, entry.Since = best, since
	s.entry.Store(&entry)
	return true
}

// Verdict returns what one source says of a member; Unknown: nothing.
func (t *Table) Verdict(source string, id identity.NodeID) State {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.slot(id); s != nil {
		for _, v := range s.verdicts {
			if v.source == source {
				return v.state
			}
		}
	}
	return Unknown
}

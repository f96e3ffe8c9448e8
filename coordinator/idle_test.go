package coordinator

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// What a follower has agreed to is not said again while it answers heartbeats, and said at once when it may have forgotten.
func TestNothingIsSaidTwiceToAFollowerThatIsThere(t *testing.T) {
	heartbeat := &raft.AppendEntriesRequest{Term: 3}
	idle := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 7, PrevLogTerm: 2, LeaderCommitIndex: 7}
	with := func(a raft.AppendEntriesRequest, change func(*raft.AppendEntriesRequest)) *raft.AppendEntriesRequest {
		change(&a)
		return &a
	}
	const beat, patience = 200 * time.Millisecond, 300 * time.Millisecond
	for _, c := range []struct {
		name   string
		before func(*said)
		say    *raft.AppendEntriesRequest
		during func(*said) // a beat later
		spared bool
		took   time.Duration
	}{
		{name: "a heartbeat is answered", say: idle, during: func(s *said) { s.agreed("a", heartbeat) }, spared: true, took: beat},
		{name: "nothing is answered", say: idle, took: patience},
		{name: "another answers", say: idle, during: func(s *said) { s.agreed("b", heartbeat) }, took: patience},
		{name: "the heartbeat fails", say: idle, during: func(s *said) { s.forget("a") }, took: beat},
		{name: "a new entry", say: idle, during: func(s *said) { s.hurry() }, spared: true, took: beat},
		{name: "the end", say: idle, during: func(s *said) { s.close() }, took: beat},
		{name: "a new stream to it", before: func(s *said) { s.forget("a") }, say: idle},
		{name: "long ago", before: func(*said) { time.Sleep(saidMax) }, say: idle},
		{name: "a commit", say: with(*idle, func(a *raft.AppendEntriesRequest) { a.LeaderCommitIndex++ })},
		{name: "another term", say: with(*idle, func(a *raft.AppendEntriesRequest) { a.Term++ })},
		{name: "another place in the log", say: with(*idle, func(a *raft.AppendEntriesRequest) { a.PrevLogEntry-- })},
		{name: "an entry", say: with(*idle, func(a *raft.AppendEntriesRequest) { a.Entries = []*raft.Log{{Index: 8}} })},
		{name: "a heartbeat", say: heartbeat},
		{name: "after an entry", before: func(s *said) {
			s.agreed("a", with(*idle, func(a *raft.AppendEntriesRequest) { a.Entries = []*raft.Log{{Index: 8}} }))
		}, say: with(*idle, func(a *raft.AppendEntriesRequest) { a.PrevLogEntry = 8 }),
			during: func(s *said) { s.agreed("a", heartbeat) }, spared: true, took: beat},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s said
				s.agreed("a", idle)
				if c.before != nil {
					c.before(&s)
				}
				if c.during != nil {
					time.AfterFunc(beat, func() { c.during(&s) })
				}
				begun := time.Now()
				spared := s.spares("a", c.say, patience)
				if took := time.Since(begun); spared != c.spared || took != c.took {
					t.Errorf("spared: %v after %v, want %v after %v", spared, took, c.spared, c.took)
				}
			})
		})
	}
}

// The leader's last entry is read for each append; it must be the one on disk, also after the log's end was replaced.
func TestEntriesReadFromMemoryAreThoseOfTheLog(t *testing.T) {
	disk := raft.NewInmemStore()
	s := &fencedStore{disk: disk, fence: newFence(func() {}), written: func() {}}
	write := func(term uint64, indexes ...uint64) {
		t.Helper()
		for _, i := range indexes {
			if err := s.StoreLog(&raft.Log{Index: i, Term: term, Type: raft.LogCommand}); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(index, term uint64) {
		t.Helper()
		var got, kept raft.Log
		if err, is := s.GetLog(index, &got), disk.GetLog(index, &kept); err != is || got.Term != term || kept.Term != term {
			t.Errorf("entry %d: term %d (%v), on disk %d (%v), want %d", index, got.Term, err, kept.Term, is, term)
		}
	}
	for i := range uint64(recentEntries + 4) {
		write(1, i+1)
	}
	check(1, 1) // no longer in memory
	check(recentEntries+4, 1)
	if err := s.DeleteRange(recentEntries+3, recentEntries+4); err != nil {
		t.Fatal(err)
	}
	check(recentEntries+2, 1)
	write(2, recentEntries+3)
	check(recentEntries+3, 2)
	check(recentEntries+4, 0) // gone
}

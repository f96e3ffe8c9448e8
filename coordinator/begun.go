package coordinator

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// begun waits, once a term, until a majority has taken the term's first entry, which raft writes by itself, and all that was decided before is in the
// ledger here. Raft's Barrier is an entry of its own, and so tells a round trip later: it can only be sent when the first one has been answered.
func (r *replica) begun(ctx context.Context) error {
	term := r.raft.CurrentTerm()
	if r.readyTerm.Load() == term && r.leads() {
		return nil
	}
	if !r.flights.start() { // the log is read, and closed when all have landed
		return errNotLeader
	}
	defer r.flights.end()
	for r.leads() && r.raft.CurrentTerm() == term {
		if r.caughtUp(term) {
			r.readyTerm.Store(term)
			return nil
		}
		select {
		case <-time.After(echoPoll):
		case <-ctx.Done():
			return errNotLeader
		}
	}
	return errNotLeader
}

// caughtUp reports whether an entry of a term is committed, and all commands up to it are applied here. What a leader of the term commits is of the
// term, or before such an entry.
func (r *replica) caughtUp(term uint64) bool {
	commit := r.raft.CommitIndex()
	var entry raft.Log
	if err := r.log.GetLog(commit, &entry); err != nil || entry.Term != term {
		return false
	}
	applied := r.machine.applied()
	for i := commit; i > applied; i-- {
		err := r.log.GetLog(i, &entry)
		if errors.Is(err, raft.ErrLogNotFound) {
			return true // it is in the snapshot that the ledger was read from
		}
		if err != nil {
			return false
		}
		if entry.Type == raft.LogCommand {
			return r.snapshotIndex() >= i
		}
	}
	return true
}

// snapshotIndex is up to where the log is in the snapshot that raft holds: a ledger that was read from it does not say by itself where that was.
func (r *replica) snapshotIndex() uint64 {
	index, err := strconv.ParseUint(r.raft.Stats()["last_snapshot_index"], 10, 64)
	if err != nil {
		return 0
	}
	return index
}

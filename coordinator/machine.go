package coordinator

import (
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// machine puts a Ledger under raft (raft.FSM). Raft calls Apply, Snapshot and Restore from one goroutine; others read through
// view.
type machine struct {
	changed func(*State) // called after a command or snapshot changed the state; must not block
	fault   func() error // the replica's fence

	mu     sync.RWMutex
	ledger *Ledger
	last   uint64 // the last command that was handed over, applied or not; 0: none since the start or a snapshot
}

func newMachine(changed func(*State), fault func() error) *machine {
	return &machine{changed: changed, fault: fault, ledger: NewLedger()}
}

// view calls f with the ledger. f must not keep it.
func (m *machine) view(f func(*Ledger)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	f(m.ledger)
}

// applied returns up to which command all are applied, as far as this machine can tell.
func (m *machine) applied() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return max(m.last, m.ledger.Applied())
}

// Apply implements raft.FSM; its response is a Result.
func (m *machine) Apply(log *raft.Log) any {
	if err := m.fault(); err != nil {
		return Result{Frozen: err} // this replica is about to be thrown away
	}
	command, err := ParseCommand(log.Data)
	m.mu.Lock()
	before := m.ledger.state
	var res Result
	if err != nil {
		// Nobody proposes what does not decode; should it happen, all voters pass over it alike.
		res = refused(RefusedRequest, "the log entry does not decode")
	} else {
		res = m.ledger.Apply(command, log.Index)
	}
	after := m.ledger.state
	m.last = log.Index
	m.mu.Unlock()
	if after != before {
		m.changed(after)
	}
	return res
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if err := m.fault(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.ledger.frozen != nil {
		return nil, m.ledger.frozen
	}
	return snapshot{m.ledger.clone()}, nil
}

// Restore implements raft.FSM.
func (m *machine) Restore(from io.ReadCloser) error {
	ledger, err := DecodeLedger(from)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.ledger, m.last = ledger, 0
	m.mu.Unlock()
	m.changed(ledger.state)
	return nil
}

type snapshot struct{ ledger *Ledger }

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.ledger.Encode(sink); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s snapshot) Release() {}

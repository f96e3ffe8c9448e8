package coordinator

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Snapshot is what one node knows of its mesh, for a backup: the signed state, and on a voter the whole ledger (invitations, versions of the
// policy and the audit log beside it). As bytes it is a state file, followed by a raft snapshot of the ledger where there is one.
type Snapshot struct {
	State  *State
	Ledger *Ledger // nil of a plain member
}

// WriteSnapshot writes what this node knows now.
func (g *Group) WriteSnapshot(to io.Writer) error {
	s := g.State()
	if head := g.headOf(s); head != nil {
		s = s.withHead(head)
	}
	out := Snapshot{State: s}
	if r := g.current(); r != nil {
		r.machine.view(func(l *Ledger) {
			if l.state.Version > 0 { // else it waits for its first entry
				out.Ledger = l.clone()
			}
		})
	}
	return out.write(to)
}

func (s Snapshot) write(to io.Writer) error {
	if err := encodeState(to, s.State); err != nil || s.Ledger == nil {
		return err
	}
	return s.Ledger.Encode(to)
}

// WriteFolderSnapshot writes what the stopped node of a state folder knows; the caller holds the folder's lock. Entries that a voter has in
// its log but may not have been committed are part of it: they were never acknowledged, nor denied. Errors: ErrNoMesh, *DamagedError.
func WriteFolderSnapshot(dir string, to io.Writer) error {
	if !Exists(dir) {
		return ErrNoMesh
	}
	mesh := filepath.Join(dir, meshDir)
	state, err := readStateFile(filepath.Join(mesh, stateName), nil)
	if err != nil {
		return err
	}
	ledger, err := readLedger(filepath.Join(mesh, raftName))
	if err != nil {
		return err
	}
	if ledger != nil && ledger.state.Version >= state.Version {
		state = ledger.state.withCoordinators(state.Coordinators)
	}
	return Snapshot{State: state, Ledger: ledger}.write(to)
}

// readLedger reads snapshot and log of a voter that does not run; nil where there is none.
func readLedger(dir string) (*Ledger, error) {
	path := filepath.Join(dir, logFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, newRaftLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, fmt.Errorf("coordinator: open the snapshots in %s: %w", dir, err)
	}
	ledger, index, err := newestSnapshot(snapshots)
	if err != nil {
		return nil, &DamagedError{Path: dir, Err: err, Next: damagedLog}
	}
	store, err := openLog(path, false)
	if err != nil {
		return nil, err
	}
	err = guarded("read", func() error { return replay(ledger, store, index) })
	if err = errors.Join(err, store.Close()); err != nil {
		return nil, &DamagedError{Path: path, Err: err, Next: damagedLog}
	}
	if ledger.state.Version == 0 {
		return nil, nil
	}
	return ledger, ledger.frozen
}

func newestSnapshot(snapshots *raft.FileSnapshotStore) (*Ledger, uint64, error) {
	list, err := snapshots.List()
	if err != nil || len(list) == 0 {
		return NewLedger(), 0, err
	}
	meta, from, err := snapshots.Open(list[0].ID)
	if err != nil {
		return nil, 0, err
	}
	defer from.Close()
	ledger, err := DecodeLedger(bufio.NewReader(from))
	return ledger, meta.Index, err
}

// replay applies the commands of a log that come after an index.
func replay(ledger *Ledger, store raft.LogStore, after uint64) error {
	first, err := store.FirstIndex()
	if err != nil {
		return err
	}
	last, err := store.LastIndex()
	if err != nil {
		return err
	}
	if first > after+1 {
		return fmt.Errorf("entries %d to %d are missing", after+1, first-1)
	}
	for i := max(first, after+1); i <= last && last > 0; i++ {
		var entry raft.Log
		if err := store.GetLog(i, &entry); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if entry.Type != raft.LogCommand {
			continue
		}
		if c, err := ParseCommand(entry.Data); err == nil {
			ledger.Apply(c, i)
		}
	}
	return nil
}

// ReadSnapshot reads what WriteSnapshot wrote and verifies it up to the mesh's root.
func ReadSnapshot(from io.Reader) (Snapshot, error) {
	r := bufio.NewReader(io.LimitReader(from, 2*maxSnapshotBytes))
	state, err := decodeStateFrom(r, nil)
	if err != nil {
		return Snapshot{}, fmt.Errorf("coordinator: the state in the backup: %w", err)
	}
	out := Snapshot{State: state}
	if _, err := r.Peek(1); errors.Is(err, io.EOF) {
		return out, nil
	}
	if out.Ledger, err = DecodeLedger(r); err != nil {
		return Snapshot{}, err
	}
	if out.Ledger.state.Mesh.ID != state.Mesh.ID {
		return Snapshot{}, errors.New("coordinator: state and ledger in the backup are of different meshes")
	}
	return out, nil
}

// Mesh returns the mesh it is of.
func (s Snapshot) Mesh() Mesh { return s.State.Mesh }

// latest is the newest state in it.
func (s Snapshot) latest() *State {
	if s.Ledger != nil && s.Ledger.state.Version >= s.State.Version {
		return s.Ledger.state.withCoordinators(s.State.Coordinators)
	}
	return s.State
}

// OnlyCoordinator tells whether id was the mesh's only coordinator when the snapshot was made.
func (s Snapshot) OnlyCoordinator(id identity.NodeID) bool {
	v := s.State.Coordinators.Voters
	return len(v) == 1 && v[0] == id
}

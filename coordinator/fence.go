package coordinator

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// hashicorp/raft 1.8.0 panics where its stores fail at a moment it cannot undo: saving the term (raft.go setCurrentTerm, the
// first write a candidate makes on a full disk), reading a committed entry (processLogs), reading the log at start (NewRaft),
// and decoding a configuration, be it from the log or from the network (DecodeConfiguration).
//
// A node must survive a full or failing disk: its tunnels do. So the stores and the transport that raft gets are wrapped here.
// At the first fault of that kind the replica is fenced: all its streams are closed first, so that nothing it does from then on
// can reach anybody; only then raft is told that the write went well. Its memory is now ahead of its disk, which is harmless,
// since it can neither vote nor acknowledge; Group throws the replica away and opens a new one from disk, later and again
// until the disk is well. To the others it is a voter that is away.

// fence cuts a replica off at the first fault.
type fence struct {
	once   sync.Once
	closed chan struct{} // closed when the fence is up
	cut    func()        // closes every stream
	err    error         // why; read after closed
}

func newFence(cut func()) *fence { return &fence{closed: make(chan struct{}), cut: cut} }

func (f *fence) up(err error) {
	f.once.Do(func() {
		f.cut()
		f.err = fmt.Errorf("%w: %w", errFenced, err)
		close(f.closed)
	})
}

func (f *fence) fault() error {
	select {
	case <-f.closed:
		return f.err
	default:
		return nil
	}
}

// guarded turns a panic of the store into an error: bbolt throws on a damaged page, and reading a mapped file that was cut short
// is a fault.
func guarded(what string, do func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: the file is damaged: %v", what, r)
		}
	}()
	return do()
}

// disk is what raft-boltdb's store is to raft.
type disk interface {
	raft.LogStore
	raft.StableStore
}

// fencedStore stands between raft and its log.
type fencedStore struct {
	disk
	fence   *fence
	recent  recent
	written func() // called before raft knows that entries are written
}

// FirstIndex implements raft.LogStore.
func (s *fencedStore) FirstIndex() (i uint64, err error) {
	err = guarded("first index", func() (err error) { i, err = s.disk.FirstIndex(); return err })
	return i, err
}

// LastIndex implements raft.LogStore.
func (s *fencedStore) LastIndex() (i uint64, err error) {
	err = guarded("last index", func() (err error) { i, err = s.disk.LastIndex(); return err })
	return i, err
}

// GetLog implements raft.LogStore. A missing entry is an ordinary answer (it may be compacted); anything else fences and reads
// as an empty entry, because raft panics on an error where the entry is committed.
func (s *fencedStore) GetLog(index uint64, log *raft.Log) error {
	if s.recent.get(index, log) {
		return nil
	}
	err := guarded("read entry", func() error { return s.disk.GetLog(index, log) })
	if err == nil {
		err = checkEntry(log)
	} else if err == raft.ErrLogNotFound && !s.inside(index) {
		return err
	}
	if err != nil {
		s.fence.up(fmt.Errorf("log entry %d: %w", index, err))
		*log = raft.Log{Index: index, Term: log.Term, Type: raft.LogNoop}
	}
	return nil
}

// inside tells whether an entry that is missing ought to be there.
func (s *fencedStore) inside(index uint64) bool {
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	return err1 == nil && err2 == nil && first > 0 && index >= first && index <= last
}

// StoreLog implements raft.LogStore.
func (s *fencedStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore. Raft handles its failure: the leader steps down, a follower refuses the entries.
func (s *fencedStore) StoreLogs(logs []*raft.Log) error {
	if err := s.fence.fault(); err != nil {
		return err
	}
	if err := guarded("store entries", func() error { return s.disk.StoreLogs(logs) }); err != nil {
		return err
	}
	s.recent.add(logs)
	s.written()
	return nil
}

// DeleteRange implements raft.LogStore.
func (s *fencedStore) DeleteRange(first, last uint64) error {
	if err := s.fence.fault(); err != nil {
		return err
	}
	s.recent.clear()
	return guarded("delete entries", func() error { return s.disk.DeleteRange(first, last) })
}

// Set implements raft.StableStore; it holds votes. Raft handles its failure: the vote is not given.
func (s *fencedStore) Set(key, val []byte) error {
	if err := s.fence.fault(); err != nil {
		return err
	}
	return guarded("save vote", func() error { return s.disk.Set(key, val) })
}

// Get implements raft.StableStore.
func (s *fencedStore) Get(key []byte) (v []byte, err error) {
	err = guarded("read vote", func() (err error) { v, err = s.disk.Get(key); return err })
	return v, err
}

// errWrite marks a fault of writing, which may pass, against one of reading, which is damage.
var errWrite = errors.New("write")

// currentTermKey is raft's name for the term (raft.go keyCurrentTerm): the one write whose failure it cannot take.
const currentTermKey = "CurrentTerm"

// SetUint64 implements raft.StableStore.
func (s *fencedStore) SetUint64(key []byte, val uint64) error {
	err := s.fence.fault()
	if err == nil {
		err = guarded("save term", func() error { return s.disk.SetUint64(key, val) })
	}
	if err != nil && string(key) == currentTermKey {
		s.fence.up(fmt.Errorf("%w: term %d: %w", errWrite, val, err))
		return nil
	}
	return err
}

// GetUint64 implements raft.StableStore.
func (s *fencedStore) GetUint64(key []byte) (v uint64, err error) {
	err = guarded("read term", func() (err error) { v, err = s.disk.GetUint64(key); return err })
	return v, err
}

// checkEntry refuses what raft would panic on: a type it does not know, a configuration that does not decode.
func checkEntry(log *raft.Log) error {
	switch log.Type {
	case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
		return nil
	case raft.LogConfiguration:
		_, err := decodeConfiguration(log.Data)
		return err
	}
	return fmt.Errorf("entry %d is of type %d, which raft does not know", log.Index, log.Type)
}

func decodeConfiguration(b []byte) (c raft.Configuration, err error) {
	err = guarded("configuration", func() error { c = raft.DecodeConfiguration(b); return nil })
	if err == nil && len(c.Servers) > maxServers {
		err = fmt.Errorf("configuration of %d servers", len(c.Servers))
	}
	return c, err
}

const (
	// maxServers: five voters, five that catch up, and room for one of each leaving.
	maxServers = 16
	// maxSnapshotBytes: maxMembers entries of 12 KiB would be 800 MB; meshes beyond 20,000 members need another ledger.
	maxSnapshotBytes = 256 << 20
)

// fencedTransport looks at every message before raft does.
type fencedTransport struct {
	*raft.NetworkTransport
	fence    *fence
	echoes   echoes
	said     said
	canvass  *canvass
	patience time.Duration // constant; how long an append may wait for the answer to a heartbeat
	hushed   atomic.Int64  // Unix nanoseconds until which this node neither leads nor asks for votes
	out      chan raft.RPC
	stop     chan struct{}
	done     chan struct{}
}

func newFencedTransport(t *raft.NetworkTransport, f *fence, timing Timing) *fencedTransport {
	ft := &fencedTransport{NetworkTransport: t, fence: f, patience: 2 * timing.Beat, out: make(chan raft.RPC), stop: make(chan struct{}), done: make(chan struct{})}
	ft.canvass = newCanvass(timing, ft.out, ft.stop)
	go ft.run()
	return ft
}

// Consumer implements raft.Transport.
func (t *fencedTransport) Consumer() <-chan raft.RPC { return t.out }

// Close implements raft.WithClose and waits for run.
func (t *fencedTransport) Close() error {
	select {
	case <-t.stop:
	default:
		close(t.stop)
	}
	err := t.NetworkTransport.Close()
	<-t.done
	t.canvass.running.Wait()
	return err
}

func (t *fencedTransport) run() {
	defer close(t.done)
	for {
		select {
		case rpc := <-t.NetworkTransport.Consumer():
			if err := t.check(rpc.Command); err != nil {
				rpc.Respond(nil, err)
				continue
			}
			t.noteLeader(rpc)
			if isGreeting(rpc.Command) {
				rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: greetingHeader}, nil)
				continue
			}
			if t.canvass.takes(rpc) {
				continue
			}
			select {
			case t.out <- rpc:
			case <-t.stop:
				rpc.Respond(nil, raft.ErrRaftShutdown)
				return
			}
		case <-t.stop:
			return
		}
	}
}

// SetHeartbeatHandler implements raft.Transport: heartbeats do not come by run.
func (t *fencedTransport) SetHeartbeatHandler(handle func(raft.RPC)) {
	t.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		t.noteLeader(rpc)
		handle(rpc)
	})
}

func (t *fencedTransport) noteLeader(rpc raft.RPC) {
	if a, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
		t.echoes.led(raft.ServerID(a.ID))
	}
}

// hush has this node neither lead nor ask for votes for a time: its lease ends, and the others elect another.
func (t *fencedTransport) hush(d time.Duration) { t.hushed.Store(time.Now().Add(d).UnixNano()) }

func (t *fencedTransport) silenced() error {
	if time.Now().UnixNano() < t.hushed.Load() {
		return errHushed
	}
	return nil
}

var errHushed = errors.New("coordinator: another is to lead")

func (t *fencedTransport) check(command any) error {
	if err := t.fence.fault(); err != nil {
		return err
	}
	switch c := command.(type) {
	case *raft.AppendEntriesRequest:
		for _, e := range c.Entries {
			if e == nil {
				return fmt.Errorf("coordinator: empty raft entry")
			}
			if len(e.Data) > maxCommandBytes {
				return fmt.Errorf("coordinator: raft entry %d of %d bytes is over the bound of %d", e.Index, len(e.Data), maxCommandBytes)
			}
			if err := checkEntry(e); err != nil {
				return err
			}
		}
	case *raft.InstallSnapshotRequest:
		if c.Size < 0 || c.Size > maxSnapshotBytes {
			return fmt.Errorf("coordinator: raft snapshot of %d bytes is over the bound of %d", c.Size, maxSnapshotBytes)
		}
		if c.SnapshotVersion < 1 {
			return fmt.Errorf("coordinator: raft snapshot version %d is not spoken here", c.SnapshotVersion)
		}
		_, err := decodeConfiguration(c.Configuration)
		return err
	}
	return nil
}

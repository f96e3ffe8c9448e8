package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/durable"
)

// How much of the log is kept. An entry is about 6 KiB (a certificate), so a log stays below some 5 MB, and starting from a
// snapshot plus the entries after it below a second.
const (
	snapshotAfter    = 512
	trailingEntries  = 128 // for a follower that was away briefly; one further behind gets the snapshot
	snapshotsKept    = 2
	snapshotInterval = time.Minute
	lockWait         = time.Second // for another process that has the log open
)

const logFile = "log.db"

// replica is one running raft instance with everything it stands on.
type replica struct {
	raft    *raft.Raft
	machine *machine
	fence   *fence
	streams *raftStreams
	store   *raftboltdb.BoltStore
	log     raft.LogStore // store, behind the fence
	network *fencedTransport

	lineage   Lineage // constant: what the log is of
	flights   flights
	readyTerm atomic.Uint64 // term whose beginning is applied here, see Group.ready

	timing  Timing
	vigil   vigil // observe's
	random  *mrand.Rand
	canvass *canvass
	echoes  *echoes
	said    *said
	parsed  parsed
	contact contacts // which voters the leader cannot reach
	obs     *raft.Observer
	obsCh   chan raft.Observation
	obsDone chan struct{}
}

// parsed are the servers of raft's configuration as node IDs: they are asked for all the time and change rarely.
type parsed struct {
	mu             sync.Mutex
	servers        []raft.Server
	voters, staged []identity.NodeID
}

// replicaConfig is what a replica is opened with.
type replicaConfig struct {
	lineage Lineage // of a log that begins here; one that exists has its own
	self    identity.NodeID
	dir     string // raft/
	timing  Timing
	log     *slog.Logger
	seed    [32]byte // of the moments at which it campaigns
	open    func(context.Context, identity.NodeID) (Stream, error)
	changed func(*State)
	wake    func() // leadership or contact changed; must not block
	noSync  bool
	disk    durable.Disk

	wrapDisk func(disk) disk // for tests; nil: none
}

// openReplica starts raft on what is in dir; an empty dir is a voter that waits to be told by the leader. The error is a
// *DamagedError where a file is at fault.
func openReplica(c replicaConfig) (*replica, error) {
	lineage, err := logLineage(c.disk, c.dir, c.lineage)
	if err != nil {
		return nil, err
	}
	store, err := openLog(filepath.Join(c.dir, logFile), c.noSync)
	if err != nil {
		return nil, err
	}
	logger := newRaftLog(c.log)
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(c.dir, snapshotsKept, logger)
	if err != nil {
		store.Close()
		return nil, fmt.Errorf("coordinator: open the snapshots in %s: %w", c.dir, err)
	}
	if err := restoreTerm(keptLog{store, c.disk, filepath.Join(c.dir, logFile)}, filepath.Dir(c.dir)); err != nil {
		store.Close()
		return nil, err
	}
	r := &replica{store: store, timing: c.timing, lineage: lineage, random: mrand.New(mrand.NewChaCha8(c.seed)),
		streams: newRaftStreams(c.self, lineage, c.open), contact: contacts{changed: c.wake}}
	r.fence = newFence(func() { r.streams.Close() })
	r.machine = newMachine(c.changed, r.fence.fault)
	network := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: r.streams, MaxPool: poolMax, Timeout: c.timing.RPC, Logger: logger, MsgpackUseNewTimeFormat: true,
		MaxRPCsInFlight: inFlight,
	})
	transport := newFencedTransport(network, r.fence, c.timing)
	r.echoes, r.said, r.canvass = &transport.echoes, &transport.said, transport.canvass
	r.streams.dialled = r.said.forget
	fenced := &fencedStore{disk: keptLog{store, c.disk, filepath.Join(c.dir, logFile)}, fence: r.fence, written: r.said.hurry}
	if c.wrapDisk != nil {
		fenced.disk = c.wrapDisk(fenced.disk)
	}
	r.network, r.log = transport, fenced
	r.raft, err = raft.NewRaft(raftConfig(c, logger), r.machine, fenced, fenced, keptSnapshots{snapshots, c.disk, c.dir}, transport)
	if err == nil {
		err = r.fence.fault()
	}
	if err != nil {
		r.abandon(transport)
		if errors.Is(err, errWrite) || isDiskFull(err) {
			return nil, fmt.Errorf("coordinator: start the replica in %s: %w", c.dir, err)
		}
		return nil, &DamagedError{Path: c.dir, Err: err, Next: damagedLog}
	}
	r.canvass.raft.Store(r.raft)
	r.observe()
	return r, nil
}

const damagedLog = "if other coordinators are up, move this folder away and start again: this node comes back as a plain " +
	"member and the group gives its vote to another; if this was the only coordinator, restore a backup"

// inFlight turns raft's pipelining off. In 1.8.0 a pipeline whose follower refuses an entry, as one with a full disk does, can
// lock up for good: its reader has gone, its sender waits to hand over the next request, and then neither replication to that
// follower nor Shutdown ever ends (net_transport.go netPipeline.AppendEntries, replication.go pipelineDecode). A ledger of a few
// decisions a second loses nothing by it.
const inFlight = 1

// poolMax is how many idle streams to each server are kept: of heartbeats and of appends.
const poolMax = 2

// abandon closes what a replica that did not start holds.
func (r *replica) abandon(transport *fencedTransport) {
	r.streams.Close()
	transport.said.close()
	if r.raft != nil {
		r.raft.Shutdown().Error()
	}
	transport.Close()
	r.store.Close()
}

// openLog opens the bbolt file and reads all of it once: what raft would panic on is found here and named.
func openLog(path string, noSync bool) (*raftboltdb.BoltStore, error) {
	if err := checkLength(path); err != nil {
		return nil, &DamagedError{Path: path, Err: err, Next: damagedLog}
	}
	var store *raftboltdb.BoltStore
	err := guarded("open", func() (err error) {
		store, err = raftboltdb.New(raftboltdb.Options{Path: path, NoSync: noSync,
			// The free list is kept on disk: without it bbolt walks all pages at start in a goroutine of its own, and a damaged
			// page would panic there, where nobody can catch it.
			BoltOptions: &bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType}})
		return err
	})
	switch {
	case errors.Is(err, bbolt.ErrTimeout):
		return nil, fmt.Errorf("coordinator: %s is in use by another process; stop it first", path)
	case errors.Is(err, os.ErrPermission), isDiskFull(err):
		return nil, fmt.Errorf("coordinator: open %s: %w", path, err)
	case err != nil:
		return nil, &DamagedError{Path: path, Err: err, Next: damagedLog}
	}
	if err := checkLog(store); err != nil {
		guarded("close", store.Close)
		return nil, &DamagedError{Path: path, Err: err, Next: damagedLog}
	}
	return store, nil
}

func checkLog(store *raftboltdb.BoltStore) error {
	return guarded("read", func() error {
		first, err := store.FirstIndex()
		if err != nil {
			return err
		}
		last, err := store.LastIndex()
		if err != nil {
			return err
		}
		for i := first; i <= last && last > 0; i++ {
			var entry raft.Log
			if err := store.GetLog(i, &entry); err != nil {
				return fmt.Errorf("entry %d: %w", i, err)
			}
			if entry.Index != i {
				return fmt.Errorf("entry %d claims to be %d", i, entry.Index)
			}
			if err := checkEntry(&entry); err != nil {
				return err
			}
		}
		return nil
	})
}

func raftConfig(c replicaConfig, logger *raftLog) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = serverID(c.self)
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = c.timing.Heartbeat, c.timing.Election, c.timing.Lease
	rc.CommitTimeout = c.timing.Commit
	rc.SnapshotThreshold, rc.TrailingLogs, rc.SnapshotInterval = snapshotAfter, trailingEntries, snapshotInterval
	rc.Logger = logger
	rc.NoLegacyTelemetry = true
	// A removed voter keeps its raft running until the group's leader confirmed the removal (duties.go), then wipes it.
	rc.ShutdownOnRemove = false
	return rc
}

// stop ends raft and every goroutine and file it holds. Safe on a fenced replica.
func (r *replica) stop() {
	r.streams.Close() // first: calls in flight end at once instead of at their deadline
	r.said.close()
	r.flights.land()
	r.raft.DeregisterObserver(r.obs)
	r.raft.Shutdown().Error() // waits, and closes the transport
	close(r.obsCh)
	<-r.obsDone
	guarded("close", r.store.Close)
}

// observationsMax: raft drops observations when the channel is full; a contact change is then seen with the next failure.
const observationsMax = 64

func (r *replica) observe() {
	r.obsCh, r.obsDone = make(chan raft.Observation, observationsMax), make(chan struct{})
	r.obs = raft.NewObserver(r.obsCh, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation, raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	r.raft.RegisterObserver(r.obs)
	go func() {
		defer close(r.obsDone)
		watch := time.NewTimer(r.pace())
		defer watch.Stop()
		for {
			select {
			case o, open := <-r.obsCh:
				if !open {
					return
				}
				r.contact.note(o.Data)
			case <-watch.C:
			}
			watch.Reset(r.pace())
		}
	}()
}

// beatsPerTimeout is raft's: a leader sends a heartbeat every tenth of HeartbeatTimeout, to 2x that (replication.go heartbeat).
const beatsPerTimeout = 10

// pace tells raft how patient to be, and returns after how long to look again. Raft knows one HeartbeatTimeout for both, how often a leader
// speaks and how long a follower waits; ten heartbeats within each wait are for transports that lose them, ours repeats what is lost. So
// as long as all is well its timeout is ten times Beat. A follower for whom it is time to campaign (vigil) gets the short one, at which raft
// looks at once whether it has heard its leader within that, and keeps it until somebody leads.
func (r *replica) pace() (again time.Duration) {
	state, heard, now := r.raft.State(), r.raft.LastContact(), time.Now()
	due := r.vigil.due(r.timing, heard, r.canvass.promised(), r.draw)
	calm := state == raft.Leader || (state == raft.Follower && now.Before(due))
	r.patience(calm)
	if calm && state == raft.Follower {
		return due.Sub(now)
	}
	return r.timing.Tick
}

func (r *replica) draw(most time.Duration) time.Duration {
	return time.Duration(r.random.Int64N(int64(most) + 1))
}

// patience gives raft the long timeouts, or the short ones.
func (r *replica) patience(calm bool) {
	rc := r.raft.ReloadableConfig()
	heartbeat, election := r.timing.Heartbeat, r.timing.Election
	if calm {
		heartbeat = max(heartbeat, r.timing.Beat*beatsPerTimeout)
		election = max(election, heartbeat)
	}
	if rc.HeartbeatTimeout == heartbeat && rc.ElectionTimeout == election {
		return
	}
	rc.HeartbeatTimeout, rc.ElectionTimeout = heartbeat, election
	if err := r.raft.ReloadConfig(rc); err != nil {
		panic("coordinator: timing that raft refuses: " + err.Error())
	}
}

// contacts remembers to whom a leader's heartbeats fail.
type contacts struct {
	mu      sync.Mutex
	failing map[raft.ServerID]time.Time // since when
	changed func()                      // constant
}

func (c *contacts) note(data any) {
	c.mu.Lock()
	switch d := data.(type) {
	case raft.FailedHeartbeatObservation:
		if c.failing == nil {
			c.failing = map[raft.ServerID]time.Time{}
		}
		if _, known := c.failing[d.PeerID]; !known && len(c.failing) < maxServers {
			c.failing[d.PeerID] = time.Now()
		}
	case raft.ResumedHeartbeatObservation:
		delete(c.failing, d.PeerID)
	case raft.LeaderObservation, raft.RaftState:
		clear(c.failing)
	}
	c.mu.Unlock()
	c.changed()
}

// fails tells whether no heartbeat has reached a node for longer than patience: one that is lost on the way is no verdict.
func (c *contacts) fails(id identity.NodeID, patience time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	since, ok := c.failing[serverID(id)]
	return ok && time.Since(since) > patience
}

// keep forgets those that are no longer servers: nobody would ever tell that they can be reached again.
func (c *contacts) keep(servers ...identity.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.failing, func(id raft.ServerID, _ time.Time) bool {
		return !slices.ContainsFunc(servers, func(s identity.NodeID) bool { return serverID(s) == id })
	})
}

func (r *replica) leads() bool { return r.raft.State() == raft.Leader }

// servers returns the latest configuration: voters, and those that catch up to become voters.
func (r *replica) servers() (voters, staged []identity.NodeID) {
	servers := r.raft.GetConfiguration().Configuration().Servers
	r.parsed.mu.Lock()
	defer r.parsed.mu.Unlock()
	if slices.Equal(servers, r.parsed.servers) {
		return slices.Clone(r.parsed.voters), slices.Clone(r.parsed.staged)
	}
	for _, s := range servers {
		id, err := identity.ParseNodeID(string(s.ID))
		if err != nil {
			continue
		}
		if s.Suffrage == raft.Voter {
			voters = append(voters, id)
		} else {
			staged = append(staged, id)
		}
	}
	voters, staged = sortedIDs(voters), sortedIDs(staged)
	r.parsed.servers, r.parsed.voters, r.parsed.staged = servers, slices.Clone(voters), slices.Clone(staged)
	return voters, staged
}

// leader returns who leads as far as this replica knows; zero if nobody.
func (r *replica) leader() identity.NodeID {
	_, id := r.raft.LeaderWithID()
	node, err := identity.ParseNodeID(string(id))
	if err != nil {
		return identity.NodeID{}
	}
	return node
}

// propose replicates one command and returns what the ledger made of it. Errors: errNotLeader (not proposed), ErrUncertain
// (proposed, outcome unknown), a full disk's error, the context's.
func (r *replica) propose(ctx context.Context, c Command, enqueue time.Duration) (Result, error) {
	data, err := c.encode()
	if err != nil {
		return Result{}, err
	}
	var future raft.ApplyFuture
	err = r.wait(ctx, func() raft.Future { future = r.raft.Apply(data, enqueue); return future })
	if err != nil {
		return Result{}, proposalError(err)
	}
	res, ok := future.Response().(Result)
	if !ok {
		return Result{}, fmt.Errorf("coordinator: raft answered with %T", future.Response())
	}
	return res, res.Frozen
}

func proposalError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrRaftShutdown),
		errors.Is(err, raft.ErrEnqueueTimeout):
		return errNotLeader
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return ErrUncertain
	}
	return fmt.Errorf("the decision could not be written to this coordinator's log, nothing has changed: %w%s", err, diskHint(err))
}

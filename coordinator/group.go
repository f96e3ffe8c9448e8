package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/durable"
	"github.com/phantommesh/phantommesh/peer"
)

// Config is what a Group is made of. Key, Dir and one of Control and Streams are required.
type Config struct {
	Key     *identity.Key
	Control *control.Host
	Streams Streams // instead of Control, for tests and simulations
	Peers   *peer.Table
	Dir     string // the node's state folder; the group keeps to Dir/mesh
	Rand    io.Reader
	Now     func() time.Time // what the machine believes the time to be; nil: time.Now. What is only waited for goes by package time
	Log     *slog.Logger
	Timing  Timing // zero: LAN()
	// Alive is gossip's view of a node. Nil: everybody in the table of peers that gossip calls alive.
	Alive func(id identity.NodeID) bool
	// Holds is the version of the state that a member is known to hold at least, beside what its record says; nil: nothing is known.
	Holds func(id identity.NodeID) uint64
	// OnState is called, coalesced and from one goroutine, after State or the view of the coordinators changed.
	OnState  func()
	wrapDisk func(disk) disk // tests put faults there
	// Disk is what Dir is written through; nil: durable.OS.
	Disk  durable.Disk
	Shelf *Shelf // of the process, for simulations; nil: nothing is shared
	// NoSync leaves out fsync of the replicated log: for simulations, never for a real node.
	NoSync bool
}

func (c Config) withDefaults() (Config, error) {
	if c.Key == nil || c.Dir == "" || (c.Control == nil && c.Streams == nil) {
		return c, errors.New("coordinator: Config needs Key, Dir and Control")
	}
	if c.Streams == nil {
		c.Streams = OverControl(c.Control)
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Disk == nil {
		c.Disk = durable.OS{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Timing == (Timing{}) {
		c.Timing = LAN()
	}
	if c.Peers == nil {
		c.Peers = peer.NewTable(c.Key.ID())
	}
	if c.Alive == nil {
		peers := c.Peers
		c.Alive = func(id identity.NodeID) bool {
			e, ok := peers.Get(id)
			return ok && e.State == peer.Alive
		}
	}
	if c.OnState == nil {
		c.OnState = func() {}
	}
	return c, nil
}

// Group is this node's part in the mesh's decisions. Make one with Found, Open or Enrolled; Close it.
type Group struct {
	// Constant after start.
	cfg    Config
	self   identity.NodeID
	mesh   string // Dir/mesh
	root   *identity.RootKey
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	began  time.Time

	state    atomic.Pointer[State] // without the view of a voter, see State
	dirty    chan struct{}         // to keep: state.cbor is out of date
	pressing chan struct{}         // to keep: by something that a machine must not have forgotten when it starts anew
	news     chan struct{}         // to announce
	wake     chan struct{}         // to steer
	pullFrom chan identity.NodeID  // to fetch
	pollNow  chan struct{}         // to fetch
	refresh  chan struct{}         // to fetch
	running  sync.WaitGroup

	publishing sync.Mutex // orders publish; taken before nothing else
	heads      headCache

	mu        sync.Mutex // guards what follows; never held while calling out
	replica   *replica
	closed    bool
	reopenAt  time.Time // a fenced replica is not opened again before
	forgotten bool      // see hasForgotten
	overruled *Overruled
	opening   chan struct{} // not nil: a replica is being opened, until it is closed; see lockOpened
	retiring  bool          // the replica is being wiped: none may be opened
	fault     error         // why there is no replica although there should be

	watch     watcher // of the deciders; only steer uses it
	offices   offices // the same
	greetAt   time.Time
	clock     clockWatch
	behind    map[identity.NodeID]time.Time // the same: who of the region this node coordinates has had an older state since when
	random    *mrand.Rand                   // spreads pulls; only fetch uses it
	admitting chan struct{}                 // capacity 1: admissions on the leader take turns
	enrolling *rate.Limiter                 // requests of strangers

	renewNow chan struct{}                   // to stayValid
	offered  atomic.Pointer[identity.NodeID] // who may renew, see offer
	bridge   bridge                          // in place of a certificate that has ended
	renewal  atomic.Pointer[Renewal]         // how the last attempt to renew it went

	heralded      sync.Map // identity.NodeID -> struct{}: who of before the last recovery knows of it
	beats         contact  // with the leader, of a region's coordinator
	yielding      sync.Map // identity.NodeID -> time.Time: coordinators that go
	refusedOrders atomic.Uint64
	moves         moves       // how often each member changes its region
	askers        askers      // how often each member asks the leader
	longQuestions sync.Map    // identity.NodeID -> struct{}: whose long question is being read
	handing       atomic.Bool // Handover moves votes: the deciders rest
}

// open starts a group on the folder Dir/mesh, which exists.
func open(cfg Config) (*Group, error) {
	g := &Group{cfg: cfg, self: cfg.Key.ID(), began: time.Now(), mesh: filepath.Join(cfg.Dir, meshDir),
		dirty: make(chan struct{}, 1), pressing: make(chan struct{}, 1), news: make(chan struct{}, 1), wake: make(chan struct{}, 1), pullFrom: make(chan identity.NodeID, 1),
		pollNow: make(chan struct{}, 1), refresh: make(chan struct{}, 1), renewNow: make(chan struct{}, 1), admitting: make(chan struct{}, 1),
		enrolling: rate.NewLimiter(enrollRate, enrollBurst)}
	var seed [32]byte
	if _, err := io.ReadFull(cfg.Rand, seed[:]); err != nil {
		return nil, fmt.Errorf("coordinator: read randomness: %w", err)
	}
	g.random = mrand.New(mrand.NewChaCha8(seed))
	g.ctx, g.cancel = context.WithCancel(context.Background())
	state, err := readStateFile(filepath.Join(g.mesh, stateName), cfg.Shelf)
	if err != nil {
		return nil, err
	}
	g.state.Store(state)
	if g.root, err = readRootKey(filepath.Join(g.mesh, rootName), state.Mesh.ID); err != nil {
		return nil, err
	}
	g.admitAll(nil, state)
	if err := finishReseed(cfg.Disk, g.mesh); err != nil {
		return nil, fmt.Errorf("coordinator: finish the recovery that was interrupted: %w", err)
	}
	g.forgotten = hasForgotten(g.mesh)
	if _, err := os.Stat(filepath.Join(g.mesh, raftName, logFile)); err == nil {
		if g.replica, err = g.openReplica(); err != nil {
			return nil, err
		}
	}
	g.serve()
	for _, run := range []func(){g.steer, g.keep, g.announce, g.fetch, g.stayValid} {
		g.running.Go(run)
	}
	return g, nil
}

// Open starts the group of a node that belongs to a mesh. Errors: ErrNoMesh, *DamagedError.
func Open(cfg Config) (*Group, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if !Exists(cfg.Dir) {
		return nil, ErrNoMesh
	}
	if err := sweepDir(cfg.Disk, cfg.Dir); err != nil {
		return nil, fmt.Errorf("coordinator: clear leftovers in %s: %w", cfg.Dir, err)
	}
	return open(cfg)
}

func (g *Group) openReplica() (*replica, error) {
	if err := markVoter(g.cfg.Disk, g.mesh); err != nil {
		return nil, fmt.Errorf("coordinator: write %s: %w", filepath.Join(g.mesh, voterName), err)
	}
	var seed [32]byte
	if _, err := io.ReadFull(g.cfg.Rand, seed[:]); err != nil {
		return nil, fmt.Errorf("coordinator: read randomness: %w", err)
	}
	return openReplica(replicaConfig{
		seed:    seed,
		lineage: g.state.Load().Lineage(), self: g.self, dir: filepath.Join(g.mesh, raftName), timing: g.cfg.Timing, log: g.cfg.Log,
		open: func(ctx context.Context, id identity.NodeID) (Stream, error) {
			return g.cfg.Streams.Open(ctx, id, ProtocolRaft)
		},
		changed: g.publish, wake: func() { poke(g.wake); poke(g.news) }, noSync: g.cfg.NoSync, disk: g.cfg.Disk, wrapDisk: g.cfg.wrapDisk,
	})
}

// poke signals a channel of capacity 1.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// publish makes a newer state the current one. Older ones, as a voter's own ledger while it catches up, are passed over.
func (g *Group) publish(s *State) {
	g.publishing.Lock()
	defer g.publishing.Unlock()
	old := g.state.Load()
	if !s.supersedes(old) || s.Mesh.ID != old.Mesh.ID {
		return
	}
	g.state.Store(s.withCoordinators(old.Coordinators))
	ended := g.admitAll(old, s)
	poke(g.dirty)
	if ended || s.Keyring.Version != old.Keyring.Version || s.Policy.version() != old.Policy.version() {
		poke(g.pressing)
	}
	poke(g.news)
	poke(g.wake)
}

// admitAll tells the table of peers what differs between two states, and reports whether somebody's membership has ended.
func (g *Group) admitAll(old, s *State) (ended bool) {
	for _, m := range s.Members {
		if old != nil {
			if before, ok := old.Member(m.ID); ok && before.Version == m.Version {
				continue
			}
		}
		switch m.Status {
		case Active:
			g.cfg.Peers.Admit(m.Certificate, m.Raw)
		case Revoked:
			g.cfg.Peers.Revoke(m.ID)
			ended = true
		case Left:
			// The answer to its leave must still reach it: whoever owns the table drops it a moment later. Trust refuses it from now on.
			ended = true
		}
	}
	return ended
}

// State returns the replicated state with the current view of the coordinators. It never goes back.
func (g *Group) State() *State {
	s := g.state.Load()
	if r := g.current(); r != nil && !g.outdated(r) {
		return s.withCoordinators(g.ownView(r))
	}
	return s
}

// Version orders states (Lineage.version): what rumours carry.
func (g *Group) Version() uint64 { return g.state.Load().Version }

// Trust returns what certificates are verified with.
func (g *Group) Trust() *certificate.Trust { return g.state.Load().trust }

// Voting tells whether this node has a vote.
func (g *Group) Voting() bool {
	r := g.current()
	if r == nil {
		return false
	}
	voters, _ := r.servers()
	return contains(voters, g.self)
}

// Serving tells whether this node has a replica of the ledger, as a voter or to stand by.
func (g *Group) Serving() bool { return g.current() != nil }

// Fault returns why this node's replica is not running although it should, for doctor; nil if all is well.
func (g *Group) Fault() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.fault
}

func (g *Group) current() *replica {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.replica
}

// ownView is a replica's view of the group.
func (g *Group) ownView(r *replica) Coordinators {
	voters, _ := r.servers()
	if len(voters) == 0 { // opened, but the leader has not yet told us anything
		return g.state.Load().Coordinators
	}
	v := Coordinators{Leader: r.leader(), Term: r.raft.CurrentTerm(), Voters: voters, AsOf: g.cfg.Now()}
	heard := time.Since(r.raft.LastContact()) < 2*g.cfg.Timing.Election
	v.Quorum = r.leads() || (!v.Leader.IsZero() && v.Leader != g.self && heard)
	return v
}

// announce calls OnState.
func (g *Group) announce() {
	for {
		select {
		case <-g.news:
			g.cfg.OnState()
		case <-g.ctx.Done():
			return
		}
	}
}

// Close stops the replica and every goroutine; the state is on disk afterwards.
func (g *Group) Close() error {
	g.lockOpened()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	r := g.replica
	g.replica = nil
	g.mu.Unlock()
	g.cancel()
	if r != nil {
		r.stop()
	}
	g.running.Wait()
	_, err := g.save()
	return err
}

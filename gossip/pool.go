package gossip

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// Config is what a pool is made of.
type Config struct {
	Self  identity.NodeID
	Key   *identity.Key
	Mesh  identity.MeshID
	Peers *peer.Table

	// Packets carries sealed packets. Control carries streams; Streams, if not nil, carries them instead, and then whoever has an
	// incoming one gives it to [Pool.AcceptStream].
	Packets Packets
	Control *control.Host
	Streams Streams
	// Connect, if not nil, makes a path to a member that a packet could not be sent to. If Packets has such a method itself, that
	// is the default.
	Connect func(ctx context.Context, id identity.NodeID) error

	// Keyring are the mesh's gossip keys, KeySize bytes each, 1 to KeysMax of them: the first seals, all of them open.
	Keyring [][]byte
	// Profile is the timing; the zero value stands for LAN.
	Profile Profile
	// Record is what the node says of itself until the first [Pool.SetRecord].
	Record peer.Record
	// Book returns the nodes that should be in this pool, alive or not, as far as anyone remembers. If nil, they are all members in
	// Peers. It is called from the pool's goroutine every few seconds.
	Book func() []identity.NodeID
	// Rand is where nonces come from.
	Rand io.Reader
	Log  *slog.Logger
}

// Member is a member of the pool as this node sees it.
type Member struct {
	ID     identity.NodeID
	State  peer.State
	Record peer.Record
	// RTT is the round trip of the last probe of ours that it answered; zero if there was none.
	RTT time.Duration
}

// EventKind says what happened.
type EventKind uint8

// The kinds of events.
const (
	// MemberAlive: a member came, came back, or refuted a suspicion.
	MemberAlive EventKind = iota + 1
	// MemberSuspect: a member does not answer and may still refute.
	MemberSuspect
	// MemberDead: a member is taken for dead, or has been revoked.
	MemberDead
	// MemberLeft: a member went on purpose.
	MemberLeft
	// MemberUpdated: a member that is alive says something new of itself.
	MemberUpdated
	// UnknownMember: a node is said to be alive whose certificate is not here, or has ended. Fetch the state, from Via if known; once
	// the peer table has the member, the pool takes it in by itself.
	UnknownMember
)

var eventNames = [...]string{"", "alive", "suspect", "dead", "left", "updated", "unknown"}

// String returns the kind as logs show it.
func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return fmt.Sprintf("event-%d", uint8(k))
}

// Event tells of a change.
type Event struct {
	Kind EventKind
	ID   identity.NodeID
	// Record is the member's newest; zero for UnknownMember.
	Record peer.Record
	// Via is, for UnknownMember, the member that very likely spread the news; zero if not known.
	Via identity.NodeID
}

// String returns the event as logs show it.
func (e Event) String() string { return e.ID.Short() + " " + e.Kind.String() }

const (
	// eventsMax is how many events may wait for their reader: every member of a large pool changing once. Who loses some (see
	// Stats) reads Members or the peer table, which are always current.
	eventsMax = 1024
	// leaveMax bounds Leave where the caller's context does not.
	leaveMax = 5 * time.Second
	// announceWait is what memberlist must be given to wait for a broadcast that nobody waits for.
	announceWait = time.Millisecond
)

// ErrClosed says that the pool has been closed, or has left.
var ErrClosed = errors.New("gossip: pool is closed")

// announcement is a record of our own, and signed.
type announcement struct {
	record peer.Record
	signed []byte
}

// turn is a lock that is held over a timed wait of memberlist's. Who waits for it waits at a channel: virtual time (testing/synctest)
// goes on past that, and stands still for a sync.Mutex.
type turn chan struct{}

func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

// Pool is this node's membership in the mesh's gossip. It is safe for concurrent use.
type Pool struct {
	// Constant after New.
	self     identity.NodeID
	selfName string
	key      *identity.Key
	mesh     identity.MeshID
	peers    *peer.Table
	profile  Profile
	book     func() []identity.NodeID
	log      *slog.Logger
	stats    *counters
	seal     *seal

	transport *transport
	list      *memberlist.Memberlist
	roster    *roster
	admission *admission
	rumours   *rumours
	events    chan Event

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	seeking context.Context // ends with Leave or Close: from then on nobody is looked for
	rest    context.CancelFunc
	tasks   sync.WaitGroup // every goroutine of the pool; added to under life or by one already counted

	announced atomic.Pointer[announcement]
	announce  chan struct{} // has a token when announced is to be spread

	// snapshots are made one at a time.
	snapshots sync.Mutex
	// recordMu guards the making of announced.
	recordMu sync.Mutex
	// life guards what memberlist forbids to mix: UpdateNode, Leave and Shutdown. Before recordMu, never with roster or admission.
	life   turn
	closed bool
	left   chan struct{} // nil until Leave; closed when memberlist's has ended
}

// New starts a pool with this node as its only member. It takes part from now on: whoever knows the node may reach it, and it
// begins to look for those in the book.
func New(cfg Config) (*Pool, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	p := &Pool{
		self: cfg.Self, selfName: cfg.Self.String(), key: cfg.Key, mesh: cfg.Mesh, peers: cfg.Peers,
		profile: cfg.Profile, book: cfg.Book, log: cfg.Log, stats: &counters{},
		roster: newRoster(), admission: newAdmission(cfg.Self, cfg.Mesh, cfg.Peers),
		events: make(chan Event, eventsMax), announce: make(chan struct{}, 1), life: make(turn, 1),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.seeking, p.rest = context.WithCancel(p.ctx)
	p.rumours = newRumours(p)
	var err error
	if p.seal, err = newSeal(cfg.Rand, cfg.Mesh, cfg.Self, cfg.Keyring); err != nil {
		return nil, err
	}
	if err := p.setRecord(cfg.Record); err != nil {
		return nil, err
	}
	p.transport = newTransport(&cfg, p.seal, p.roster, p.stats)
	p.transport.drifted = p.reconcile
	if p.list, err = memberlist.Create(p.memberlistConfig()); err != nil {
		_ = p.transport.Shutdown()
		return nil, fmt.Errorf("gossip: start: %w", err)
	}
	p.start()
	if cfg.Control != nil {
		p.serve(cfg.Control)
	}
	return p, nil
}

// fill checks the configuration and sets what was left out.
func (c *Config) fill() error {
	switch {
	case c.Key == nil || c.Peers == nil || c.Packets == nil:
		return errors.New("gossip: configuration without key, peer table or packets")
	case c.Streams == nil && c.Control == nil:
		return errors.New("gossip: configuration without streams or control channel")
	case c.Key.ID() != c.Self:
		return fmt.Errorf("gossip: the key is not that of %s", c.Self.Short())
	}
	if c.Streams == nil {
		c.Streams = controlStreams{c.Control}
	} else {
		c.Control = nil
	}
	if c.Connect == nil {
		if n, ok := c.Packets.(interface {
			Connect(context.Context, identity.NodeID) error
		}); ok {
			c.Connect = n.Connect
		}
	}
	c.fillDefaults()
	return nil
}

func (c *Config) fillDefaults() {
	if c.Profile == (Profile{}) {
		c.Profile = LAN()
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Book == nil {
		peers := c.Peers
		c.Book = func() []identity.NodeID {
			var out []identity.NodeID
			for _, e := range peers.All() {
				out = append(out, e.ID)
			}
			return out
		}
	}
}

func (p *Pool) memberlistConfig() *memberlist.Config {
	c := p.profile.memberlistConfig()
	c.Name = p.selfName
	c.Transport = p.transport
	c.Logger = memberlistLog(p.log)
	d := delegate{p}
	c.Delegate, c.Events, c.Alive, c.Merge, c.Conflict, c.Ping = d, d, d, d, d, d
	return c
}

// start runs the pool's goroutines.
func (p *Pool) start() {
	p.tasks.Go(p.transport.run)
	p.tasks.Go(p.publish)
	p.tasks.Go(p.announcer)
	p.tasks.Go(p.rumours.run)
	p.tasks.Go(p.rejoin)
}

// reconcile exchanges everything with a member that knows something else. It is called by the transport's goroutine, which is counted.
func (p *Pool) reconcile(id identity.NodeID) {
	p.stats.drifts.Add(1)
	p.tasks.Go(func() { _ = p.synchronise(id) }) // the next difference tries again
}

// publish carries what changed in the roster into the peer table and offers events.
func (p *Pool) publish() {
	ticker := time.NewTicker(p.profile.ProbeInterval)
	defer ticker.Stop()
	for {
		var tick <-chan time.Time
		if p.roster.suspects() {
			tick = ticker.C
		}
		select {
		case <-p.ctx.Done():
			return
		case <-p.roster.wake:
		case <-tick:
		}
		p.settle()
		for _, c := range p.roster.take() {
			if c.newRecord {
				p.peers.Update(c.Record)
			}
			p.peers.SetState(c.ID, c.State, c.since)
			if c.ID != p.self {
				p.tell(c)
			}
		}
	}
}

// settle answers what the roster has left open.
func (p *Pool) settle() {
	mark, open := p.roster.question()
	if !open {
		return
	}
	states, err := p.snapshot()
	if err != nil {
		p.log.Warn("cannot read the members' states; suspects may be shown late", "err", err)
		return
	}
	p.roster.settle(states, mark, time.Now())
}

// tell offers the events of one change.
func (p *Pool) tell(c change) {
	switch {
	case c.State != c.before:
		p.log.Info("member is "+c.State.String(), "peer", c.ID.Short(), "before", c.before.String())
		if s, ok := p.transport.streams.(interface{ Suspect(identity.NodeID) }); ok && c.State != peer.Alive {
			s.Suspect(c.ID)
		}
		p.offer(Event{Kind: kindOf(c.State), ID: c.ID, Record: c.Record})
	case c.newRecord && c.State == peer.Alive:
		p.offer(Event{Kind: MemberUpdated, ID: c.ID, Record: c.Record})
	}
}

func kindOf(s peer.State) EventKind {
	switch s {
	case peer.Alive:
		return MemberAlive
	case peer.Suspect:
		return MemberSuspect
	case peer.Left:
		return MemberLeft
	}
	return MemberDead
}

// offer never waits; it is called with memberlist's lock held.
func (p *Pool) offer(e Event) {
	select {
	case p.events <- e:
	default:
		p.stats.eventsLost.Add(1)
	}
}

// missing notes a node whose certificate is not here.
func (p *Pool) missing(n *memberlist.Node, now time.Time) {
	id, err := identity.ParseNodeID(n.Name)
	if err != nil {
		return
	}
	via := p.transport.teller(id)
	if p.admission.await(id, n.Meta, via, now) {
		p.offer(Event{Kind: UnknownMember, ID: id, Via: via})
	}
}

// recordOf returns the record of a node that has been judged.
func (p *Pool) recordOf(n *memberlist.Node) (identity.NodeID, peer.Record, bool) {
	id, err := identity.ParseNodeID(n.Name)
	if err != nil {
		return id, peer.Record{}, false
	}
	record, err := peer.ParseRecord(id, n.Meta)
	return id, record, err == nil
}

// Members returns every member that was alive in this pool since it began and is still in the peer table, this node included.
func (p *Pool) Members() []Member { return p.roster.all() }

// Events gives what happens to other members. See [Stats.EventsLost].
func (p *Pool) Events() <-chan Event { return p.events }

// SetKeyring replaces the gossip keys: from now on the first seals and all of them open. To change keys without a gap, first give
// every member the new key in second place, then in first, then take the old one away.
func (p *Pool) SetKeyring(keys [][]byte) error { return p.seal.use(keys) }

// Keyring returns the keys in use, the sealing one first. They are shared: read them only.
func (p *Pool) Keyring() [][]byte { return p.seal.holds() }

package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// Config is what a pool is made of, beside what all pools of the node share.
type Config struct {
	// Scope is whose pool it is. Admits tells who may be in it, beyond being a member; nil: every member. It is called with locks held and
	// must answer at once, from what the mesh's state says. When that may have changed without a change in the peer table, say so with
	// [Pool.Reconsider].
	Scope  Scope
	Admits func(identity.NodeID) bool
	// Profile is the timing; the zero value stands for LAN.
	Profile Profile
	// Book returns the nodes that should be in this pool, alive or not, as far as anyone remembers. If nil, they are all members in
	// the peer table that Admits lets in. It is called from the pool's goroutine every few seconds.
	Book func() []identity.NodeID
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
	// UnknownMember: a node is said to be alive, or is, whose certificate is not here, or has ended, or that does not belong into the pool
	// by the state that is here. Fetch the state, from Via if known; once the member belongs, the pool takes it in by itself.
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
	Kind  EventKind
	Scope Scope // of the pool that says so
	ID    identity.NodeID
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

// turn is a lock that is held over a timed wait of memberlist's. Who waits for it waits at a channel: virtual time (testing/synctest)
// goes on past that, and stands still for a sync.Mutex.
type turn chan struct{}

func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

// Pool is this node's membership in one of the mesh's pools. It is safe for concurrent use.
type Pool struct {
	// Constant after Open.
	host     *Host
	scope    Scope
	self     identity.NodeID
	selfName string
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
	fence     *fence
	admission *admission
	spreading *memberlist.TransmitLimitedQueue // rumours

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	seeking context.Context // ends with Leave or Close: from then on nobody is looked for
	rest    context.CancelFunc
	tasks   sync.WaitGroup // every goroutine of the pool; added to under life or by one already counted

	announce   chan struct{} // has a token when our record is to be spread
	rumoured   chan struct{} // has a token when there is a new rumour to tell, or somebody new to tell it to
	reconsider chan struct{} // has a token when who belongs here may have changed
	exchanged  atomic.Bool   // everything has been exchanged with a member

	// snapshots are made one at a time.
	snapshots sync.Mutex
	// life guards what memberlist forbids to mix: UpdateNode, Leave and Shutdown. Never with roster or admission.
	life   turn
	closed bool
	left   chan struct{} // nil until Leave; closed when memberlist's has ended
}

// Open starts a pool with this node as its only member. It takes part from now on: whoever knows the node may reach it, and it
// begins to look for those in the book.
func (h *Host) Open(cfg Config) (*Pool, error) {
	if err := cfg.Scope.check(); err != nil {
		return nil, err
	}
	if cfg.Profile == (Profile{}) {
		cfg.Profile = LAN()
	}
	c := h.cfg
	p := &Pool{
		host: h, scope: cfg.Scope, self: c.Self, selfName: c.Self.String(), mesh: c.Mesh, peers: c.Peers,
		profile: cfg.Profile, book: cfg.Book, log: c.Log.With("pool", string(cfg.Scope)), stats: &counters{},
		seal:     newSeal(c.Rand, h.keys, c.Mesh, c.Self, cfg.Scope),
		roster:   newRoster(),
		announce: make(chan struct{}, 1), rumoured: make(chan struct{}, 1), reconsider: make(chan struct{}, 1), life: make(turn, 1),
	}
	p.fence = newFence(cfg.Admits, p.roster)
	p.admission = newAdmission(c.Self, c.Mesh, c.Peers, p.fence)
	if p.book == nil {
		p.book = p.belonging
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.seeking, p.rest = context.WithCancel(p.ctx)
	p.spreading = p.newQueue()
	p.transport = newTransport(h, p)
	p.transport.drifted = p.reconcile
	var err error
	if p.list, err = memberlist.Create(p.memberlistConfig()); err != nil {
		_ = p.transport.Shutdown()
		return nil, fmt.Errorf("gossip: start: %w", err)
	}
	p.start()
	if err := h.enter(p); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// belonging are the members of the peer table that may be in this pool.
func (p *Pool) belonging() []identity.NodeID {
	var out []identity.NodeID
	for _, e := range p.peers.All() {
		if p.fence.admits == nil || p.fence.admits(e.ID) {
			out = append(out, e.ID)
		}
	}
	return out
}

// Scope returns whose pool it is.
func (p *Pool) Scope() Scope { return p.scope }

// Admits reports whether a member may be in the pool.
func (p *Pool) Admits(id identity.NodeID) bool {
	return knows(p.peers, id) && (p.fence.admits == nil || p.fence.admits(id))
}

// Reconsider has the pool look again at who belongs to it.
func (p *Pool) Reconsider() {
	select {
	case p.reconsider <- struct{}{}:
	default:
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
	p.tasks.Go(p.publish)
	p.tasks.Go(p.announcer)
	p.tasks.Go(p.tellRumours)
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
			p.peers.Report(Source(p.scope), c.ID, c.State, c.since)
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
		if c.State == peer.Alive {
			p.wakeTeller()
		}
		p.host.offer(Event{Kind: kindOf(c.State), Scope: p.scope, ID: c.ID, Record: c.Record})
	case c.newRecord && c.State == peer.Alive:
		p.host.offer(Event{Kind: MemberUpdated, Scope: p.scope, ID: c.ID, Record: c.Record})
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

// missing notes a node whose certificate is not here.
func (p *Pool) missing(n *memberlist.Node, now time.Time) {
	id, err := identity.ParseNodeID(n.Name)
	if err != nil {
		return
	}
	via := p.transport.teller(id)
	if p.admission.await(id, n.Meta, via, now) {
		p.host.offer(Event{Kind: UnknownMember, Scope: p.scope, ID: id, Via: via})
	}
}

// strayed notes a member that speaks in this pool and does not belong here by the state that we hold: it may hold a newer one. Called by the
// host's goroutine.
func (p *Pool) strayed(id identity.NodeID) {
	if p.admission.await(id, nil, id, time.Now()) {
		p.host.offer(Event{Kind: UnknownMember, Scope: p.scope, ID: id, Via: id})
	}
}

// Source is the name of a pool's verdicts in the peer table.
func Source(s Scope) string { return "pool " + string(s) }

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

package reach

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// Config is what a Reach is made of. Underlay, Streams and Table are required.
type Config struct {
	Underlay Underlay
	Streams  Streams
	Table    Table

	// NoRelay: carry nothing for others. Capacity bounds what is carried otherwise; zero: the default.
	NoRelay  bool
	Capacity Capacity
	// STUN are servers outside the mesh to ask for our address, as host:port. Resolve looks a host up; nil: they must be addresses.
	STUN    []string
	Resolve func(ctx context.Context, hostport string) ([]netip.AddrPort, error)
	// Appointed tells whether the mesh has appointed a member to relay for this node's region. Nil: nobody is.
	Appointed func(identity.NodeID) bool
	// Advertise are addresses that lead here because somebody set up a router by hand.
	Advertise []netip.AddrPort
	// Mapper asks the router for a port; nil: nobody does.
	Mapper Mapper
	// NetworkChanged signals that addresses, routes or links have changed, or that the machine was asleep. May be nil.
	NetworkChanged <-chan struct{}
	// Changed is called when what the record should say may have changed. It must not block. May be nil.
	Changed func()

	Rand io.Reader
	Log  *slog.Logger
}

// Reach is how this node gets to others. Make one with [New], end it with Close.
type Reach struct {
	// Constant after New.
	cfg    Config
	net    Underlay
	table  Table
	self   identity.NodeID
	log    *slog.Logger
	grants *grants
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	count  counters
	busy   atomic.Bool // see noteLoad

	running                           sync.WaitGroup
	wakeAttend, wakeLearn, wakeUpkeep chan struct{} // 1 deep: signals to the drivers
	assists                           chan identity.NodeID
	randMu                            sync.Mutex

	// pairing guards pairs and links, and is held over the underlay's opening and closing of what they count, which waits for nothing: the last
	// to go must not close what the next has just opened. It is taken before mu.
	pairing sync.Mutex
	pairs   map[[2]identity.NodeID]int // grants to two members, as a relay
	links   map[netip.AddrPort]int     // users of a channel's end

	mu     sync.Mutex // guards what follows; never held while calling out
	closed bool
	// What was learned of our own situation.
	learned learned
	// Relays: those we are registered at, what we know of all that offer, channels we opened, channels that were led to us.
	hand        map[identity.NodeID]*handhold
	relays      map[identity.NodeID]relayNote
	channels    map[channelKey]*channel
	offers      map[identity.NodeID]int
	offersTotal int
	kept        map[identity.NodeID]int // reasons to keep a path
	// Members: searches in which nobody is to help, those being helped (true: asked for again), and the history of all.
	alone    map[identity.NodeID]int
	assisted map[identity.NodeID]bool
	peers    map[identity.NodeID]*history
	punching int       // punches under way
	fans     fanBudget // of all members
}

// counters count since the start.
type counters struct {
	refused, assists, channels, punches, punched atomic.Uint64
}

// assistsQueue is how many members may wait for help at once. What does not fit is asked for anew with the next search.
const assistsQueue = 64

// New starts to learn, to keep relays at hand and to serve.
func New(cfg Config) (*Reach, error) {
	if cfg.Underlay == nil || cfg.Streams == nil || cfg.Table == nil {
		return nil, errors.New("reach: Config needs Underlay, Streams and Table")
	}
	if cfg.Capacity == (Capacity{}) {
		cfg.Capacity = DefaultCapacity
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Appointed == nil {
		cfg.Appointed = func(identity.NodeID) bool { return false }
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	r := &Reach{
		cfg: cfg, net: cfg.Underlay, table: cfg.Table, self: cfg.Table.Self(), log: cfg.Log, grants: newGrants(cfg.Capacity),
		wakeAttend: make(chan struct{}, 1), wakeLearn: make(chan struct{}, 1), wakeUpkeep: make(chan struct{}, 1),
		assists: make(chan identity.NodeID, assistsQueue),
		hand:    map[identity.NodeID]*handhold{}, relays: map[identity.NodeID]relayNote{}, channels: map[channelKey]*channel{},
		pairs: map[[2]identity.NodeID]int{}, links: map[netip.AddrPort]int{},
		offers: map[identity.NodeID]int{}, kept: map[identity.NodeID]int{}, alone: map[identity.NodeID]int{},
		assisted: map[identity.NodeID]bool{}, peers: map[identity.NodeID]*history{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	cfg.Streams.Handle(ProtocolRelay, r.serveRelay)
	cfg.Streams.Handle(ProtocolPunch, r.servePunch)
	for _, f := range []func(){r.learn, r.attend, r.assist, r.upkeep} {
		r.spawn(f)
	}
	if cfg.Mapper != nil {
		r.spawn(func() { cfg.Mapper.Run(r.ctx) })
	}
	return r, nil
}

// Close ends every lease, search and driver, and waits for them. Handlers of streams end too, but are the control host's to wait for.
func (r *Reach) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.running.Wait()
	return nil
}

// spawn runs f in a goroutine that Close waits for. It reports false, and runs nothing, after Close.
func (r *Reach) spawn(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.running.Go(f)
	return true
}

// within ends a handler's work with its stream or with the Reach.
func (r *Reach) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(r.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// keep counts the reasons for which a path to a member is kept alive.
func (r *Reach) keep(id identity.NodeID, n int) {
	r.mu.Lock()
	before := r.kept[id]
	if r.kept[id] = before + n; r.kept[id] == 0 {
		delete(r.kept, id)
	}
	r.mu.Unlock()
	if (before == 0) != (before+n == 0) {
		r.net.Keep(id, before == 0)
	}
}

// wake signals a driver.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Endpoints are the addresses to publish, the likeliest first, at most peer.EndpointsMax.
func (r *Reach) Endpoints() []peer.Endpoint { return r.addresses().endpoints() }

// Relays are those through which this node can be reached, the better first: at most peer.RelaysMax.
func (r *Reach) Relays() []identity.NodeID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var held []*handhold
	for _, h := range r.hand {
		if h.lease != nil {
			held = append(held, h)
		}
	}
	// By ID, so that the record does not change whenever the order of their costs does.
	slices.SortFunc(held, func(a, b *handhold) int { return a.id.Compare(b.id) })
	var out []identity.NodeID
	for _, h := range held[:min(len(held), peer.RelaysMax)] {
		out = append(out, h.id)
	}
	return out
}

// OffersRelay reports whether the record should say that this node relays.
func (r *Reach) OffersRelay() bool { return r.evidence().offersRelay(r.cfg.NoRelay) }

// Busy reports whether the record should say that this node carries about as much as it can.
func (r *Reach) Busy() bool { return r.busy.Load() }

// NAT is what the record should say of the NAT in front of this node.
func (r *Reach) NAT() peer.NAT { return r.Behaviour().Kind() }

// changed tells whoever publishes the record, and the drivers that depend on what was learned.
func (r *Reach) changed() {
	r.cfg.Changed()
	wake(r.wakeAttend)
	wake(r.wakeUpkeep)
}

// after is a timer's channel, jittered by a tenth, for work that all nodes do and that nobody waits for.
func (r *Reach) jitter(d time.Duration) time.Duration {
	var b [1]byte
	r.random(b[:])
	return d + d*time.Duration(int(b[0])-128)/1280
}

// random fills b; the source need not be safe for concurrent use. Nothing secret depends on it.
func (r *Reach) random(b []byte) {
	r.randMu.Lock()
	defer r.randMu.Unlock()
	if _, err := io.ReadFull(r.cfg.Rand, b); err != nil {
		r.log.Warn("randomness not read", "err", err)
	}
}

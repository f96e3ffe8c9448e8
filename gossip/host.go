package gossip

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// HostConfig is what all pools of a node share.
type HostConfig struct {
	Self  identity.NodeID
	Key   *identity.Key
	Mesh  identity.MeshID
	Peers *peer.Table

	// Packets carries sealed packets. Control carries streams; Streams, if not nil, carries them instead, and then whoever has an
	// incoming one gives it to [Host.AcceptStream].
	Packets Packets
	Control *control.Host
	Streams Streams
	// Connect, if not nil, makes a path to a member that a packet could not be sent to. If Packets has such a method itself, that
	// is the default.
	Connect func(ctx context.Context, id identity.NodeID) error

	// Keyring are the mesh's gossip keys, KeySize bytes each, 1 to KeysMax of them: the first seals, all of them open.
	Keyring [][]byte
	// Coordinates, if not nil, ride on probes and their answers.
	Coordinates Coordinates
	// Record is what the node says of itself until the first [Host.SetRecord].
	Record peer.Record
	// Shared, if not nil, is exchanged beside the members.
	Shared Shared
	// Rand is where nonces come from.
	Rand io.Reader
	// Now is what the machine believes the time to be, which may be set; default time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Coordinates keep this node's network coordinate: *place.Client. They are called from memberlist's goroutines and must return at once.
type Coordinates interface {
	// Tell returns our coordinate, and whether an answer to a probe has to say it, as the record that was announced does not.
	Tell(announced peer.Record) (c peer.Coordinate, say bool)
	// Observe takes in a probe's round trip to a member that says it is at their coordinate.
	Observe(id identity.NodeID, theirs peer.Coordinate, rtt time.Duration)
}

// Host is this node's gossip: the pools it takes part in, side by side. It reads the packets and streams that come and gives each to the pool
// that it is for. It is safe for concurrent use.
type Host struct {
	// Constant after NewHost.
	cfg     HostConfig
	log     *slog.Logger
	stats   *counters // of what reached no pool
	keys    *keyring
	own     *own
	rumours *rumours
	events  chan Event

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup // the goroutines of the host, without those of its pools

	pools atomic.Pointer[[]*Pool] // open ones, replaced as a whole with mu held; never nil
	mu    sync.Mutex              // guards what follows
	gone  closedStats
}

// closedStats are the counts of pools that have been closed, so that sums never fall.
type closedStats struct{ Stats }

// NewHost starts a node's gossip without a pool; see [Host.Open].
func NewHost(cfg HostConfig) (*Host, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, log: cfg.Log, stats: &counters{}, keys: &keyring{}, events: make(chan Event, eventsMax)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.pools.Store(&[]*Pool{})
	h.own = &own{self: cfg.Self, key: cfg.Key, now: cfg.Now}
	h.rumours = newRumours(h)
	if err := h.keys.use(cfg.Keyring); err != nil {
		return nil, err
	}
	if err := h.own.set(cfg.Record); err != nil {
		return nil, err
	}
	h.tasks.Go(h.read)
	h.tasks.Go(h.rumours.run)
	if cfg.Control != nil {
		h.serve(cfg.Control)
	}
	return h, nil
}

// fill checks the configuration and sets what was left out.
func (c *HostConfig) fill() error {
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
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Pool returns the open pool of a scope, or nil.
func (h *Host) Pool(scope Scope) *Pool {
	for _, p := range *h.pools.Load() {
		if p.scope == scope {
			return p
		}
	}
	return nil
}

// Pools returns the open pools, in the order in which they were opened.
func (h *Host) Pools() []*Pool { return slices.Clone(*h.pools.Load()) }

// enter has packets and streams of its scope go to the pool, from now on.
func (h *Host) enter(p *Pool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	open := *h.pools.Load()
	switch {
	case h.ctx.Err() != nil:
		return ErrClosed
	case slices.ContainsFunc(open, func(o *Pool) bool { return o.scope == p.scope }):
		return fmt.Errorf("%w: %s is open already", ErrScope, p.scope)
	}
	next := append(slices.Clone(open), p)
	h.pools.Store(&next)
	return nil
}

// leave ends what enter began, and keeps the pool's counts.
func (h *Host) leave(p *Pool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	open := *h.pools.Load()
	if !slices.Contains(open, p) {
		return
	}
	next := slices.DeleteFunc(slices.Clone(open), func(o *Pool) bool { return o == p })
	h.pools.Store(&next)
	h.gone.add(p.Stats())
}

// read takes packets from the underlay until the host is closed.
func (h *Host) read() {
	for {
		select {
		case p, ok := <-h.cfg.Packets.Gossip():
			if !ok {
				return
			}
			h.arrive(p)
		case <-h.ctx.Done():
			return
		}
	}
}

// arrive gives a packet to the pool whose it is. There is one, seldom two, whose tag it bears.
func (h *Host) arrive(p underlay.GossipPacket) {
	if !p.FromID.IsZero() && !knows(h.cfg.Peers, p.FromID) {
		h.refuse(refusedRevoked, p)
		return
	}
	why := refusedScope
	for _, pool := range *h.pools.Load() {
		if len(p.Data) == 0 || p.Data[0] != pool.seal.tag {
			continue
		}
		if plain, err := pool.seal.open(p.Data); err == nil {
			pool.transport.arrive(p, plain)
			return
		}
		why = refusedSeal
	}
	h.refuse(why, p)
}

func (h *Host) refuse(why refusal, p underlay.GossipPacket) {
	h.stats.packetsIn.Add(1)
	h.stats.bytesIn.Add(uint64(len(p.Data)))
	h.stats.refuse(why)
}

// prefaceMax bounds the wait for a stream to say which pool it is for. It comes with the stream's first bytes. The control channel bounds
// how many streams a member may have open.
const prefaceMax = 5 * time.Second

// AcceptStream gives a stream that a member opened to the pool that it is for, and returns when it is done with; the stream is closed then.
func (h *Host) AcceptStream(from identity.NodeID, conn net.Conn) {
	_ = conn.SetReadDeadline(time.Now().Add(prefaceMax)) // a stream that cannot is closed by its other end
	scope, err := readPreface(conn)
	pool := h.Pool(scope)
	if err != nil || pool == nil {
		why := refusedScope
		if err != nil {
			why = refusedStream
		}
		h.stats.refuse(why)
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	pool.transport.accept(from, conn)
}

// Events gives what happens to other members, in all pools. See [Stats.EventsLost].
func (h *Host) Events() <-chan Event { return h.events }

// offer never waits; it is called with memberlist's lock held.
func (h *Host) offer(e Event) {
	select {
	case h.events <- e:
	default:
		h.stats.eventsLost.Add(1)
	}
}

// Signed returns the newest record of a member that some pool has had proved, as the member signed it.
func (h *Host) Signed(id identity.NodeID) (signed []byte, ok bool) {
	if id == h.cfg.Self {
		return h.Record(), true
	}
	var newest uint64
	for _, p := range *h.pools.Load() {
		if b, found := p.admission.signed(id); found {
			if r, err := peer.ParseRecord(id, b); err == nil && (!ok || r.Sequence > newest) {
				signed, newest, ok = b, r.Sequence, true
			}
		}
	}
	return signed, ok
}

// SetKeyring replaces the gossip keys: from now on the first seals and all of them open. To change keys without a gap, first give
// every member the new key in second place, then in first, then take the old one away.
func (h *Host) SetKeyring(keys [][]byte) error { return h.keys.use(keys) }

// Keyring returns the keys in use, the sealing one first. They are shared: read them only.
func (h *Host) Keyring() [][]byte { return h.keys.holds() }

// Stats returns the sums over all pools, and those that were closed. Members are counted once for each pool that they are in.
func (h *Host) Stats() Stats {
	out := h.stats.read()
	h.mu.Lock()
	defer h.mu.Unlock()
	out.add(h.gone.Stats)
	for _, p := range *h.pools.Load() {
		s := p.Stats()
		out.add(s)
		out.Health = max(out.Health, s.Health)
		for state, n := range s.Members {
			out.Members[state] += n
		}
	}
	return out
}

// add sums up what grows.
func (s *Stats) add(o Stats) {
	for _, c := range []struct {
		to   *uint64
		more uint64
	}{
		{&s.PacketsSent, o.PacketsSent}, {&s.PacketsReceived, o.PacketsReceived}, {&s.PacketsLost, o.PacketsLost},
		{&s.BytesSent, o.BytesSent}, {&s.BytesReceived, o.BytesReceived},
		{&s.StreamsOpened, o.StreamsOpened}, {&s.StreamsAccepted, o.StreamsAccepted}, {&s.StreamsFailed, o.StreamsFailed},
		{&s.StreamBytesSent, o.StreamBytesSent}, {&s.StreamBytesReceived, o.StreamBytesReceived},
		{&s.RumoursSent, o.RumoursSent}, {&s.RumoursHeard, o.RumoursHeard},
		{&s.EventsLost, o.EventsLost}, {&s.RumoursLost, o.RumoursLost},
		{&s.Rejoins, o.Rejoins}, {&s.ProbesSpared, o.ProbesSpared}, {&s.Drifts, o.Drifts},
	} {
		*c.to += c.more
	}
	refused := maps.Clone(s.Refused)
	if refused == nil {
		refused = map[string]uint64{}
	}
	for why, n := range o.Refused {
		refused[why] += n
	}
	s.Refused = refused
}

// Leave tells the others in all pools that this node goes on purpose, side by side; see [Pool.Leave].
func (h *Host) Leave(ctx context.Context) error {
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	for _, p := range h.Pools() {
		all.Go(func() {
			if err := p.Leave(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// Close ends all pools without a word, and the host. It can be called more than once.
func (h *Host) Close() error {
	h.mu.Lock()
	h.cancel()
	h.mu.Unlock()
	var errs []error
	for _, p := range h.Pools() {
		errs = append(errs, p.Close())
	}
	h.tasks.Wait()
	return errors.Join(errs...)
}

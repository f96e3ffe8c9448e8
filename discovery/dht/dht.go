package dht

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	kad "github.com/libp2p/go-libp2p-kad-dht"
	kadpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	record "github.com/libp2p/go-libp2p-record"
	libp2phost "github.com/libp2p/go-libp2p/core/host"
	libp2p "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/routing"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/peer"
)

const (
	// bucketSize is Kademlia's k: how many members keep a record. Members are up for days and proven, so 8 do for libp2p's 20.
	bucketSize = 8
	// resiliency is Kademlia's beta: how many of the closest must have answered before a search ends. It is all that keep a record: while a mesh
	// starts, members store with those that they hold for the closest, and with libp2p's 3 one lookup of a hundred ended before it came to them.
	resiliency = bucketSize
	// concurrency is Kademlia's alpha: how many are asked at a time.
	concurrency = 3
	// quorum is how many answers a lookup compares before it takes the newest.
	quorum = 3
	// recordAge is how long a record is kept that is not stored anew: a node that was off for three days is found as it was.
	recordAge = 72 * time.Hour
	// membersMax bounds the hints for "any member".
	membersMax = bucketSize
)

// ErrAlone says that no member that serves is known, so that there is nobody to ask.
var ErrAlone = errors.New("dht: no member to ask")

// Control is what the DHT needs of the control plane: *control.Host.
type Control interface {
	Open(ctx context.Context, id identity.NodeID, protocol string) (*control.Stream, error)
	Handle(protocol string, a control.Access, f func(ctx context.Context, s *control.Stream))
}

// Config is what a DHT is made of. All but Server, Reached, Hint and Log are required.
type Config struct {
	Key     *identity.Key
	Mesh    identity.MeshID
	Control Control
	Peers   *peer.Table // gets the members and records that are found
	// Trust is what members are verified with, Chain what this node shows of itself. They are asked anew each time.
	Trust func() *certificate.Trust
	Chain func() *certificate.Chain
	// Seeds are members that are thought alive and to serve, the likeliest to answer first. They go into the routing table, which costs no packet.
	Seeds func() []identity.NodeID
	// Server reports whether others can reach this node, so that it answers. It is asked at the start and by [DHT.Reconsider]. Nil: it does.
	Server func() bool
	// Reached reports whether a member has a path, and Hint takes addresses at which it may be: for [DHT.Seek].
	Reached func(identity.NodeID) bool
	Hint    func(identity.NodeID, []netip.AddrPort)
	Now     func() time.Time // what the machine believes the time to be, which may be set; default time.Now
	Log     *slog.Logger
}

// DHT is a node of the mesh's hash table. It is safe for concurrent use.
type DHT struct {
	cfg       Config
	log       *slog.Logger
	host      *host
	kad       *kad.IpfsDHT
	store     *store
	messenger *messenger
	validator validator
	gate      gate
	served    served

	server  atomic.Bool
	refused atomic.Uint64
	stale   atomic.Uint64
	lookups atomic.Uint64

	ctx     context.Context
	cancel  context.CancelFunc
	loops   sync.WaitGroup
	changed chan struct{} // 1: own is new
	seek    chan identity.NodeID

	mu     sync.Mutex
	own    peer.Record // the newest that Publish was given
	hasOwn bool
}

var _ discovery.Finder = (*DHT)(nil)

// Stats are figures of now, and counters since the start.
type Stats struct {
	Server  bool
	Routing int // members in the routing table
	Records int // values kept, our own too

	Lookups       uint64 // begun by [DHT.Find] and [DHT.Seek]
	Asked, Failed uint64 // questions to others, and those of them that were not answered
	Answered      uint64 // questions of others
	TurnedAway    uint64 // questions of others over a limit, or while this node is a client
	Malformed     uint64 // questions of others that were none
	Refused       uint64 // values that failed the checks
	Stale         uint64 // values that were older than another of the same node: who was away has some, and who replays them
	BytesSent     uint64 // questions and answers, without what control and QUIC add
	BytesReceived uint64
}

// New starts a node of the hash table. It asks nobody before there is something to publish or to find.
func New(cfg Config) (*DHT, error) {
	if cfg.Key == nil || cfg.Control == nil || cfg.Peers == nil || cfg.Trust == nil || cfg.Chain == nil || cfg.Seeds == nil {
		return nil, errors.New("dht: Config is incomplete")
	}
	if cfg.Server == nil {
		cfg.Server = func() bool { return true }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	self := peerIDOf(cfg.Key.ID())
	d := &DHT{cfg: cfg, log: cfg.Log, changed: make(chan struct{}, 1), seek: make(chan identity.NodeID, seekMax), store: newStore(string(self))}
	d.gate.callers = map[identity.NodeID]*caller{}
	d.validator = validator{trust: cfg.Trust, peers: cfg.Peers, now: cfg.Now, refused: func() { d.refused.Add(1) }, stale: func() { d.stale.Add(1) }}
	d.server.Store(cfg.Server())
	prefix := protocol.ID("/phantommesh/" + cfg.Mesh.String())
	var err error
	if d.host, err = newHost(self, prefix+"/kad/1.0.0"); err != nil {
		return nil, fmt.Errorf("dht: %w", err)
	}
	d.messenger = &messenger{control: cfg.Control, role: d.role, answered: d.host.know}
	if d.kad, err = kad.New(d.host, d.options(prefix)...); err != nil {
		return nil, errors.Join(fmt.Errorf("dht: %w", err), d.host.Close())
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	cfg.Control.Handle(Protocol, control.MembersOnly, d.serve)
	d.loops.Go(d.publish)
	d.loops.Go(d.seekers)
	return d, nil
}

func (d *DHT) options(prefix protocol.ID) []kad.Option {
	return []kad.Option{
		kad.ProtocolPrefix(prefix), kad.Mode(kad.ModeServer), kad.BucketSize(bucketSize), kad.Resiliency(resiliency), kad.Concurrency(concurrency), kad.Datastore(d.store),
		kad.Validator(record.NamespacedValidator{namespace: d.validator}), kad.MaxRecordAge(recordAge), kad.ValueGCInterval(time.Hour),
		kad.DisableProviders(), kad.DisableAutoRefresh(), kad.LookupCheckConcurrency(concurrency),
		kad.WithCustomMessageSender(func(libp2phost.Host, []protocol.ID) kadpb.MessageSenderWithDisconnect { return d.messenger }),
		kad.QueryFilter(func(_ any, a libp2p.AddrInfo) bool { return d.isMember(a.ID) }),
		kad.RoutingTableFilter(func(_ any, p libp2p.ID) bool { return d.isMember(p) }),
	}
}

// Close ends everything. What others keep of this node's record stays until its age.
func (d *DHT) Close() error {
	d.cancel()
	d.gate.close() // serve, which control goes on calling, turns everybody away from now on
	d.loops.Wait()
	return errors.Join(d.kad.Close(), d.host.Close())
}

// Stats returns the figures.
func (d *DHT) Stats() Stats {
	return Stats{
		Server: d.server.Load(), Routing: d.kad.RoutingTable().Size(), Records: d.store.Len(), Lookups: d.lookups.Load(),
		Asked: d.messenger.requests.Load(), Failed: d.messenger.failed.Load(),
		Answered: d.served.answered.Load(), TurnedAway: d.served.turnedAway.Load(), Malformed: d.served.malformed.Load(), Refused: d.refused.Load(), Stale: d.stale.Load(),
		BytesSent: d.messenger.sentTo.Load() + d.served.sent.Load(), BytesReceived: d.messenger.receivedBy.Load() + d.served.received.Load(),
	}
}

// isMember reports whether a peer is a member that we know and could connect to.
func (d *DHT) isMember(p libp2p.ID) bool {
	id, ok := nodeIDOf(p)
	if !ok {
		return false
	}
	e, ok := d.cfg.Peers.Get(id)
	return ok && !e.Revoked
}

func (d *DHT) role() byte {
	if d.server.Load() {
		return roleServer
	}
	return roleClient
}

// Reconsider asks anew whether this node serves. Others learn of it with its next question, or when it does not answer theirs.
func (d *DHT) Reconsider() { d.server.Store(d.cfg.Server()) }

// heard notes who has asked, and whether it serves.
func (d *DHT) heard(id identity.NodeID, serves bool) {
	p := peerIDOf(id)
	if !serves {
		d.kad.RoutingTable().RemovePeer(p)
		return
	}
	if !d.isMember(p) || !d.kad.RoutingTable().UsefulNewPeer(p) {
		return
	}
	if err := d.host.serves(p); err != nil {
		d.log.Debug("dht: member not noted", "peer", id.Short(), "err", err)
	}
}

// Cut forgets a node that is a member no more.
func (d *DHT) Cut(id identity.NodeID) {
	p := peerIDOf(id)
	d.kad.RoutingTable().RemovePeer(p)
	d.host.forget(p)
}

// join makes sure that there is somebody to ask.
func (d *DHT) join() error {
	table := d.kad.RoutingTable()
	for _, id := range d.cfg.Seeds() {
		p := peerIDOf(id)
		if p == d.host.self || !d.isMember(p) {
			continue
		}
		if added, err := table.TryAddPeer(p, true, true); added && err == nil {
			d.host.know(p)
		}
	}
	if table.Size() == 0 {
		return ErrAlone
	}
	return nil
}

// Find looks a member's record up and gives the addresses in it; with a zero id, those of some members that are alive now. Members and records
// that are new go into the peer table. When a record was made is not known, so hints have no time.
func (d *DHT) Find(ctx context.Context, id identity.NodeID, give func(discovery.Hint)) error {
	d.lookups.Add(1)
	if err := d.join(); err != nil {
		return err
	}
	ids := []identity.NodeID{id}
	if id.IsZero() {
		closest, err := d.kad.GetClosestPeers(ctx, string(d.cfg.Mesh[:]))
		if err != nil {
			return fmt.Errorf("dht: look for members: %w", err)
		}
		ids = ids[:0]
		for _, p := range closest[:min(len(closest), membersMax)] {
			if at, ok := nodeIDOf(p); ok {
				ids = append(ids, at)
			}
		}
	}
	var errs []error
	for _, at := range ids {
		e, err := d.lookup(ctx, at)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		give(discovery.Hint{ID: at, Addrs: addressesOf(e.record), Source: discovery.SourceDHT})
	}
	if len(errs) < len(ids) {
		return nil
	}
	return errors.Join(errs...)
}

// lookup gets and takes over a member's record.
func (d *DHT) lookup(ctx context.Context, id identity.NodeID) (entry, error) {
	b, err := d.kad.GetValue(ctx, keyOf(id), kad.Quorum(quorum))
	if errors.Is(err, routing.ErrNotFound) {
		return entry{}, fmt.Errorf("dht: nobody has a record of %s: %w", id.Short(), err)
	}
	if err != nil {
		return entry{}, fmt.Errorf("dht: look for %s: %w", id.Short(), err)
	}
	e, err := d.validator.open(keyOf(id), b)
	if err != nil {
		return entry{}, err
	}
	d.cfg.Peers.Admit(e.member, e.raw)
	d.cfg.Peers.Update(e.record)
	return e, nil
}

func addressesOf(r peer.Record) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range r.Endpoints {
		out = append(out, e.Addr)
	}
	return out
}

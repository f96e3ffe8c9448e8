package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// Packets is the way of sealed packets: *underlay.Socket.
type Packets interface {
	// SendGossip sends a packet to the node by whatever path there is, and does not keep b. asks says whether the node is to answer.
	SendGossip(to identity.NodeID, b []byte, asks bool) error
	// Gossip gives the packets that came.
	Gossip() <-chan underlay.GossipPacket
}

// Streams opens authenticated streams to members: the control channel, or a test's own.
type Streams interface {
	// Open returns a stream for gossip to the node, which has proven that it is that node and a member.
	Open(ctx context.Context, id identity.NodeID) (net.Conn, error)
}

const (
	// arrivedMax is how many opened packets may wait for memberlist, which only sorts them: half a second of a busy pool.
	arrivedMax = 256
	// nudgesMax is how many may wait for the rejoiner, which needs microseconds for each.
	nudgesMax = 64
	// inboundMax and inboundPerMember bound the streams that others have open to us at once. Each may hold streamMax bytes.
	// More wait their turn until they time out.
	inboundMax       = 16
	inboundPerMember = 4
)

var (
	errNoNode   = errors.New("gossip: not the address of a node")
	errRefused  = errors.New("gossip: not a member, or revoked")
	errShutdown = errors.New("gossip: closed")
)

// transport is memberlist's transport: node IDs in, node IDs out.
type transport struct {
	// Constant after start.
	self         identity.NodeID
	mesh         identity.MeshID
	address      netip.Addr // our overlay IPv6 address
	packets      Packets
	streams      Streams
	peers        *peer.Table
	scope        Scope
	fence        *fence
	shared       Shared                // nil: nothing
	strayed      func(identity.NodeID) // called with a member that speaks here and does not belong here
	seal         *seal
	roster       *roster
	calm         *calm
	admission    *admission
	incarnations *incarnations
	drifted      func(identity.NodeID) // called when another knows something else; set before run
	paths        *paths
	stats        *counters
	log          *slog.Logger
	timeout      time.Duration // of a stream

	mirror  atomic.Pointer[mirror]  // set while a snapshot is made
	arrived chan *memberlist.Packet // closed never: memberlist would take a nil packet from it
	inbound chan net.Conn
	nudges  chan identity.NodeID
	asks    chan identity.NodeID // who is to be asked himself, see incarnations
	ctx     context.Context      // ends with the transport
	cancel  context.CancelFunc
	tasks   sync.WaitGroup // accept calls

	mu      sync.Mutex // guards what follows
	live    map[*stream]struct{}
	serving map[identity.NodeID]int             // inbound streams by member
	turns   chan struct{}                       // holds a token for each inbound stream that memberlist has; not guarded
	tellers map[identity.NodeID]identity.NodeID // by stranger: the member whose packet last said that it is alive
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// newTransport returns the transport of a pool.
func newTransport(h *Host, p *Pool) *transport {
	ctx, cancel := context.WithCancel(context.Background())
	return &transport{
		self: p.self, mesh: p.mesh, calm: newCalm(p.profile), address: identity.OverlayIPv6(p.mesh, p.self),
		packets: h.cfg.Packets, streams: h.cfg.Streams, peers: p.peers, scope: p.scope, fence: p.fence, shared: h.cfg.Shared, strayed: p.strayed,
		admission: p.admission, incarnations: newIncarnations(p.self), seal: p.seal, roster: p.roster, stats: p.stats, log: p.log, timeout: p.profile.StreamTimeout,
		paths:   newPaths(ctx, h.cfg.Connect),
		arrived: make(chan *memberlist.Packet, arrivedMax),
		inbound: make(chan net.Conn),
		nudges:  make(chan identity.NodeID, nudgesMax),
		asks:    make(chan identity.NodeID, nudgesMax),
		ctx:     ctx, cancel: cancel,
		live:    map[*stream]struct{}{},
		serving: map[identity.NodeID]int{},
		turns:   make(chan struct{}, inboundMax),
		tellers: map[identity.NodeID]identity.NodeID{},
	}
}

// arrive takes one opened packet from the host to memberlist, or refuses it.
func (t *transport) arrive(p underlay.GossipPacket, plain []byte) {
	t.stats.packetsIn.Add(1)
	t.stats.bytesIn.Add(uint64(len(p.Data)))
	if !p.FromID.IsZero() && !t.fence.lets(p.FromID, time.Now()) {
		t.stats.refuse(refusedScope)
		t.strayed(p.FromID)
		return
	}
	plain, err := t.takeApart(plain, p.FromID)
	if err != nil {
		t.stats.refuse(refusedForm)
		return
	}
	if len(plain) == 0 {
		return // nothing of it was to be believed
	}
	if !p.FromID.IsZero() && !here(t.roster.state(p.FromID)) {
		t.nudge(p.FromID)
	}
	at := p.At
	if at.IsZero() {
		at = time.Now()
	}
	select {
	case t.arrived <- &memberlist.Packet{Buf: plain, From: nodeAddr(p.FromID), Timestamp: at}:
	default:
		t.stats.refuse(refusedBusy)
	}
}

// takeApart checks the form of an opened packet and returns it as memberlist expects it.
func (t *transport) takeApart(plain []byte, from identity.NodeID) ([]byte, error) {
	if !isShort(plain) {
		var spoiled error
		var kept [][]byte
		changed, now := false, time.Now()
		err := walk(plain, func(kind byte, body []byte) {
			as, ok := t.believes(kind, body, from, now)
			changed = changed || !ok || !bytes.Equal(as, body)
			if !ok {
				return
			}
			kept = append(kept, append([]byte{kind}, as...))
			switch {
			case kind == typeAck && bytes.Contains(body, spared):
				spoiled = errPacketForm
			case kind == typeIndirectPing:
				t.roster.stir(time.Now()) // somebody does not answer; above all, this probe is not to be spared
			case kind == typeAlive && !from.IsZero():
				t.told(body, from)
			}
		})
		if err = errors.Join(err, spoiled); err == nil && changed {
			plain = packOf(kept)
		}
		return plain, err
	}
	long, theirs, err := lengthen(plain, from, t.self, t.mesh)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if ours, settled := t.digest(now); settled && here(t.roster.state(from)) && t.calm.differs(ours, theirs, now) {
		t.drifted(from)
	}
	return long, nil
}

// nudge tells the rejoiner of a member that sends packets and is not alive here.
func (t *transport) nudge(id identity.NodeID) {
	select {
	case t.nudges <- id:
	default: // the next packet will
	}
}

// knows reports whether the node is a member that has not been revoked.
func knows(peers *peer.Table, id identity.NodeID) bool {
	e, ok := peers.Get(id)
	return ok && !e.Revoked
}

// knows reports whether the node is a member that may be in this pool.
func (t *transport) knows(id identity.NodeID) bool {
	return knows(t.peers, id) && t.fence.lets(id, time.Now())
}

// told remembers which member says of a stranger that it is alive.
func (t *transport) told(alive []byte, from identity.NodeID) {
	id, ok := subjectOf(alive)
	if !ok || id == t.self || t.knows(id) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for other := range t.tellers {
		if _, had := t.tellers[id]; had || len(t.tellers) < pendingMax {
			break
		}
		delete(t.tellers, other)
	}
	t.tellers[id] = from
}

// teller returns the member whose packet said that a stranger is alive, and forgets it; zero: none did, as far as is known.
func (t *transport) teller(id identity.NodeID) identity.NodeID {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := t.tellers[id]
	delete(t.tellers, id)
	return from
}

// FinalAdvertiseAddr implements memberlist.Transport: our overlay address, whatever was configured.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.address.AsSlice(), overlayPort, nil
}

// WriteTo implements memberlist.Transport. Memberlist is told to name the node, so this is never used.
func (t *transport) WriteTo(_ []byte, addr string) (time.Time, error) {
	return time.Time{}, fmt.Errorf("%w: %s", errNoNode, addr)
}

// WriteToAddress implements memberlist.NodeAwareTransport. An error that is the path's or the member's comes as a *net.OpError:
// only then does memberlist go on with its probe (others' help, a stream) and suspect the node in the end.
func (t *transport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	if t.ctx.Err() != nil {
		return time.Time{}, errShutdown
	}
	id, err := identity.ParseNodeID(addr.Name)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %q", errNoNode, addr.Name)
	}
	// What memberlist spreads it believes: see roster.
	asks := false
	_ = walk(b, func(kind byte, body []byte) {
		switch kind {
		case typePing, typeIndirectPing:
			asks = true
		case typeAlive:
			t.noteOwn(body)
		case typeSuspect:
			if about, ok := subjectOf(body); ok {
				t.roster.suspected(about)
			}
		}
	})
	if !t.knows(id) {
		return time.Time{}, unreachable("udp", errRefused)
	}
	now := time.Now()
	if short, ok := shorten(b, t.self.String(), addr.Name); ok {
		if short.kind == shortPing && t.spare(id, short.sequence, now) {
			return now, nil
		}
		digest, _ := t.digest(now)
		b = short.append(make([]byte, 0, shortMax), digest)
	}
	sealed, err := t.seal.close(id, b)
	if err != nil {
		return time.Time{}, err
	}
	if err := t.packets.SendGossip(id, sealed, asks); err != nil {
		t.stats.packetsLost.Add(1)
		t.paths.want(id)
		return time.Time{}, unreachable("udp", err)
	}
	t.stats.packetsOut.Add(1)
	t.stats.bytesOut.Add(uint64(len(sealed)))
	return now, nil
}

// spare answers a probe in the member's place if it need not be sent.
func (t *transport) spare(id identity.NodeID, sequence uint32, now time.Time) bool {
	quiet, neighbour := t.roster.quiet(t.self, id, t.calm.alert, now)
	if !t.calm.spares(quiet, neighbour, now) {
		return false
	}
	answer, err := encodeMessage(typeAck, ackMessage{SeqNo: sequence, Payload: spared})
	if err != nil {
		return false
	}
	select {
	case t.arrived <- &memberlist.Packet{Buf: answer, From: nodeAddr(id), Timestamp: now}:
		t.stats.probesSpared.Add(1)
		return true
	default:
		return false
	}
}

// unreachable wraps an error so that memberlist counts it against the other end.
func unreachable(network string, err error) error {
	return &net.OpError{Op: "write", Net: network, Err: err}
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.arrived }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.inbound }

// DialTimeout implements memberlist.Transport; see [transport.WriteTo].
func (t *transport) DialTimeout(addr string, _ time.Duration) (net.Conn, error) {
	return nil, fmt.Errorf("%w: %s", errNoNode, addr)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport. A node that is not in the table yet may be dialled: the control
// channel lets only members through, and shows their certificates.
func (t *transport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	id, err := identity.ParseNodeID(addr.Name)
	if err != nil {
		return nil, fmt.Errorf("%w: %q", errNoNode, addr.Name)
	}
	if m := t.mirror.Load(); id == t.self && m != nil {
		return m, nil
	}
	if e, ok := t.peers.Get(id); id == t.self || ok && (e.Revoked || !t.fence.lets(id, time.Now())) {
		return nil, errRefused
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.streams.Open(ctx, id)
	if err != nil {
		t.stats.streamsFailed.Add(1)
		return nil, fmt.Errorf("gossip: stream to %s: %w", id.Short(), err)
	}
	s, err := t.track(conn, id, false)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	t.stats.streamsOut.Add(1)
	return s, nil
}

// accept gives a member's stream to memberlist and returns when it has been closed.
func (t *transport) accept(from identity.NodeID, conn net.Conn) {
	defer conn.Close()
	if !t.enter(from) {
		t.stats.refuse(refusedStream)
		return
	}
	defer t.leave(from)
	turn := time.NewTimer(t.timeout)
	defer turn.Stop()
	select {
	case t.turns <- struct{}{}:
		defer func() { <-t.turns }()
	case <-turn.C:
		t.stats.refuse(refusedBusy)
		return
	case <-t.ctx.Done():
		return
	}
	s, err := t.track(conn, from, true)
	if err != nil {
		return
	}
	defer s.Close()
	select {
	case t.inbound <- s:
		t.stats.streamsIn.Add(1)
		<-s.closed
	case <-t.ctx.Done():
	}
}

// enter counts a stream of the member in, unless it may not have one (more).
func (t *transport) enter(from identity.NodeID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil || t.serving[from] >= inboundPerMember || !t.knows(from) {
		return false
	}
	t.serving[from]++
	t.tasks.Add(1)
	return true
}

func (t *transport) leave(from identity.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.serving[from]--; t.serving[from] == 0 {
		delete(t.serving, from)
	}
	t.tasks.Done()
}

// track wraps a connection so that shutting down closes it.
func (t *transport) track(conn net.Conn, with identity.NodeID, inbound bool) (*stream, error) {
	s := newStream(t, conn, with, inbound)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return nil, errShutdown
	}
	t.live[s] = struct{}{}
	return s, nil
}

func (t *transport) untrack(s *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, s)
}

// Shutdown implements memberlist.Transport: it closes every stream and waits for the transport's goroutines. It can be called
// more than once.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	t.cancel()
	var open []*stream
	for s := range t.live {
		open = append(open, s)
	}
	t.mu.Unlock()
	for _, s := range open {
		_ = s.Close()
	}
	t.tasks.Wait()
	t.paths.wait()
	return nil
}

// nodeAddr is a net.Addr that is a node.
type nodeAddr identity.NodeID

// Network implements net.Addr.
func (nodeAddr) Network() string { return "phantommesh" }

// String implements net.Addr.
func (a nodeAddr) String() string {
	id := identity.NodeID(a)
	if id.IsZero() {
		return "unknown node"
	}
	return id.Short()
}

// memberlistAddress is where memberlist sends to reach the node.
func memberlistAddress(mesh identity.MeshID, id identity.NodeID) memberlist.Address {
	return memberlist.Address{Addr: net.JoinHostPort(identity.OverlayIPv6(mesh, id).String(), strconv.Itoa(overlayPort)), Name: id.String()}
}

// joinAddress is the node in the form that Memberlist.Join takes: "name/[address]:port".
func joinAddress(mesh identity.MeshID, id identity.NodeID) string {
	a := memberlistAddress(mesh, id)
	return a.Name + "/" + a.Addr
}

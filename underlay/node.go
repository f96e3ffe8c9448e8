package underlay

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// node is one peer of the socket: a member, or a stranger with whom we speak only to let it enrol.
type node struct {
	socket *Socket
	// Constant after creation.
	key      identity.WireGuardKey
	addr     net.Addr // Addr{key}, boxed once so that reading a packet allocates nothing
	endpoint nodeEndpoint

	pair struct { // the key of the pair, computed when first needed
		once sync.Once
		key  [32]byte
		err  error
	}

	// Written and read anywhere.
	member         atomic.Pointer[identity.NodeID] // nil: a stranger
	active         atomic.Pointer[route]           // what packets travel on; nil: no path
	owed           atomic.Int64                    // instant of the first packet sent since the active path was heard; 0: none
	sent           atomic.Int64                    // instant of the last packet sent; 0: never
	used           atomic.Int64                    // instant of the last tunnel data; 0: never
	unanswered     atomic.Int64                    // instant of the first WireGuard packet sent since one came; 0: none
	narrow         atomic.Bool                     // large packets to the node must be fragmented
	trial          atomic.Pointer[trial]           // a lossy path that gets copies; nil: none
	quic           atomic.Int64                    // instant of the last QUIC packet received; 0: never
	wantsPath      atomic.Bool                     // something was sent while there was no path
	wireGuardKnown atomic.Bool                     // the WireGuard device has this peer
	orphanAt       atomic.Int64                    // instant of the last report to OnOrphan
	info           atomic.Pointer[PathInfo]
	parked         atomic.Pointer[parked]
	channels       atomic.Pointer[channelSet] // those through this node; nil: none
	confirmed      atomic.Bool                // a path is validated by both sides
	stirred        atomic.Bool                // it is in the socket's list of those

	// The owner goroutine's.
	paths      pathSet
	born       instant
	due        instant // when the owner has something to do for the node, if it is in the queue
	queued     int     // its place there, from 1 on; 0: it is not, and nothing is due before something happens
	hints      []netip.AddrPort
	tried      map[netip.AddrPort]bool // addresses of the last search
	attempt    *attempt
	automatic  instant // when the last connect that nobody asked for began
	publicized pathKey
	attempts   attempts
}

// pathKey is what about a path is worth telling watchers.
type pathKey struct {
	addr   netip.AddrPort
	kind   PathKind
	mtu    int
	narrow bool
	lossy  bool
}

// route is a path in the form the hot path needs.
type route struct {
	endpoint conn.Endpoint // the real one
	source   *source       // where its answers come from
	link     *linkEndpoint // endpoint, if that is a link's; else nil
	sticky   bool          // endpoint carries the local address that the last check arrived on
}

func newRoute(ep conn.Endpoint, src *source) *route {
	return &route{endpoint: ep, source: src, link: linkOf(ep)}
}

// answeredRoute is the route to where an answer came from: its endpoint knows which local address to send from.
func answeredRoute(ep conn.Endpoint, src *source) *route {
	r := newRoute(ep, src)
	r.sticky = r.link == nil
	return r
}

// relayed reports whether the route leads through a relay.
func (r *route) relayed() bool { return r.link != nil && r.link.link.Kind() == LinkChannel }

// pairKey returns the key we share with the node for path checks. The first call costs one X25519 operation.
func (n *node) pairKey() ([32]byte, error) {
	n.pair.once.Do(func() { n.pair.key, n.pair.err = n.socket.key.PathKey(n.key) })
	return n.pair.key, n.pair.err
}

// traffic is what packets are, as far as the upkeep of paths goes.
type traffic uint8

const (
	questions traffic = iota // an answer is to come, or an acknowledgement
	news                     // nothing comes back for them
	data                     // of the tunnel
)

// send sends packets of one node over its active path.
func (n *node) send(bufs [][]byte, what traffic) error {
	now := n.socket.now()
	data := what == data
	wireGuard := data || classify(bufs[0]) == classWireGuard
	r := n.active.Load()
	n.noteSent(now, data, !wireGuard && (r.mayAnswer(now) || what == news && r.fresh(now)))
	kept := !n.confirmed.Load() && n.park(bufs, now)
	if r == nil {
		n.askForPath()
		if kept {
			return nil
		}
		n.socket.stats.drop(dropNoPath, len(bufs))
		return ErrNoPath
	}
	if wireGuard {
		n.countSent(r.source, bufs, now)
	}
	err := n.ship(bufs, r.endpoint)
	if err != nil && n.socket.open() {
		err = n.sendFailed(bufs, r, err)
	}
	if t := n.trial.Load(); t != nil && data {
		n.sendTrial(t, bufs)
	}
	return err
}

// sendDirect sends relay frames over the active path, unless that leads through a relay itself: then there is none for them.
func (n *node) sendDirect(bufs [][]byte, data bool) error {
	if n.member.Load() == nil {
		return ErrNoPath // revoked
	}
	n.noteSent(n.socket.now(), data, false)
	r := n.active.Load()
	if r == nil || r.relayed() {
		n.askForPath()
		return ErrNoPath
	}
	err := n.ship(bufs, r.endpoint)
	if err != nil && n.socket.open() {
		err = n.sendFailed(bufs, r, err)
	}
	return err
}

// ship sends packets to an endpoint; in fragments, where the path carries no large ones.
func (n *node) ship(bufs [][]byte, ep conn.Endpoint) error {
	if n.narrow.Load() && largest(bufs) > largePacket && linkOf(ep) == nil {
		if f, ok := n.socket.bind.(fragmenter); ok {
			return f.SendFragmented(bufs, ep)
		}
	}
	return n.socket.transmit(bufs, ep)
}

// parked is a WireGuard handshake message that waits for a path.
type parked struct {
	data []byte
	at   instant
}

const (
	// parkLife is how long: the device repeats its handshake after 5 s.
	parkLife = 4 * time.Second
	// handshakeMax is the size of the largest, the initiation.
	handshakeMax = 148
)

// park keeps a handshake message, the newest, until there is a path that the other side has validated too: before that it drops what
// we send, and the first packet to a node would wait for the device's repetition.
func (n *node) park(bufs [][]byte, now instant) bool {
	if len(bufs) != 1 || len(bufs[0]) > handshakeMax || classify(bufs[0]) != classWireGuard || bufs[0][0] == wireGuardTransport {
		return false
	}
	n.parked.Store(&parked{data: bytes.Clone(bufs[0]), at: now})
	if n.confirmed.Load() { // between the caller's look and the store
		n.unpark()
	}
	return true
}

// unpark sends what was parked, if it is still worth it.
func (n *node) unpark() {
	p := n.parked.Swap(nil)
	if p == nil || n.socket.now()-p.at >= parkLife {
		return
	}
	if r := n.active.Load(); r != nil {
		n.countSent(r.source, [][]byte{p.data}, n.socket.now())
		_ = n.socket.transmit([][]byte{p.data}, r.endpoint) // if lost, the device repeats it
	}
}

// unstick replaces the route by one without a local address and returns it; nil if the address does not parse.
func (n *node) unstick(r *route) *route {
	e, err := n.socket.parseEndpoint(r.source.addr)
	if err != nil {
		return nil
	}
	plain := newRoute(e, r.source)
	n.active.CompareAndSwap(r, plain)
	return plain
}

// quietMin is how long a node must have been quiet for its next packet to wake the owner: the owner's own timers look after a node
// that sends more often.
const quietMin = time.Second

// answerWithin a packet's arrival one of the control plane or of gossip is taken for its answer, or its acknowledgement, which nothing comes
// back for: QUIC acknowledges within 25 ms, and both answer at once. Were it taken for a question, each question of the other side would
// end in a check of the path. A question that is asked in this time is repeated, if it matters, and then counts.
const answerWithin = 100 * time.Millisecond

// mayAnswer reports whether what is sent over the route now may be an answer.
func (r *route) mayAnswer(now instant) bool {
	return r != nil && now-instant(r.source.received.Load()) < answerWithin
}

// fresh reports whether something has come over the route lately. News for who has been quiet for longer count as a question: they may go to where it
// was.
func (r *route) fresh(now instant) bool {
	return r != nil && now-instant(r.source.received.Load()) < freshFor
}

// noteSent keeps the instants that path upkeep needs, and wakes the owner if it has no reason to look after the node yet.
func (n *node) noteSent(now instant, data, answer bool) {
	last := n.sent.Swap(int64(now))
	if !answer && n.owed.Load() == 0 {
		n.owed.Store(int64(now))
	}
	if data {
		n.used.Store(int64(now))
	}
	if now-instant(last) >= quietMin {
		n.wake()
	}
}

// askForPath has the owner look for a path in the background.
func (n *node) askForPath() {
	if n.member.Load() != nil && n.wantsPath.CompareAndSwap(false, true) {
		n.wake()
	}
}

// heard notes a packet from one of the node's sources.
func (src *source) heard(now instant) {
	if src.received.Load() != int64(now) {
		src.received.Store(int64(now))
	}
	n := src.node
	if n.owed.Load() != 0 {
		if r := n.active.Load(); r != nil && r.source == src {
			n.owed.Store(0)
		}
	}
}

// nodeEndpoint is what the WireGuard device knows of a peer's whereabouts: who it is. It never changes, so nothing in the device
// does when the path does.
type nodeEndpoint struct{ node *node }

var _ conn.Endpoint = (*nodeEndpoint)(nil)

// ClearSrc makes the system choose the local address anew.
func (e *nodeEndpoint) ClearSrc() {
	if r := e.node.active.Load(); r != nil && r.sticky {
		e.node.unstick(r)
	}
}

// SrcToString returns nothing: the local address is the underlay's business.
func (e *nodeEndpoint) SrcToString() string { return "" }

// DstToString returns the node ID, which [Socket.Bind]'s ParseEndpoint reads.
func (e *nodeEndpoint) DstToString() string {
	if id := e.node.member.Load(); id != nil {
		return id.String()
	}
	return ""
}

// DstToBytes returns the node's key. The device binds its cookies to it (MAC2), and whoever sends from a validated path has it.
func (e *nodeEndpoint) DstToBytes() []byte { return e.node.key[:] }

// DstIP returns an address that stands for the node in the device's rate limit of handshakes, the same on every path.
func (e *nodeEndpoint) DstIP() netip.Addr { return netip.AddrFrom16([16]byte(e.node.key[:16])) }

// SrcIP returns no address: the local one is the underlay's business.
func (e *nodeEndpoint) SrcIP() netip.Addr { return netip.Addr{} }

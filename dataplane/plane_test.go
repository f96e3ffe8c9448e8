package dataplane

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// The world of these tests: planes on a network in memory that carries WireGuard packets by node ID, and streams that stand for the
// control channel. It holds no socket, so it runs in virtual time.

type testWorld struct {
	t     testing.TB
	mesh  identity.MeshID
	nodes map[identity.NodeID]*testNode

	mu      sync.Mutex
	delay   time.Duration                                      // of WireGuard packets and stream bytes, one way
	tap     func(from, to identity.NodeID, packet []byte) bool // false: lose it
	streams bool                                               // control works
}

type testNode struct {
	w       *testWorld
	index   int
	key     *identity.Key
	id      identity.NodeID
	member  *certificate.Member
	v4, v6  netip.Addr
	table   *peer.Table
	pipe    *Pipe
	network Interface
	plane   *Plane
	bind    *testBind
	link    *testStreams
	orphan  func(identity.NodeID)
	known   sync.Map
	deaf    atomic.Bool // orphans are not reported
}

// keptPeers keeps WireGuard's peers reachable: their queues' finalizers must not run outside of a bubble.
var keptPeers struct {
	sync.Mutex
	all []*device.Peer
}

func keepPeer(p *device.Peer) {
	keptPeers.Lock()
	defer keptPeers.Unlock()
	keptPeers.all = append(keptPeers.all, p)
}

func newTestWorld(t testing.TB, n int) *testWorld {
	w := &testWorld{t: t, nodes: map[identity.NodeID]*testNode{}, streams: true}
	_, _ = rand.Read(w.mesh[:])
	for i := range n {
		w.addNode(i)
	}
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			a.table.Admit(b.member, nil)
		}
	}
	return w
}

func (w *testWorld) addNode(i int) {
	w.t.Helper()
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	now := time.Now()
	n := &testNode{w: w, index: i, key: key, id: key.ID(), table: peer.NewTable(key.ID())}
	n.v4 = netip.AddrFrom4([4]byte{10, 86, 0, byte(i + 1)})
	n.v6 = identity.OverlayIPv6(w.mesh, n.id)
	n.member = &certificate.Member{
		Public: *key.Public(), Mesh: w.mesh, Name: fmt.Sprintf("node-%d", i), IPv4: n.v4, NotBefore: now, NotAfter: now.Add(time.Hour),
		Serial: uint64(i + 1),
	}
	w.nodes[n.id] = n
}

// list returns the nodes in the order they were made.
func (w *testWorld) list() []*testNode {
	out := make([]*testNode, len(w.nodes))
	for _, n := range w.nodes {
		out[n.index] = n
	}
	return out
}

func (n *testNode) prefixes() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(n.v4, 16), netip.PrefixFrom(n.v6, 48)}
}

// start runs the node's plane; change may alter its configuration.
func (n *testNode) start(change func(*Config)) {
	n.w.t.Helper()
	n.replaceEnds(&testBind{node: n, in: make(chan testPacket, 4096)}, &testStreams{node: n})
	n.pipe = OpenPipe(n.prefixes(), 0)
	cfg := Config{
		Key: n.key, Self: n.id, Mesh: n.w.mesh, Bind: n.bind, Peers: n.table, Streams: n.link, Network: n.pipe,
		Orphans: func(f func(identity.NodeID)) { n.orphan = f },
		Known:   func(k identity.WireGuardKey, has bool) { n.known.Store(k, has) },
		OnPeer:  keepPeer,
	}
	if change != nil {
		change(&cfg)
	}
	n.network = cfg.Network
	p, err := New(cfg)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.plane = p
}

// replaceEnds gives the node new ends of the network, while others may be sending to it.
func (n *testNode) replaceEnds(bind *testBind, link *testStreams) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.bind, n.link = bind, link
}

func (n *testNode) ends() (*testBind, *testStreams) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.bind, n.link
}

func (n *testNode) stop() {
	if err := n.plane.Close(); err != nil {
		n.w.t.Error(err)
	}
	n.known.Clear()
}

func (w *testWorld) startAll(change func(*Config)) []*testNode {
	nodes := w.list()
	for _, n := range nodes {
		n.start(change)
	}
	return nodes
}

func (w *testWorld) stopAll() {
	for _, n := range w.list() {
		n.stop()
	}
}

func (w *testWorld) setTap(f func(from, to identity.NodeID, packet []byte) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tap = f
}

func (w *testWorld) setStreams(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams = on
}

func (w *testWorld) streamsOn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.streams
}

// testBind is the underlay's bind: endpoints are node IDs.
type testBind struct {
	node *testNode
	in   chan testPacket
	mu   sync.Mutex
	stop chan struct{}
}

type testPacket struct {
	from identity.NodeID
	data []byte
}

type testEndpoint identity.NodeID

func (e testEndpoint) ClearSrc()           {}
func (e testEndpoint) SrcToString() string { return "" }
func (e testEndpoint) DstToString() string { return identity.NodeID(e).String() }
func (e testEndpoint) DstToBytes() []byte  { return e[:] }
func (e testEndpoint) DstIP() netip.Addr   { return netip.AddrFrom16([16]byte(e[:16])) }
func (e testEndpoint) SrcIP() netip.Addr   { return netip.Addr{} }

func (b *testBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	stop := make(chan struct{})
	b.mu.Lock()
	b.stop = stop
	b.mu.Unlock()
	return []conn.ReceiveFunc{func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case p := <-b.in:
			sizes[0], eps[0] = copy(bufs[0], p.data), testEndpoint(p.from)
			b.watchOrphans(p)
			return 1, nil
		case <-stop:
			return 0, net.ErrClosed
		}
	}}, 51820, nil
}

// watchOrphans does what the underlay does: WireGuard data from a member without a peer is reported.
func (b *testBind) watchOrphans(p testPacket) {
	n := b.node
	from := n.w.nodes[p.from]
	if binary.LittleEndian.Uint32(p.data) != device.MessageTransportType || n.deaf.Load() {
		return
	}
	if has, ok := n.known.Load(from.key.Public().WireGuard); !ok || has == false {
		n.orphan(p.from)
	}
}

func (b *testBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop != nil {
		close(b.stop)
		b.stop = nil
	}
	return nil
}

func (b *testBind) SetMark(uint32) error { return nil }
func (b *testBind) BatchSize() int       { return 1 }

func (b *testBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	id, err := identity.ParseNodeID(s)
	return testEndpoint(id), err
}

func (b *testBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	to := identity.NodeID(ep.(testEndpoint))
	w := b.node.w
	w.mu.Lock()
	tap, delay := w.tap, w.delay
	w.mu.Unlock()
	for _, buf := range bufs {
		if tap != nil && !tap(b.node.id, to, buf) {
			continue
		}
		p := testPacket{from: b.node.id, data: append([]byte(nil), buf...)}
		target := w.nodes[to]
		deliver := func() {
			bind, _ := target.ends()
			select {
			case bind.in <- p:
			default:
			}
		}
		if delay == 0 {
			deliver()
		} else {
			time.AfterFunc(delay, deliver)
		}
	}
	return nil
}

// testStreams stands for the control channel of a node.
type testStreams struct {
	node   *testNode
	mu     sync.Mutex
	handle func(ctx context.Context, id identity.NodeID, s Stream)
	tell   func(id identity.NodeID, up bool)
}

var errTestUnreachable = errors.New("test: unreachable")

func (s *testStreams) Open(_ context.Context, id identity.NodeID) (Stream, error) {
	w := s.node.w
	far := w.nodes[id]
	if far == nil || !w.streamsOn() {
		return nil, errTestUnreachable
	}
	_, link := far.ends()
	if link == nil {
		return nil, errTestUnreachable
	}
	link.mu.Lock()
	handle := link.handle // of a stopped plane: it refuses
	link.mu.Unlock()
	if handle == nil {
		return nil, errTestUnreachable
	}
	var exporter [32]byte
	_, _ = rand.Read(exporter[:])
	a, b := net.Pipe()
	go func() {
		defer b.Close()
		handle(context.Background(), s.node.id, &testStream{Conn: b, w: w, exporter: exporter})
	}()
	return &testStream{Conn: a, w: w, exporter: exporter}, nil
}

func (s *testStreams) Handle(f func(ctx context.Context, id identity.NodeID, s Stream)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle = f
}

func (s *testStreams) OnConnection(f func(id identity.NodeID, up bool)) { s.tell = f }

type testStream struct {
	net.Conn
	w        *testWorld
	exporter [32]byte
}

func (s *testStream) Write(b []byte) (int, error) {
	s.w.mu.Lock()
	delay, on := s.w.delay, s.w.streams
	s.w.mu.Unlock()
	if !on {
		_ = s.Conn.Close()
		return 0, errTestUnreachable
	}
	if delay > 0 {
		time.Sleep(delay) // the time a frame is under way; virtual in a bubble
	}
	return s.Conn.Write(b)
}

func (s *testStream) Exporter(string, []byte) ([32]byte, error) { return s.exporter, nil }
func (s *testStream) Reset()                                    { _ = s.Conn.Close() }

// udp4 makes an IPv4 packet with a payload that says which one it is.
func udp4(from, to netip.Addr, number uint32) []byte {
	b := make([]byte, 20+8+8)
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^sum(b[:20], 0))
	binary.BigEndian.PutUint16(b[20:], 7)
	binary.BigEndian.PutUint16(b[22:], 7)
	binary.BigEndian.PutUint16(b[24:], 16)
	binary.BigEndian.PutUint32(b[28:], number)
	return b
}

// udp6 is udp4 over IPv6.
func udp6(from, to netip.Addr, number uint32) []byte {
	b := make([]byte, 40+8+8)
	b[0], b[6], b[7] = 0x60, 17, 64
	binary.BigEndian.PutUint16(b[4:], 16)
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	binary.BigEndian.PutUint16(b[44:], 16)
	binary.BigEndian.PutUint32(b[48:], number)
	return b
}

// packetNumber reads which packet it is; false if it is not one of udp4 or udp6.
func packetNumber(b []byte) (uint32, bool) {
	switch {
	case len(b) == 36 && b[0] == 0x45 && b[9] == 17:
		return binary.BigEndian.Uint32(b[28:]), true
	case len(b) == 56 && b[0] == 0x60 && b[6] == 17:
		return binary.BigEndian.Uint32(b[48:]), true
	}
	return 0, false
}

func hexOf(b []byte) string { return fmt.Sprintf("%x", b) }

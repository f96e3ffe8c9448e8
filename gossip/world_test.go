package gossip

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// testKeys are made once: ML-DSA keys take a while.
var testKeys = struct {
	sync.Mutex
	made []*identity.Key
}{}

func testKey(t testing.TB, i int) *identity.Key {
	t.Helper()
	testKeys.Lock()
	defer testKeys.Unlock()
	for len(testKeys.made) <= i {
		k, err := identity.Generate(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		testKeys.made = append(testKeys.made, k)
	}
	return testKeys.made[i]
}

var (
	testMesh  = identity.MeshID{1, 2, 3}
	testScope = Scope("home")
	gossipA   = []byte("the first key of the keyring, 32")
	gossipB   = []byte("the second key of the keyring 32")
)

// world is a network in memory: packets with delay and loss, streams that show each side the other's certificate.
type world struct {
	t       testing.TB
	delay   time.Duration // one way, ± half
	loss    float64
	packets atomic.Uint64
	streams atomic.Uint64
	largest atomic.Uint64
	offline atomic.Bool   // no stream can be opened, which is known at once
	refused atomic.Uint64 // how many were refused so

	mu    sync.Mutex
	nodes map[identity.NodeID]*host
	// apart reports whether the network between two nodes is cut, nil for never; noStreams the same for streams only.
	apart     func(a, b identity.NodeID) bool
	noStreams func(a, b identity.NodeID) bool
}

// host is a machine in the world. Its pool can be killed and started again.
type host struct {
	w      *world
	key    *identity.Key
	id     identity.NodeID
	member *certificate.Member
	table  *peer.Table
	in     chan underlay.GossipPacket
	up     atomic.Bool
	pool   atomic.Pointer[Pool]
	shows  bool // its certificate to whom it opens a stream with
}

func newWorld(t testing.TB) *world {
	return &world{t: t, delay: 2 * time.Millisecond, nodes: map[identity.NodeID]*host{}}
}

// host adds a machine that knows nobody but itself.
func (w *world) host(i int) *host {
	key := testKey(w.t, i)
	now := time.Now()
	m := &certificate.Member{
		Public: *key.Public(), Mesh: testMesh, Name: fmt.Sprintf("node-%d", i),
		IPv4:      netip.AddrFrom4([4]byte{10, 86, byte(i >> 8), byte(i + 1)}),
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificate.MemberLife), Serial: uint64(i + 1),
	}
	h := &host{w: w, key: key, id: key.ID(), member: m, in: make(chan underlay.GossipPacket, 4096), shows: true}
	h.table = peer.NewTable(h.id)
	h.table.Admit(m, []byte{1})
	w.mu.Lock()
	w.nodes[h.id] = h
	w.mu.Unlock()
	return h
}

// hosts adds n machines that know each other's certificates.
func (w *world) hosts(n int) []*host {
	var out []*host
	for i := range n {
		out = append(out, w.host(i))
	}
	for _, h := range out {
		for _, o := range out {
			h.table.Admit(o.member, []byte{1})
		}
	}
	return out
}

// setup is a host with one pool.
type setup struct {
	HostConfig
	Config
}

func (h *host) config() setup {
	return setup{
		HostConfig{
			Self: h.id, Key: h.key, Mesh: testMesh, Peers: h.table, Packets: h, Streams: h, Keyring: [][]byte{gossipA},
			Record: peer.Record{Region: "home", Endpoints: []peer.Endpoint{
				{Addr: netip.MustParseAddrPort("192.0.2.7:51820"), Kind: peer.Local},
			}},
		},
		Config{Scope: testScope},
	}
}

// start runs a pool on the machine, with the configuration changed by f if there is one.
func (h *host) start(f ...func(*setup)) *Pool {
	h.w.t.Helper()
	cfg := h.config()
	for _, f := range f {
		f(&cfg)
	}
	g, err := NewHost(cfg.HostConfig)
	if err != nil {
		h.w.t.Fatal(err)
	}
	p, err := g.Open(cfg.Config)
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.pool.Store(p)
	h.up.Store(true)
	return p
}

// kill takes the machine off the network in the middle of everything.
func (h *host) kill() {
	h.up.Store(false)
	_ = h.pool.Load().host.Close()
	for {
		select {
		case <-h.in:
		default:
			return
		}
	}
}

func (w *world) connected(a, b identity.NodeID) (*host, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	to, from := w.nodes[b], w.nodes[a]
	if to == nil || !from.up.Load() && from.pool.Load() != nil || !to.up.Load() {
		return nil, false
	}
	return to, w.apart == nil || !w.apart(a, b)
}

// split cuts the network between the first n of the hosts and the rest; nil mends it.
func (w *world) split(group map[identity.NodeID]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.apart = nil
	if group != nil {
		w.apart = func(a, b identity.NodeID) bool { return group[a] != group[b] }
	}
}

// SendGossip implements Packets.
func (h *host) SendGossip(to identity.NodeID, b []byte, _ bool) error {
	w := h.w
	w.packets.Add(1)
	for old := w.largest.Load(); old < uint64(len(b)) && !w.largest.CompareAndSwap(old, uint64(len(b))); old = w.largest.Load() {
	}
	o, ok := w.connected(h.id, to)
	if !ok || w.loss > 0 && mathrand.Float64() < w.loss {
		return nil // gone without a trace, as UDP does
	}
	p := underlay.GossipPacket{Data: append([]byte(nil), b...)}
	if e, known := o.table.Get(h.id); known && !e.Revoked {
		p.FromID = h.id // as the underlay does: a validated path of a member, or nobody in particular
	}
	time.AfterFunc(w.delay/2+mathrand.N(w.delay+1), func() {
		p.At = time.Now()
		select {
		case o.in <- p:
		default:
		}
	})
	return nil
}

// Gossip implements Packets.
func (h *host) Gossip() <-chan underlay.GossipPacket { return h.in }

var errNoRoute = errors.New("no route")

// refusedMax is how many streams are refused at once. Further ones wait, so that who asks without end fails a test instead of never ending it.
const refusedMax = 10_000

// Open implements Streams: like the control channel, it takes two round trips and shows each side the other's certificate.
func (h *host) Open(ctx context.Context, id identity.NodeID) (net.Conn, error) {
	w := h.w
	if w.offline.Load() && w.refused.Add(1) < refusedMax {
		return nil, errNoRoute
	}
	select {
	case <-time.After(4 * w.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	o, ok := w.connected(h.id, id)
	w.mu.Lock()
	blocked := w.noStreams != nil && w.noStreams(h.id, id)
	w.mu.Unlock()
	if !ok || blocked {
		select { // nobody answers
		case <-time.After(time.Hour):
		case <-ctx.Done():
		}
		return nil, errNoRoute
	}
	if h.shows {
		o.table.Admit(h.member, []byte{1})
	}
	h.table.Admit(o.member, []byte{1})
	w.streams.Add(1)
	ours, theirs := net.Pipe()
	go o.pool.Load().host.AcceptStream(h.id, theirs)
	return ours, nil
}

// inBubble runs f in virtual time. A goroutine that is left in the bubble makes the test fail, so every test here also proves that
// closed pools end: all of ours with Close, memberlist's at the latest with the probe that is under way.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	testKey(t, 5) // made outside: virtual time has no clock for work
	synctest.Test(t, func(t *testing.T) {
		f(t)
		time.Sleep(awarenessMax * LAN().ProbeInterval)
		synctest.Wait()
	})
}

// eventually waits until ok, and fails the test if that takes longer than limit. It returns how long it took.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			t.Fatalf("after %v still not: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}

// sees reports whether every one of the hosts holds the node in the state.
func sees(hosts []*host, of identity.NodeID, state peer.State) bool {
	for _, h := range hosts {
		if h.id == of || !h.up.Load() {
			continue
		}
		if e, ok := h.table.Get(of); !ok || e.State != state || h.pool.Load().roster.state(of) != state {
			return false
		}
	}
	return true
}

// whole reports whether all hosts that are up hold all of those for alive.
func whole(hosts []*host) bool {
	for _, h := range hosts {
		if h.up.Load() && !sees(hosts, h.id, peer.Alive) {
			return false
		}
	}
	return true
}

// startAll starts all hosts and joins each to the first.
func startAll(t testing.TB, hosts []*host, f ...func(*setup)) {
	t.Helper()
	for i, h := range hosts {
		p := h.start(f...)
		if i > 0 {
			if _, err := p.Join(t.Context(), []identity.NodeID{hosts[0].id}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func closeAll(hosts []*host) {
	for _, h := range hosts {
		if p := h.pool.Load(); p != nil {
			_ = p.host.Close()
		}
	}
}

package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

// world is a network of nodes in memory: who reaches whom directly, and what relays forward.
type world struct {
	t  *testing.T
	mu sync.Mutex
	// nodes by ID; names for reading.
	nodes map[identity.NodeID]*fakeNode
	// channels by relay and number: to whom they lead, from whom.
	ends map[end]end
	next uint32
	// joints are those who reach each other if both try at once.
	joints map[[2]identity.NodeID]bool
}

// end is a member's end of a channel.
type end struct {
	relay, node identity.NodeID
	number      uint32
}

// fakeNode is one node: its table, its reach, and itself the Underlay and Streams.
type fakeNode struct {
	world *world
	name  string
	id    identity.NodeID
	addr  netip.AddrPort
	table *peer.Table
	reach *Reach
	seq   uint64
	cfg   Config

	// guarded by world.mu
	open     bool // others reach it
	down     bool
	rtt      time.Duration
	paths    map[identity.NodeID]Path
	links    map[netip.AddrPort]end
	accepts  map[identity.NodeID]bool
	kept     map[identity.NodeID]bool
	tries    map[identity.NodeID]int // checks of UDP addresses
	triedAt  map[identity.NodeID]time.Time
	fans     int
	streams  map[*fakeStream]bool
	handlers map[string]func(context.Context, Stream)
	watchers map[chan struct{}]bool
	pairs    int
	seenAs   func(server netip.AddrPort) (netip.AddrPort, error)
}

func newWorld(t *testing.T) *world {
	return &world{t: t, nodes: map[identity.NodeID]*fakeNode{}, ends: map[end]end{}, joints: map[[2]identity.NodeID]bool{}}
}

// add makes a node. An open one is reached by everybody and offers to relay.
func (w *world) add(name string, open bool) *fakeNode {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.nodes) + 1
	m := &certificate.Member{Name: name, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), Serial: 1}
	m.Public.Ed25519[0], m.Public.WireGuard[0], m.Public.MLDSA = byte(n), byte(n), make([]byte, 1952)
	f := &fakeNode{
		world: w, name: name, id: m.NodeID(), open: open, rtt: time.Duration(n) * 10 * time.Millisecond,
		addr:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(n), 7}), 51820),
		paths: map[identity.NodeID]Path{}, links: map[netip.AddrPort]end{}, accepts: map[identity.NodeID]bool{}, kept: map[identity.NodeID]bool{},
		tries: map[identity.NodeID]int{}, triedAt: map[identity.NodeID]time.Time{}, streams: map[*fakeStream]bool{},
		handlers: map[string]func(context.Context, Stream){}, watchers: map[chan struct{}]bool{},
	}
	f.table = peer.NewTable(f.id)
	f.seenAs = func(netip.AddrPort) (netip.AddrPort, error) { return f.addr, nil }
	w.nodes[f.id] = f
	for _, o := range w.nodes {
		o.table.Admit(m, nil)
		o.table.SetState(f.id, peer.Alive, time.Now())
		for _, other := range w.nodes {
			if e, ok := other.table.Get(other.id); ok {
				f.table.Admit(e.Member, nil)
				f.table.SetState(other.id, peer.Alive, time.Now())
				if e.HasRecord {
					f.table.Update(e.Record)
				}
			}
		}
	}
	return f
}

// start runs the node's reach. What it says of itself travels at once.
func (f *fakeNode) start(change ...func(*Config)) *Reach {
	f.world.t.Helper()
	f.cfg = Config{Underlay: f, Streams: f, Table: f.table, Changed: func() { f.publish() }, Rand: rand.NewChaCha8([32]byte{f.id[0]})}
	if testing.Verbose() {
		f.cfg.Log = slog.New(slog.NewTextHandler(f.world.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", f.name)
	}
	for _, c := range change {
		c(&f.cfg)
	}
	r, err := New(f.cfg)
	if err != nil {
		f.world.t.Fatal(err)
	}
	f.world.mu.Lock()
	f.reach = r
	f.world.mu.Unlock()
	f.publish()
	return r
}

func (f *fakeNode) publish() {
	f.world.mu.Lock()
	r := f.reach
	f.seq++
	seq := f.seq
	f.world.mu.Unlock()
	if r == nil {
		return
	}
	f.say(peer.Record{ID: f.id, Sequence: seq, Endpoints: r.Endpoints(), Relays: r.Relays(), Relay: r.OffersRelay(), NAT: r.NAT()})
}

func (f *fakeNode) say(rec peer.Record) {
	f.world.mu.Lock() // to the end: a node that is added meanwhile is told by one of the two
	defer f.world.mu.Unlock()
	for _, o := range f.world.nodes {
		o.table.Update(rec)
	}
}

// kill ends a node without a word.
func (f *fakeNode) kill() {
	f.world.mu.Lock()
	f.down = true
	var cut []*fakeStream
	for s := range f.streams {
		cut = append(cut, s, s.other)
	}
	f.world.mu.Unlock()
	for _, s := range cut {
		s.Close()
	}
	if f.reach != nil {
		f.reach.Close()
	}
	synctest.Wait() // gossip tells later than the streams
	for _, o := range f.world.nodes {
		o.table.SetState(f.id, peer.Dead, time.Now())
		o.drop(f.id)
	}
}

func (f *fakeNode) drop(id identity.NodeID) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	delete(f.paths, id)
	f.notifyLocked()
}

func (f *fakeNode) notifyLocked() {
	for c := range f.watchers {
		wake(c)
	}
}

func (w *world) closeAll() {
	for _, n := range w.nodes {
		if n.reach != nil && !n.down {
			n.reach.Close()
		}
	}
	synctest.Wait()
}

// within runs a test in virtual time.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.closeAll()
		f(t, w)
	})
}

// The Underlay.

// directLocked reports whether a direct path between the two can be.
func (f *fakeNode) directLocked(o *fakeNode) bool {
	return o != nil && !f.down && !o.down && (f.open || o.open)
}

func (f *fakeNode) Path(id identity.NodeID) (Path, bool) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	p, ok := f.paths[id]
	return p, ok
}

func (f *fakeNode) Paths() map[identity.NodeID]Path {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	out := map[identity.NodeID]Path{}
	for id, p := range f.paths {
		out[id] = p
	}
	return out
}

func (f *fakeNode) Watch() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	f.watchers[c] = true
	return c, func() {
		f.world.mu.Lock()
		defer f.world.mu.Unlock()
		delete(f.watchers, c)
	}
}

var errSilent = errors.New("nobody answers")

func (f *fakeNode) Connect(ctx context.Context, id identity.NodeID) error {
	f.world.mu.Lock()
	o := f.world.nodes[id]
	if f.directLocked(o) {
		f.joinLocked(o, Path{Kind: Direct, Addr: o.addr, RTT: o.rtt, Heard: time.Now()})
		f.world.mu.Unlock()
		return nil
	}
	if p, ok := f.paths[id]; ok && p.Kind != NoPath {
		f.world.mu.Unlock()
		return nil
	}
	r := f.reach
	f.world.mu.Unlock()
	if r != nil {
		r.Assist(id)
	}
	ctx, cancel := context.WithTimeout(ctx, nat.PlanLength)
	defer cancel()
	changed, stop := f.Watch()
	defer stop()
	for {
		if _, ok := f.Path(id); ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return errSilent
		case <-changed:
		}
	}
}

// joinLocked makes p the path from f to o, and its like the way back.
func (f *fakeNode) joinLocked(o *fakeNode, p Path) {
	p.Tunnel = true
	back := p
	back.Addr, back.RTT = f.addr, f.rtt
	if p.Kind == Relayed {
		back.Addr, back.RTT = netip.AddrPort{}, p.RTT
	}
	for _, x := range []struct {
		n  *fakeNode
		id identity.NodeID
		p  Path
	}{{f, o.id, p}, {o, f.id, back}} {
		if old, ok := x.n.paths[x.id]; ok && old.Kind == Direct && x.p.Kind == Relayed {
			continue
		}
		x.n.paths[x.id] = x.p
		x.n.notifyLocked()
	}
}

func (f *fakeNode) Probe(ctx context.Context, id identity.NodeID) (time.Duration, error) {
	if err := f.Connect(ctx, id); err != nil {
		return 0, err
	}
	f.world.mu.Lock()
	p, down := f.paths[id], f.world.nodes[id].down
	f.world.mu.Unlock()
	if down {
		<-ctx.Done()
		return 0, errSilent
	}
	time.Sleep(p.RTT)
	return p.RTT, nil
}

func (f *fakeNode) Try(id identity.NodeID, addrs []netip.AddrPort) error {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	o := f.world.nodes[id]
	for _, a := range addrs {
		if e, ok := f.links[a]; ok {
			f.world.forwardLocked(e)
			continue
		}
		f.tries[id]++
		f.triedAt[id] = time.Now()
		pair := [2]identity.NodeID{f.id, id}
		if o != nil && f.world.joints[pair] && time.Since(o.triedAt[f.id]) < time.Second {
			f.joinLocked(o, Path{Kind: Direct, Addr: o.addr, RTT: o.rtt, Heard: time.Now()})
		}
	}
	return nil
}

// forwardLocked lets a check go through a channel.
func (w *world) forwardLocked(from end) {
	to, ok := w.ends[from]
	relay, a, b := w.nodes[from.relay], w.nodes[from.node], w.nodes[to.node]
	if !ok || relay.down || b.down {
		return
	}
	known := b.accepts[relay.id]
	for _, e := range b.links {
		known = known || e == to
	}
	if known {
		a.joinLocked(b, Path{Kind: Relayed, Via: relay.id, RTT: a.rtt + b.rtt, Heard: time.Now()})
	}
}

func (f *fakeNode) FanOut(context.Context, identity.NodeID, netip.AddrPort, int) error {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	f.fans++
	return nil
}

func (f *fakeNode) DialPipe(context.Context, netip.AddrPort) (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.New("no TCP in this world")
}

func (f *fakeNode) FanIn(context.Context, identity.NodeID, nat.Plan) error {
	return f.FanOut(context.Background(), identity.NodeID{}, netip.AddrPort{}, 0)
}

func (f *fakeNode) Keep(id identity.NodeID, on bool) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	if f.kept[id] == on {
		f.world.t.Errorf("%s: kept twice, or given up twice", f.name)
	}
	f.kept[id] = on
}

func (f *fakeNode) Tried(identity.NodeID) []Tried { return nil }

func (f *fakeNode) Ask(_ context.Context, q nat.Ask) (nat.Reply, time.Duration) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	a, err := f.seenAs(q.To)
	if err != nil {
		return nat.Reply{}, 0
	}
	return nat.Reply{From: q.To, Mapped: a}, time.Millisecond
}

func (f *fakeNode) Observed() map[netip.AddrPort]int { return nil }

func (f *fakeNode) LocalEndpoints() []netip.AddrPort {
	if f.open {
		return []netip.AddrPort{f.addr}
	}
	return []netip.AddrPort{netip.MustParseAddrPort("192.168.1.2:51820")}
}

func (f *fakeNode) Unsolicited() int { return 0 }

func linkAddr(e end) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 1, 7: 1, 8: e.relay[0], 9: e.relay[1], 14: byte(e.number >> 8), 15: byte(e.number)}), 1)
}

func (f *fakeNode) OpenChannel(relay identity.NodeID, number uint32) (netip.AddrPort, error) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	e := end{relay, f.id, number}
	f.links[linkAddr(e)] = e
	return linkAddr(e), nil
}

func (f *fakeNode) CloseChannel(a netip.AddrPort) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	if _, ok := f.links[a]; !ok {
		f.world.t.Errorf("%s: a channel was closed twice", f.name)
	}
	delete(f.links, a)
}

func (f *fakeNode) AcceptChannels(relay identity.NodeID, yes bool) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	f.accepts[relay] = yes
}

func (f *fakeNode) RelayPair(a, b identity.NodeID) (Grant, error) {
	w := f.world
	w.mu.Lock()
	defer w.mu.Unlock()
	for ea, eb := range w.ends { // a pair keeps its numbers
		if ea.relay == f.id && ea.node == a && eb.node == b {
			return Grant{ForA: ea.number, ForB: eb.number}, nil
		}
	}
	g := Grant{ForA: w.next + 1, ForB: w.next + 2}
	w.next += 2
	ea, eb := end{f.id, a, g.ForA}, end{f.id, b, g.ForB}
	w.ends[ea], w.ends[eb] = eb, ea
	f.pairs++
	return g, nil
}

func (f *fakeNode) RelayEnd(g Grant) {
	w := f.world
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := range w.ends {
		if e.relay == f.id && (e.number == g.ForA || e.number == g.ForB) {
			delete(w.ends, e)
		}
	}
	f.pairs--
}

func (f *fakeNode) RelayLoad() int { return 0 }

// The Streams.

type fakeStream struct {
	net.Conn
	peer  identity.NodeID
	other *fakeStream
	owner *fakeNode
	end   context.CancelFunc
}

func (s *fakeStream) Peer() identity.NodeID { return s.peer }

func (s *fakeStream) Close() error {
	s.end()
	return s.Conn.Close()
}

func (f *fakeNode) Handle(protocol string, serve func(context.Context, Stream)) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	f.handlers[protocol] = serve
}

// Open needs a path, as control does.
func (f *fakeNode) Open(ctx context.Context, id identity.NodeID, protocol string) (Stream, error) {
	if err := f.Connect(ctx, id); err != nil {
		return nil, err
	}
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	o := f.world.nodes[id]
	serve := o.handlers[protocol]
	if serve == nil || o.down {
		return nil, fmt.Errorf("%s does not serve %s", o.name, protocol)
	}
	a, b := net.Pipe()
	actx, acancel := context.WithCancel(context.Background())
	bctx, bcancel := context.WithCancel(context.Background())
	_ = actx
	ours := &fakeStream{Conn: a, peer: id, owner: f, end: acancel}
	theirs := &fakeStream{Conn: b, peer: f.id, owner: o, end: bcancel, other: ours}
	ours.other = theirs
	f.streams[ours], o.streams[theirs] = true, true
	go func() {
		serve(bctx, theirs)
		f.world.mu.Lock()
		delete(f.streams, ours)
		delete(o.streams, theirs)
		f.world.mu.Unlock()
	}()
	return ours, nil
}

// ask plays a member that speaks a protocol by hand.
func (f *fakeNode) ask(ctx context.Context, id identity.NodeID, protocol string) Stream {
	f.world.t.Helper()
	s, err := f.Open(ctx, id, protocol)
	if err != nil {
		f.world.t.Fatal(err)
	}
	return s
}

// gone reports whether the other side has ended the stream.
func gone(s Stream) bool {
	_ = s.SetReadDeadline(time.Now().Add(time.Second))
	_, err := io.ReadAll(s)
	var timeout net.Error
	return !(errors.As(err, &timeout) && timeout.Timeout())
}

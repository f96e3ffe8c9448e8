package coordinator

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/peer"
)

// fabric is a network of pipes: every node reaches every other, except those that are cut off.
type fabric struct {
	mu    sync.Mutex
	nodes map[identity.NodeID]*port
	side  map[identity.NodeID]int // nodes on different sides do not reach each other; -1 reaches nobody
	conns map[*pipeStream]struct{}

	verified map[shown]time.Time // until when a certificate is valid
}

func newFabric() *fabric {
	return &fabric{nodes: map[identity.NodeID]*port{}, side: map[identity.NodeID]int{}, conns: map[*pipeStream]struct{}{},
		verified: map[shown]time.Time{}}
}

// port is one node's Streams.
type port struct {
	net  *fabric
	self identity.NodeID

	mu       sync.Mutex
	handlers map[string]func(context.Context, Stream)
	strange  map[string]bool
	group    atomic.Pointer[Group] // to tell strangers from members
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

func (f *fabric) port(id identity.NodeID) *port {
	p := &port{net: f, self: id, handlers: map[string]func(context.Context, Stream){}, strange: map[string]bool{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes[id] = p
	return p
}

// close takes the node off the network and waits for its handlers.
func (p *port) close() {
	p.net.mu.Lock()
	if p.net.nodes[p.self] == p {
		delete(p.net.nodes, p.self)
	}
	p.net.mu.Unlock()
	p.net.closeConns(func(s *pipeStream) bool { return s.self == p.self || s.peer.ID == p.self })
	p.cancel()
	p.running.Wait()
}

func (f *fabric) closeConns(match func(*pipeStream) bool) {
	f.mu.Lock()
	var list []*pipeStream
	for c := range f.conns {
		list = append(list, c)
	}
	f.mu.Unlock()
	for _, c := range list {
		if match(c) {
			c.Close()
		}
	}
}

// split puts nodes on a side, cutting every connection to others.
func (f *fabric) split(side int, ids ...identity.NodeID) {
	f.mu.Lock()
	for _, id := range ids {
		f.side[id] = side
	}
	f.mu.Unlock()
	f.closeConns(func(s *pipeStream) bool { return !f.reaches(s.self, s.peer.ID) })
}

func (f *fabric) reaches(a, b identity.NodeID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.side[a] == f.side[b] && f.side[a] >= 0 && f.nodes[a] != nil && f.nodes[b] != nil
}

// takes tells whether a node lets another in as a member: control verifies the certificates that each shows.
func (p *port) takes(from *port) bool {
	ours, theirs := p.group.Load(), from.group.Load()
	if ours == nil || theirs == nil {
		return true // being opened
	}
	chain := theirs.Chain()
	if ours.Trust().Revoked(from.self) || chain == nil {
		return false
	}
	id := shown{sha256.Sum256(chain.Member), ours.Trust()}
	p.net.mu.Lock()
	until, verified := p.net.verified[id]
	p.net.mu.Unlock()
	if !verified {
		m, err := ours.Trust().VerifyChain(chain, ours.cfg.Now())
		if err != nil {
			return false
		}
		until = m.NotAfter
		p.net.mu.Lock()
		p.net.verified[id] = until
		p.net.mu.Unlock()
	}
	return !ours.cfg.Now().After(until)
}

// shown is a certificate that was verified, and against what.
type shown struct {
	certificate [32]byte
	trust       *certificate.Trust
}

type pipeStream struct {
	net.Conn
	net  *fabric
	self identity.NodeID
	peer Peer
}

func (s *pipeStream) Peer() Peer        { return s.peer }
func (s *pipeStream) CloseWrite() error { return nil }
func (s *pipeStream) Close() error {
	s.net.mu.Lock()
	delete(s.net.conns, s)
	s.net.mu.Unlock()
	return s.Conn.Close()
}

func (p *port) Handle(protocol string, strangers bool, serve func(context.Context, Stream)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handlers[protocol], p.strange[protocol] = serve, strangers
}

func (p *port) peerAs(id identity.NodeID) Peer {
	out := Peer{ID: id}
	if g := p.group.Load(); g != nil {
		if m, ok := g.state.Load().Member(id); ok && m.Status == Active {
			out.Member = m.Certificate
		}
	}
	return out
}

var errRefusedStream = errors.New("stream refused")

// Open implements Streams. Like UDP, a node that is away does not say so: the caller waits for its own deadline.
func (p *port) Open(ctx context.Context, id identity.NodeID, protocol string) (Stream, error) {
	if !p.net.reaches(p.self, id) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	p.net.mu.Lock()
	to := p.net.nodes[id]
	p.net.mu.Unlock()
	to.mu.Lock()
	serve, strange := to.handlers[protocol], to.strange[protocol]
	to.mu.Unlock()
	if serve == nil || (!strange && !to.takes(p)) {
		return nil, errRefusedStream
	}
	a, b := net.Pipe()
	near := &pipeStream{Conn: a, net: p.net, self: p.self, peer: p.peerAs(id)}
	far := &pipeStream{Conn: b, net: p.net, self: id, peer: to.peerAs(p.self)}
	p.net.mu.Lock()
	p.net.conns[near], p.net.conns[far] = struct{}{}, struct{}{}
	p.net.mu.Unlock()
	to.running.Go(func() { serve(to.ctx, far) })
	return near, nil
}

// lab is a mesh of groups in one process.
type lab struct {
	t      testing.TB
	net    *fabric
	timing Timing
	synced bool // logs are written to the disk as in real nodes
	nodes  []*member
	shift  atomic.Int64 // how far the mesh's clock is ahead of the bubble's, in nanoseconds
	unseen atomic.Bool  // gossip has not noticed yet who is gone
}

// now is what the nodes' clocks say. What they wait for takes the bubble's time, so that months can pass at once.
func (l *lab) now() time.Time { return time.Now().Add(time.Duration(l.shift.Load())) }

type member struct {
	lab   *lab
	name  string
	key   *identity.Key
	dir   string
	port  *port
	peers *peer.Table
	group *Group
	disk  *faultyDisk
	asks  *string      // for this region; nil: home
	off   atomic.Int64 // how far this machine's clock is ahead of the mesh's, in nanoseconds
}

func (m *member) now() time.Time { return m.lab.now().Add(time.Duration(m.off.Load())) }

// The identities come from a fixed seed and are sorted by ID, so that neither traces nor what is drawn from an ID depend on chance.
var (
	keysOnce sync.Once
	keys     []*identity.Key
)

func testKey(i int) *identity.Key {
	keysOnce.Do(func() {
		seed := mathrand.NewChaCha8([32]byte{})
		for range 24 {
			k, err := identity.Generate(seed)
			if err != nil {
				panic(err)
			}
			keys = append(keys, k)
		}
		slices.SortFunc(keys, func(a, b *identity.Key) int { return a.ID().Compare(b.ID()) })
	})
	return keys[i]
}

// newLab returns a lab in which members poll often: nobody gossips here.
func newLab(t testing.TB) *lab {
	timing := LAN()
	timing.Poll = timing.Seek
	return &lab{t: t, net: newFabric(), timing: timing}
}

func (l *lab) log(name string) *slog.Logger {
	if os.Getenv("COORDINATOR_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name)
}

func (l *lab) node(i int) *member {
	m := &member{lab: l, name: fmt.Sprintf("node-%d", i), key: testKey(i), dir: l.t.TempDir()}
	l.nodes = append(l.nodes, m)
	return m
}

func (m *member) config() Config {
	m.port = m.lab.net.port(m.key.ID())
	m.peers = peer.NewTable(m.key.ID())
	m.disk = &faultyDisk{}
	return Config{wrapDisk: m.disk.wrap, Key: m.key, Streams: m.port, Peers: m.peers, Dir: m.dir, Rand: rand.Reader, Now: m.now, Log: m.lab.log(m.name),
		Timing: m.lab.timing, NoSync: !m.lab.synced,
		Alive: func(id identity.NodeID) bool { return m.lab.unseen.Load() || m.lab.net.reaches(m.key.ID(), id) }}
}

func (m *member) id() identity.NodeID { return m.key.ID() }

func (m *member) up(g *Group, err error) *Group {
	m.lab.t.Helper()
	if err != nil {
		m.lab.t.Fatalf("%s: %v", m.name, err)
	}
	m.group = g
	m.port.group.Store(g)
	return g
}

func (m *member) found() *Group {
	m.lab.t.Helper()
	g, err := Found(m.config(), Founding{MeshName: "lab", NodeName: m.name, Region: "home"})
	return m.up(g, err)
}

func (m *member) open() *Group {
	m.lab.t.Helper()
	g, err := Open(m.config())
	return m.up(g, err)
}

// request signs an enrolment request with a token.
func (m *member) request(token invitation.Token, at time.Time) []byte {
	m.lab.t.Helper()
	region := "home"
	if m.asks != nil {
		region = *m.asks
	}
	raw, err := invitation.SignRequest(m.key, invitation.Request{Mesh: token.Mesh, Public: *m.key.Public(), Name: m.name, Region: region,
		Invitation: token.ID(), Proof: invitation.Proof(token.Key(), token.Mesh, m.id()), Time: at})
	if err != nil {
		m.lab.t.Fatal(err)
	}
	return raw
}

// tryJoin enrols over a stream to a member, as a joiner does.
func (m *member) tryJoin(ctx context.Context, via *member, token invitation.Token) (Answer, error) {
	p := m.lab.net.port(m.id())
	defer p.close()
	s, err := p.Open(ctx, via.id(), ProtocolEnroll)
	if err != nil {
		return Answer{}, err
	}
	defer s.Close()
	return RequestEnrollment(ctx, s, m.request(token, m.lab.now()), token.Mesh, m.lab.now())
}

func (m *member) join(via *member, token invitation.Token) *Group {
	m.lab.t.Helper()
	a, err := m.tryJoin(context.Background(), via, token)
	if err != nil {
		m.lab.t.Fatalf("%s joins via %s: %v", m.name, via.name, err)
	}
	g, err := Enrolled(m.config(), a)
	m.up(g, err)
	if err := g.Pull(context.Background(), via.id()); err != nil {
		m.lab.t.Fatalf("%s: %v", m.name, err)
	}
	return g
}

func (m *member) invite(spec InviteSpec) invitation.Token {
	m.lab.t.Helper()
	token, _, err := m.group.Invite(context.Background(), spec)
	if err != nil {
		m.lab.t.Fatalf("%s invites: %v", m.name, err)
	}
	return token
}

// kill takes the node off the network first, so that nothing it does while it closes is seen: as kill -9 looks from outside.
func (m *member) kill() {
	m.port.close()
	if m.group != nil {
		m.group.Close()
		m.group = nil
	}
}

func (m *member) close() {
	if m.group != nil {
		m.group.Close()
		m.group = nil
	}
	if m.port != nil {
		m.port.close()
	}
}

func (l *lab) close() {
	for _, m := range l.nodes {
		m.close()
	}
}

// mesh founds and joins n nodes.
func (l *lab) mesh(n int) []*member {
	l.t.Helper()
	first := l.node(0)
	first.found()
	token := first.invite(InviteSpec{Uses: max(1, n)})
	for i := 1; i < n; i++ {
		l.node(i).join(first, token)
	}
	return l.nodes
}

// eventually waits for a condition, in virtual time where the test runs in a bubble.
func (l *lab) eventually(within time.Duration, what string, ok func() bool) time.Duration {
	l.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			l.t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// leader returns the node that leads with a majority behind it.
func (l *lab) leader() *member {
	for _, m := range l.nodes {
		if m.group == nil {
			continue
		}
		if r := m.group.current(); r != nil && r.leads() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			err := r.verify(ctx)
			cancel()
			if err == nil {
				return m
			}
		}
	}
	return nil
}

func (l *lab) voters() int {
	if m := l.leader(); m != nil {
		return len(m.group.State().Coordinators.Voters)
	}
	return 0
}

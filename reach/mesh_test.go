package reach

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/control/controltest"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// realNode is a node of real parts on a network in memory: underlay, control, reach. Records travel at once, as if by gossip.
type realNode struct {
	t      *testing.T
	name   string
	key    *identity.Key
	id     identity.NodeID
	table  *peer.Table
	socket *underlay.Socket
	host   *control.Host
	reach  atomic.Pointer[Reach]
	seq    atomic.Uint64
	all    *[]*realNode
}

// realMesh makes nodes on the hosts, all members of one mesh, and starts them.
func realMesh(t *testing.T, hosts map[string]*underlaytest.Host) map[string]*realNode {
	t.Helper()
	m := controltest.New(t, 1)
	out := map[string]*realNode{}
	var all []*realNode
	var members []*certificate.Member
	var raws [][]byte
	for name, host := range hosts {
		key, err := identity.Generate(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		chain, member := m.Certify(key.Public(), name, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		n := &realNode{t: t, name: name, key: key, id: key.ID(), table: peer.NewTable(key.ID()), all: &all}
		n.open(host, m.Trust(), chain)
		members, raws, all = append(members, member), append(raws, chain.Member), append(all, n)
		out[name] = n
	}
	for _, n := range all {
		for i := range members {
			n.table.Admit(members[i], raws[i])
			n.table.SetState(members[i].NodeID(), peer.Alive, time.Now())
		}
	}
	for _, n := range all {
		n.start()
	}
	t.Cleanup(func() {
		for _, n := range all {
			n.reach.Load().Close()
			n.host.Close()
			n.socket.Close()
		}
	})
	return out
}

func (n *realNode) open(host *underlaytest.Host, trust *certificate.Trust, chain *certificate.Chain) {
	n.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(n.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", n.name)
	}
	var err error
	n.socket, err = underlay.Open(underlay.Config{
		Key: n.key, Peers: n.table, Bind: host, Port: 51820, Log: log,
		RelayCapacity: underlay.RelayCapacity{Channels: 64, Peers: 64, BytesPerSecond: 1e6},
		OpenSpare:     host.OpenSpare,
		Assist: func(id identity.NodeID) {
			if r := n.reach.Load(); r != nil {
				r.Assist(id)
			}
		},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.host, err = control.New(control.Config{
		Key: n.key, Network: n.socket, Log: log, Admit: n.table.Admit,
		Trust: func() *certificate.Trust { return trust }, Chain: func() *certificate.Chain { return chain },
		Known: func(k identity.WireGuardKey) bool { _, ok := n.table.ByKey(k); return ok },
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.host.Handle("echo", control.MembersOnly, func(_ context.Context, s *control.Stream) {
		defer s.Close()
		_, _ = io.Copy(s, s)
	})
}

func (n *realNode) start() {
	n.t.Helper()
	r, err := New(Config{Underlay: OverSocket(n.socket, 1e6), Streams: OverControl(n.host), Table: n.table, Changed: n.publish})
	if err != nil {
		n.t.Fatal(err)
	}
	n.reach.Store(r)
	n.publish()
}

func (n *realNode) publish() {
	r := n.reach.Load()
	if r == nil {
		return
	}
	rec := peer.Record{ID: n.id, Sequence: n.seq.Add(1), Endpoints: r.Endpoints(), Relays: r.Relays(), Relay: r.OffersRelay(), NAT: r.NAT()}
	for _, o := range *n.all {
		o.table.Update(rec)
	}
}

// echo has a word come back over the control channel.
func (n *realNode) echo(ctx context.Context, to *realNode) error {
	s, err := n.host.Open(ctx, to.id, "echo")
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Write([]byte("hello")); err != nil {
		return err
	}
	_ = s.CloseWrite()
	b, err := io.ReadAll(s)
	if err == nil && string(b) != "hello" {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (n *realNode) kindTo(to *realNode) underlay.PathKind {
	p, _ := n.socket.Path(to.id)
	return p.Kind
}

// nats are the routers of the tests.
func natOf(kind string, external string) underlaytest.NATConfig {
	c := underlaytest.NATConfig{External: netip.MustParseAddr(external), Filtering: underlaytest.AddressAndPortDependent, Seed: 7}
	if kind == "hard" {
		c.Mapping = underlaytest.AddressAndPortDependent
	}
	return c
}

// TestRealNodesBehindNATsMeet runs sockets, control channels and reach over routers in memory, in virtual time.
func TestRealNodesBehindNATsMeet(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want underlay.PathKind
	}{
		{"easy", "easy", underlay.PathDirect},
		{"easy", "hard", underlay.PathDirect},
		{"hard", "easy", underlay.PathDirect},
		{"hard", "hard", underlay.PathRelay},
	} {
		t.Run(c.a+" and "+c.b, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var w underlaytest.Network
				private := netip.MustParseAddr("192.168.1.2")
				nodes := realMesh(t, map[string]*underlaytest.Host{
					"hub-1": w.Host(netip.MustParseAddr("198.51.100.1")), "hub-2": w.Host(netip.MustParseAddr("203.0.113.1")),
					"a": w.NAT(natOf(c.a, "192.0.2.1")).Host(private), "b": w.NAT(natOf(c.b, "192.0.2.129")).Host(private),
				})
				a, b := nodes["a"], nodes["b"]
				time.Sleep(20 * time.Second)
				for _, n := range []*realNode{a, b} {
					if r := n.reach.Load(); len(r.Relays()) != relaysAtHand || r.NAT().String() != map[*realNode]string{a: c.a, b: c.b}[n] {
						t.Fatalf("%s: %d relays at hand, NAT %s, %+v", n.name, len(r.Relays()), r.NAT(), r.Behaviour().Reasons)
					}
				}
				// As if each had a tunnel to the other: for less, many ports are not tried.
				a.socket.WireGuardKnown(b.key.Public().WireGuard, true)
				b.socket.WireGuardKnown(a.key.Public().WireGuard, true)
				began := time.Now()
				if err := a.echo(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("the first word took %v", took)
				}
				for range 50 {
					time.Sleep(100 * time.Millisecond)
					if err := a.echo(t.Context(), b); err != nil {
						t.Fatal(err)
					}
				}
				if got := a.kindTo(b); got != c.want {
					t.Errorf("after five seconds the path is %s, want %s: %+v", got, c.want, a.reach.Load().Explain(b.id))
				}
			})
		})
	}
}

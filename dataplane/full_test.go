package dataplane

import (
	"net/netip"
	"testing"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/control/controltest"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/underlay"
)

// TestTheWholeStackOnLoopback runs dataplane, control and underlay as a node does, over real UDP sockets.
func TestTheWholeStackOnLoopback(t *testing.T) {
	mesh := controltest.New(t, 2) // for keys, certificates and tables; its hosts stay unused
	w := &testWorld{t: t, mesh: mesh.Root.ID(), nodes: map[identity.NodeID]*testNode{}, streams: true}
	loopback := netip.MustParseAddr("127.0.0.1")
	var sockets []*underlay.Socket
	for i, n := range mesh.Nodes {
		e, _ := n.Peers.Get(n.ID)
		w.nodes[n.ID] = &testNode{
			w: w, index: i, key: n.Key, id: n.ID, member: e.Member, table: n.Peers, v4: e.Member.IPv4, v6: e.Member.IPv6(),
		}
		s, err := underlay.Open(underlay.Config{Key: n.Key, Peers: n.Peers, Listen: []netip.Addr{loopback}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		sockets = append(sockets, s)
	}
	for i, n := range w.list() {
		host, err := control.New(control.Config{
			Key: n.key, Network: sockets[i], Trust: mesh.Nodes[i].Trust.Load, Chain: mesh.Nodes[i].Chain.Load, Admit: n.table.Admit,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = host.Close() })
		sockets[i].Hint(w.list()[1-i].id, []netip.AddrPort{netip.AddrPortFrom(loopback, sockets[1-i].Port())})
		n.start(func(c *Config) {
			if c.Network, err = OpenUserspace(n.prefixes(), 0); err != nil {
				t.Fatal(err)
			}
			c.Bind, c.Control, c.Streams, c.Connect = sockets[i].Bind(), host, nil, sockets[i].Connect
			c.Orphans, c.Known = sockets[i].OnOrphan, sockets[i].WireGuardKnown
		})
	}
	t.Cleanup(w.stopAll)
	a, b := w.list()[0], w.list()[1]
	for _, dst := range []netip.Addr{b.v4, b.v6} {
		rtt, err := a.plane.Ping(soon(t), dst, 56)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("ping %s: %v", dst, rtt)
	}
	if s := statusOf(t, b, a); s.State != TunnelUp || !s.PostQuantum {
		t.Errorf("%+v", s)
	}
}

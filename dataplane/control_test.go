package dataplane

import (
	"errors"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/control/controltest"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Over the real control channel: QUIC, TLS and member certificates, on a network in memory.

func controlWorld(t *testing.T, n int) (*controltest.Mesh, []*testNode) {
	mesh := controltest.New(t, n)
	w := &testWorld{t: t, mesh: mesh.Root.ID(), nodes: map[identity.NodeID]*testNode{}, streams: true}
	for i, node := range mesh.Nodes {
		e, ok := node.Peers.Get(node.ID)
		if !ok {
			t.Fatal("a node is not in its own table")
		}
		w.nodes[node.ID] = &testNode{
			w: w, index: i, key: node.Key, id: node.ID, member: e.Member, table: node.Peers, v4: e.Member.IPv4, v6: e.Member.IPv6(),
		}
	}
	nodes := w.list()
	for i, n := range nodes {
		n.start(func(c *Config) { c.Control, c.Streams, c.Connect = mesh.Nodes[i].Host, nil, mesh.Nodes[i].Port.Connect })
	}
	t.Cleanup(w.stopAll)
	return mesh, nodes
}

func TestExchangeOverTheControlChannel(t *testing.T) {
	_, nodes := controlWorld(t, 3)
	received := collect(nodes[2].pipe)
	for i, from := range nodes[:2] {
		from.pipe.Inject(udp4(from.v4, nodes[2].v4, uint32(i)))
	}
	for deadline := time.Now().Add(10 * time.Second); received.count.Load() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the packets did not arrive")
		}
	}
	if s := statusOf(t, nodes[0], nodes[2]); !s.PostQuantum || s.PSKEpoch == 0 {
		t.Errorf("status %+v", s)
	}
}

func TestTheControlChannelsRefusalReachesTheCaller(t *testing.T) {
	mesh, nodes := controlWorld(t, 2)
	issuer, victim := nodes[0], nodes[1]
	raw, err := certificate.SignRevocation(issuer.key, certificate.Revocation{
		Mesh: mesh.Root.ID(), Node: victim.id, At: time.Now(), Reason: "lost",
	})
	if err != nil {
		t.Fatal(err)
	}
	trust, err := mesh.Nodes[0].Trust.Load().WithRevocation(raw)
	if err != nil {
		t.Fatal(err)
	}
	mesh.Nodes[0].Trust.Store(trust)
	issuer.table.Revoke(victim.id)
	if err := victim.plane.Ensure(soon(t), issuer.id); !errors.Is(err, ErrRefused) {
		t.Errorf("Ensure by a revoked member: %v", err)
	}
	if err := issuer.plane.Ensure(soon(t), victim.id); !errors.Is(err, ErrRevoked) {
		t.Errorf("Ensure to a revoked member: %v", err)
	}
}

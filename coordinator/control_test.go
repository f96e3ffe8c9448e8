package coordinator

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/control/controltest"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// wired is a node on real QUIC connections over a network in memory, put together as package node does it.
type wired struct {
	key   *identity.Key
	host  *control.Host
	peers *peer.Table
	dir   string
	group atomic.Pointer[Group]
}

func newWired(t *testing.T, network *controltest.Network, key *identity.Key) *wired {
	t.Helper()
	w := &wired{key: key, peers: peer.NewTable(key.ID()), dir: t.TempDir()}
	var err error
	w.host, err = control.New(control.Config{Key: key, Network: network.Attach(key.Public()), Admit: w.peers.Admit,
		Known: func(k identity.WireGuardKey) bool { _, ok := w.peers.ByKey(k); return ok },
		Trust: func() *certificate.Trust {
			if g := w.group.Load(); g != nil {
				return g.Trust()
			}
			return nil
		},
		Chain: func() *certificate.Chain {
			if g := w.group.Load(); g != nil {
				return g.Chain()
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if g := w.group.Load(); g != nil {
			g.Close()
		}
		w.host.Close()
	})
	return w
}

func (w *wired) config(alive func(identity.NodeID) bool) Config {
	timing := LAN()
	timing.Stable = time.Second
	return Config{Key: w.key, Control: w.host, Peers: w.peers, Dir: w.dir, Timing: timing, Alive: alive, NoSync: true}
}

func TestThreeNodesOverQUIC(t *testing.T) {
	network := controltest.NewNetwork()
	always := func(identity.NodeID) bool { return true }
	var nodes []*wired
	for i := range 3 {
		nodes = append(nodes, newWired(t, network, testKey(i)))
	}
	g, err := Found(nodes[0].config(always), Founding{MeshName: "lab", NodeName: "atlas"})
	if err != nil {
		t.Fatal(err)
	}
	nodes[0].group.Store(g)
	token, _, err := g.Invite(t.Context(), InviteSpec{Uses: 2})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range nodes[1:] {
		via := nodes[i] // the second joiner comes in through the first, a plain member
		start := time.Now()
		a := enrolOverQUIC(t, w, via, token)
		answered := time.Since(start)
		g, err := Enrolled(w.config(always), a)
		if err != nil {
			t.Fatal(err)
		}
		w.group.Store(g)
		if err := g.Pull(t.Context(), via.key.ID()); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s is in after %v, answered after %v", a.Member.Name, time.Since(start), answered)
	}
	deadline := time.Now().Add(30 * time.Second)
	for len(g.State().Coordinators.Voters) != 3 || !nodes[2].group.Load().Voting() {
		if time.Now().After(deadline) {
			t.Fatalf("voters %v", g.State().Coordinators.Voters)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := nodes[2].group.Load().Rename(t.Context(), testKey(1).ID(), "nas"); err != nil {
		t.Fatal(err)
	}
	for _, w := range nodes {
		for m, _ := w.group.Load().State().Member(testKey(1).ID()); m.Certificate.Name != "nas"; m, _ = w.group.Load().State().Member(testKey(1).ID()) {
			if time.Now().After(deadline) {
				t.Fatal("the new name has not arrived")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func enrolOverQUIC(t *testing.T, w, via *wired, token invitation.Token) Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := w.host.OpenTo(ctx, underlay.Addr{Key: via.key.Public().WireGuard}, via.key.ID(), ProtocolEnroll)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	raw, err := invitation.SignRequest(w.key, invitation.Request{Mesh: token.Mesh, Public: *w.key.Public(), Name: "node", Invitation: token.ID(),
		Proof: invitation.Proof(token.Key(), token.Mesh, w.key.ID()), Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	a, err := RequestEnrollment(ctx, s, raw, token.Mesh, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

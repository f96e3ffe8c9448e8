package control_test

import (
	"context"
	"testing"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/control/controltest"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// A node that was away knows the mesh and not the member; that member knows the node.
func TestAMemberThatCameMeanwhileIsMetAtItsAddress(t *testing.T) {
	m := controltest.New(t, 3)
	away, fresh, other := m.Nodes[0], m.Nodes[1], m.Nodes[2]
	away.Peers = peer.NewTable(away.ID)
	got, raw, err := away.Host.Meet(within(t), underlay.Addr{Key: fresh.Key.Public().WireGuard})
	if err != nil || got == nil || got.NodeID() != fresh.ID || len(raw) == 0 {
		t.Fatalf("met %+v, %v", got, err)
	}
	// Who has never heard of the node, or knows that its membership has ended, tells it nothing.
	other.Peers = peer.NewTable(other.ID)
	if got, _, err := away.Host.Meet(within(t), underlay.Addr{Key: other.Key.Public().WireGuard}); err != nil || got != nil {
		t.Errorf("who does not know us shows %+v, %v", got, err)
	}
	fresh.Peers.Revoke(away.ID)
	if got, _, err := away.Host.Meet(within(t), underlay.Addr{Key: fresh.Key.Public().WireGuard}); err != nil || got != nil {
		t.Errorf("to a revoked node it shows %+v, %v", got, err)
	}
}

func TestAStrangerThatIsMetLearnsNothingAndShowsNothing(t *testing.T) {
	m := controltest.New(t, 2)
	stranger := m.Stranger()
	if got, _, err := stranger.Host.Meet(within(t), underlay.Addr{Key: m.Nodes[0].Key.Public().WireGuard}); err != nil || got != nil {
		t.Errorf("a stranger is shown %+v, %v", got, err)
	}
	// Were it shown our certificate it would take us for a member.
	served := make(chan control.Peer, 1)
	stranger.Trust.Store(m.Trust())
	stranger.Host.Handle("hear", control.Anyone, func(_ context.Context, s *control.Stream) {
		served <- s.Peer()
		s.Close()
	})
	m.Nodes[0].Host.Handle("hear", control.Anyone, func(_ context.Context, s *control.Stream) { s.Close() })
	s, err := m.Nodes[0].Host.OpenTo(within(t), underlay.Addr{Key: stranger.Key.Public().WireGuard}, identity.NodeID{}, "hear")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if p := <-served; p.Member != nil {
		t.Errorf("whoever was there saw the certificate of %s", p.Member.Name)
	}
}

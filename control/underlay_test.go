package control_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/control/controltest"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/underlay"
)

// onLoopback gives a node of the in-memory mesh a real socket, on port (0: any), and a Host on it.
func onLoopback(t *testing.T, n *controltest.Node, port uint16) (*underlay.Socket, *control.Host) {
	t.Helper()
	s, err := underlay.Open(underlay.Config{
		Key: n.Key, Peers: n.Peers, Port: port, Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := control.New(control.Config{
		Key: n.Key, Network: s, Trust: n.Trust.Load, Chain: n.Chain.Load, Admit: n.Peers.Admit,
		Known: func(k identity.WireGuardKey) bool { _, ok := n.Peers.ByKey(k); return ok },
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Handle("echo", control.MembersOnly, echo)
	t.Cleanup(func() { _ = h.Close(); _ = s.Close() })
	return s, h
}

// TestOverRealSockets goes once through the stack below: UDP on loopback, keyed path checks, and a peer that is restarted on its
// port without having said good-bye.
func TestOverRealSockets(t *testing.T) {
	m := controltest.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	as, ah := onLoopback(t, a, 0)
	bs, bh := onLoopback(t, b, 0)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), bs.Port())
	as.Hint(b.ID, []netip.AddrPort{at})
	s, err := ah.Open(within(t), b.ID, "echo")
	if err != nil {
		t.Fatal(err)
	}
	if got := say(t, s, "over UDP"); got != "over UDP" {
		t.Errorf("got %q", got)
	}
	back, err := bh.Open(within(t), a.ID, "echo")
	if err != nil {
		t.Fatal(err)
	}
	back.Close()

	_ = bs.Close() // first, so that the Host's farewell gets nowhere
	_ = bh.Close()
	onLoopback(t, b, at.Port())
	began := time.Now()
	if s, err = ah.Open(within(t), b.ID, "echo"); err != nil {
		t.Fatal(err)
	}
	if got := say(t, s, "again"); got != "again" {
		t.Errorf("got %q", got)
	}
	t.Logf("back in %v", time.Since(began))
}

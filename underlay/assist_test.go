package underlay

import (
	"net/netip"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// TestASearchAsksForAssistance looks for a node of which no address is known; what Assist has tried is found by the caller that waits.
func TestASearchAsksForAssistance(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		asked := make(chan identity.NodeID, 16)
		a := open(t, 0, Config{Bind: w.Host(netip.MustParseAddr("192.0.2.1")), Port: 51820, Assist: func(id identity.NodeID) { asked <- id }})
		defer a.Close()
		b := onNetwork(t, &w, 1, "192.0.2.2")
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.hears(b) // no address
		at, _, _, _ := plug(t, a, b, LinkSpare)
		done := make(chan error)
		go func() { done <- a.Connect(t.Context(), b.id()) }()
		if id := <-asked; id != b.id() {
			t.Fatal("asked for another")
		}
		if err := a.Try(b.id(), []netip.AddrPort{at}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(asked) != 0 {
			t.Error("asked again")
		}
	})
}

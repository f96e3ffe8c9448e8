package underlay

import (
	"net/netip"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
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

// Regression: help was asked for with every search, so that who is reached directly cost two relays a channel each. It is asked for at once only where
// the direct way is known not to work: the member names relays.
func TestADirectPathHasAHeadStart(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		asked := make(chan identity.NodeID, 16)
		a := open(t, 0, Config{Bind: w.Host(netip.MustParseAddr("192.0.2.1")), Port: 51820, Assist: func(id identity.NodeID) { asked <- id }})
		defer a.Close()
		b := onNetwork(t, &w, 1, "192.0.2.2")
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		time.Sleep(time.Minute)
		if len(asked) != 0 {
			t.Error("a member that is reached directly was to be reached through relays")
		}
		silent := netip.MustParseAddrPort("192.0.2.3:51820")
		for i, relays := range [][]identity.NodeID{nil, {a.id()}} {
			c := open(t, 2, Config{Bind: w.Host(netip.MustParseAddr("192.0.2.4")), Port: 51820})
			a.knows(c)
			c.seq += uint64(10 * (i + 1))
			a.table.Update(peer.Record{ID: c.id(), Sequence: c.seq, Relays: relays, Endpoints: []peer.Endpoint{{Addr: silent, Kind: peer.Local}}})
			c.Close()
			began := time.Now()
			go func() { _ = a.Connect(t.Context(), c.id()) }()
			<-asked
			want := AssistAfter
			if relays != nil {
				want = 0
			}
			if took := time.Since(began); took != want {
				t.Errorf("with relays %v, help was asked for after %v, want %v", relays, took, want)
			}
			time.Sleep(time.Minute)
			for len(asked) > 0 {
				<-asked
			}
		}
	})
}

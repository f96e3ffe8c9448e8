package underlay

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// tap counts the bytes that flow between addresses and keeps the packets.
type tap struct {
	mu    sync.Mutex
	bytes map[[2]netip.AddrPort]int
	seen  []taped
}

type taped struct {
	from, to netip.AddrPort
	data     []byte
}

func (p *tap) hook(from, to netip.AddrPort, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes == nil {
		p.bytes = map[[2]netip.AddrPort]int{}
	}
	p.bytes[[2]netip.AddrPort{from, to}] += len(b) + nat.PacketOverhead
	p.seen = append(p.seen, taped{from, to, bytes.Clone(b)})
}

func (p *tap) sent(from, to netip.AddrPort) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes[[2]netip.AddrPort{from, to}]
}

func (p *tap) packets() []taped {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]taped(nil), p.seen...)
}

var (
	victim  = netip.MustParseAddrPort("198.51.100.66:7")
	nodeA   = netip.MustParseAddrPort("192.0.2.1:51820")
	nodeB   = netip.MustParseAddrPort("192.0.2.2:51820")
	someKey = identity.WireGuardKey{9, 1}
)

// TestStrangersGetNoMoreThanTheySent sends everything there is from forged addresses: never does the node answer with more bytes,
// headers included, than it received, and never does anything but STUN answers leave it.
func TestStrangersGetNoMoreThanTheySent(t *testing.T) {
	key, pair := someKey, nat.PairKey{1}
	for name, b := range map[string][]byte{
		"plain STUN":         nat.PlainRequest(nat.TransactionID{1}),
		"padded STUN":        nat.PaddedRequest(nat.TransactionID{1}),
		"opening":            nat.CheckRequest{Sender: key, Opening: true}.Encode(),
		"wrongly keyed":      nat.CheckRequest{Sender: key, Opening: true, Key: &pair}.Encode(),
		"challenge":          nat.CheckRequest{Sender: key, Key: &pair}.Encode(),
		"response":           nat.CheckResponse{Sender: key, Mapped: nodeB, Key: pair}.Encode(),
		"a member's key":     nat.CheckRequest{Sender: keys[1].Public().WireGuard, Opening: true}.Encode(),
		"the node's own key": nat.CheckRequest{Sender: keys[0].Public().WireGuard, Opening: true}.Encode(),
		"a key of order 1":   nat.CheckRequest{Sender: identity.WireGuardKey{1}, Opening: true}.Encode(),
		"QUIC":               append([]byte{0xc0}, make([]byte, 1200)...),
		"WireGuard":          append([]byte{1, 0, 0, 0}, make([]byte, 144)...),
		"transport":          wireGuard("x"),
		"gossip":             {gossipByte, 1, 2, 3},
		"relay frame":        {relayByte, 0, 0, 0, 1, 4, 0, 0, 0},
		"nothing":            {},
		"noise":              {0xa5, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var w underlaytest.Network
				var p tap
				w.Set(underlaytest.Hooks{See: p.hook})
				a, b2 := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
				defer a.Close()
				b2.Close()
				a.knows(b2)
				dev := attach(t, a.Socket)
				defer dev.down()
				sent := 0
				for range 5 {
					w.Deliver(victim, nodeA, b)
					sent += len(b) + nat.PacketOverhead
					synctest.Wait()
					if got := p.sent(nodeA, victim); got > sent {
						t.Fatalf("%d bytes for %d", got, sent)
					}
				}
				time.Sleep(time.Minute) // nothing is repeated either
				if got := p.sent(nodeA, victim); got > sent {
					t.Errorf("%d bytes for %d", got, sent)
				}
				for _, q := range p.packets() {
					if classify(q.data) != classSTUN {
						t.Errorf("sent %x…", q.data[0])
					}
				}
				if len(dev.got) != 0 || len(a.quic) != 0 {
					t.Error("a stranger's packet got in")
				}
			})
		})
	}
}

// TestAReplayedCheckMovesNothing records what two members say and plays it back from other addresses.
func TestAReplayedCheckMovesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		var p tap
		w.Set(underlaytest.Hooks{See: p.hook})
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		synctest.Wait()
		recorded := p.packets()
		for _, q := range recorded {
			w.Deliver(victim, q.to, q.data)
			w.Deliver(q.from, q.to, q.data)
			synctest.Wait()
		}
		for _, e := range []*end{a, b} {
			if e.sources.get(victim) != nil {
				t.Error("the replay's address was accepted")
			}
		}
		if got, _ := a.Path(b.id()); got.Endpoint != nodeB || len(got.Standby) != 0 {
			t.Errorf("path %+v", got)
		}
		sent := 0
		for _, q := range recorded {
			sent += len(q.data) + nat.PacketOverhead
		}
		if got := p.sent(nodeA, victim) + p.sent(nodeB, victim); got > sent {
			t.Errorf("the replay's address got %d bytes for %d", got, sent)
		}
	})
}

// TestAnAnswerFromAnotherAddressIsRefused: the attacker forwards our challenge to the true node and its answer back to us from its own.
func TestAnAnswerFromAnotherAddressIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		w.Set(underlaytest.Hooks{Drop: func(from, to netip.AddrPort, data []byte) bool {
			if from == nodeB && to == nodeA {
				w.Deliver(victim, nodeA, bytes.Clone(data))
				return true
			}
			return false
		}})
		if err := a.Connect(t.Context(), b.id()); err == nil {
			t.Error("connected over an address that was never challenged")
		}
		if a.sources.get(victim) != nil || a.sources.get(nodeB) != nil {
			t.Error("an address was accepted")
		}
		if a.Stats().Dropped["unasked"] == 0 {
			t.Error("nothing was counted")
		}
	})
}

func TestNewKeysAreRationedPerPrefix(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a := onNetwork(t, &w, 0, "192.0.2.1")
		defer a.Close()
		flood := func(from string, n int) {
			for range n {
				var key identity.WireGuardKey
				rand.Read(key[:])
				w.Deliver(netip.AddrPortFrom(netip.MustParseAddr(from), 7), nodeA, nat.CheckRequest{Sender: key, Opening: true}.Encode())
				synctest.Wait()
			}
		}
		flood("198.51.100.66", 100)
		if got := a.Stats().Strangers; got != int(newKeys.burst) {
			t.Errorf("one prefix brought %d keys, want %v", got, newKeys.burst)
		}
		flood("203.0.113.1", 1)
		if got := a.Stats().Strangers; got != int(newKeys.burst)+1 {
			t.Error("another prefix had no turn")
		}
		for i := range 255 {
			flood(netip.AddrFrom4([4]byte{100, 70, byte(i), 1}).String(), 20)
			if i%4 == 0 {
				time.Sleep(time.Second)
			}
		}
		if got := a.Stats().Strangers; got > strangersMax {
			t.Errorf("%d strangers kept, at most %d", got, strangersMax)
		}
	})
}

func TestLimiterIsBounded(t *testing.T) {
	l := newLimiter(rate{perSecond: 10, burst: 20})
	now := instant(1)
	allowed := 0
	for i := range 3 * limitPrefixes {
		now += time.Microsecond
		if l.allow(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 9}), now) {
			allowed++
		}
	}
	if len(l.buckets) > limitPrefixes {
		t.Errorf("%d prefixes kept", len(l.buckets))
	}
	if allowed > limitPrefixes+30 {
		t.Errorf("%d allowed: those without room must share one bucket", allowed)
	}
	now += time.Minute
	if !l.allow(netip.MustParseAddr("203.0.113.1"), now) {
		t.Error("no room is made")
	}
}

func TestARevokedNodeIsCutOffAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		b.mustConnect(a)
		dev := attach(t, a.Socket)
		defer dev.down()
		a.table.Revoke(b.id())
		a.Forget(b.id())
		before := a.Stats()
		_ = b.sendTunnel(a, "still here")
		_ = b.SendGossip(a.id(), []byte("x"), true)
		if err := b.Connect(t.Context(), a.id()); err != nil {
			t.Log(err) // fresh enough to be believed is allowed: it was reachable a moment ago
		}
		synctest.Wait()
		if len(dev.got) != 0 {
			t.Error("a revoked node's tunnel packet was accepted")
		}
		if g := <-a.Gossip(); !g.FromID.IsZero() {
			t.Error("a revoked node's gossip bears its name")
		}
		if p, _ := a.Path(b.id()); p.Kind != PathNone {
			t.Errorf("path %+v", p)
		}
		if err := a.Connect(t.Context(), b.id()); err == nil {
			t.Error("connected to a revoked node")
		}
		if after := a.Stats(); after.Dropped["stranger"] == before.Dropped["stranger"] {
			t.Errorf("not counted: %v", after.Dropped)
		}
	})
}

func TestAFloodOfOpeningsLeavesRoomForOurOwnChecks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		// Somebody who knows a member's public key, which is no secret, and can forge any source address.
		for second := range 10 {
			for i := range 900 {
				from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{20 + byte(second), byte(i >> 8), byte(i), 1}), 4444)
				opening := nat.CheckRequest{Transaction: nat.TransactionID{byte(second), byte(i >> 8), byte(i)}, Sender: b.public, Opening: true}
				w.Deliver(from, nodeA, opening.Encode())
				synctest.Wait()
			}
			time.Sleep(time.Second)
		}
		a.transactions.mu.Lock()
		waiting := len(a.transactions.byID)
		a.transactions.mu.Unlock()
		if room := transactionsMax - waiting; room < transactionsMax/8 {
			t.Errorf("room for %d checks of our own is left", room)
		}
		if _, err := a.Probe(t.Context(), b.id()); err != nil {
			t.Errorf("our own check during the flood: %v", err)
		}
	})
}

func FuzzReceive(f *testing.F) {
	pair, _ := keys[1].PathKey(keys[0].Public().WireGuard)
	f.Add([]byte{}, true)
	f.Add(nat.CheckRequest{Sender: keys[1].Public().WireGuard, Key: &pair, Opening: true}.Encode(), true)
	f.Add(nat.CheckRequest{Sender: someKey, Opening: true}.Encode(), false)
	f.Add(nat.CheckResponse{Sender: someKey, Mapped: nodeA, Key: pair}.Encode(), false)
	f.Add(wireGuard("x"), true)
	f.Add([]byte{gossipByte}, false)
	f.Add([]byte{relayByte}, true)
	f.Add([]byte{0x40}, true)
	var w underlaytest.Network
	a, b := onNetwork(f, &w, 0, "192.0.2.1"), onNetwork(f, &w, 1, "192.0.2.2")
	f.Cleanup(func() { a.Close(); b.Close() })
	a.knows(b)
	b.knows(a)
	if err := a.Connect(f.Context(), b.id()); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, member bool) {
		from := victim
		if member {
			from = nodeB
		}
		ep := &underlaytest.Endpoint{AddrPort: from, Src: nodeA.Addr()}
		src := a.sources.get(from)
		c := classify(data)
		if c == classWireGuard {
			if a.acceptWireGuard(src, data, a.now()) != member {
				t.Fatal("accepted from the wrong one")
			}
		} else {
			a.dispatch(c, data, ep, src, a.now())
		}
		if a.sources.get(victim) != nil {
			t.Fatal("an address was accepted without an answer")
		}
		for len(a.quic) > 0 {
			<-a.quic
		}
		for len(a.gossip) > 0 {
			<-a.gossip
		}
	})
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte{4, 0, 0, 0})
	f.Add(nat.PlainRequest(nat.TransactionID{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		switch c := classify(b); c {
		case classWireGuard:
			if b[0] < 1 || b[0] > 4 || len(b) < wireGuardMin {
				t.Fatal("not WireGuard")
			}
		case classSTUN:
			if b[0] > 1 {
				t.Fatal("not a Binding message")
			}
		case classQUIC:
			if b[0]&quicBit == 0 {
				t.Fatal("not QUIC")
			}
		}
	})
}

// Who was away while it was revoked must be able to ask, or it would go on for ever as if the others were gone.
func TestARevokedNodeMayComeAsAStrangerAndHearItOverQUIC(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		dev := attach(t, a.Socket)
		defer dev.down()
		a.table.Revoke(b.id())
		a.Forget(b.id())
		time.Sleep(time.Minute)
		if err := b.Connect(t.Context(), a.id()); err != nil {
			t.Fatalf("a revoked node finds nobody who would tell it: %v", err)
		}
		to, _ := b.AddrOf(a.id())
		if _, err := b.PacketConn().WriteTo([]byte{0x40, 1}, to); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		n, from, err := a.PacketConn().ReadFrom(buf)
		if err != nil || n != 2 || from.(Addr).Key != b.key.Public().WireGuard {
			t.Errorf("its question: %d bytes from %v, %v", n, from, err)
		}
		_ = b.sendTunnel(a, "still here")
		_ = b.SendGossip(a.id(), []byte("x"), true)
		synctest.Wait()
		if len(dev.got) != 0 {
			t.Error("a revoked node's tunnel packet was accepted")
		}
		if g := <-a.Gossip(); !g.FromID.IsZero() {
			t.Error("a revoked node's gossip bears its name")
		}
		if _, ok := a.AddrOf(b.id()); ok {
			t.Error("it can be dialled by its name")
		}
	})
}

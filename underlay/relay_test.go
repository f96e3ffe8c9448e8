package underlay

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

var plenty = RelayCapacity{Channels: 16, Peers: 16}

// triangle is two nodes that cannot reach each other and two relays that both reach.
type triangle struct {
	t      *testing.T
	w      underlaytest.Network
	a, b   *end
	relays [2]*end
	direct bool // a and b reach each other after all
}

func newTriangle(t *testing.T, c RelayCapacity) *triangle {
	tr := &triangle{t: t}
	tr.a, tr.b = onNetwork(t, &tr.w, 0, "192.0.2.1"), onNetwork(t, &tr.w, 1, "192.0.2.2")
	for i := range tr.relays {
		h := tr.w.Host(netip.AddrFrom4([4]byte{192, 0, 2, byte(3 + i)}))
		tr.relays[i] = open(t, 2+i, Config{Bind: h, Port: 51820, RelayCapacity: c})
	}
	tr.w.Set(tr.hooks())
	all := []*end{tr.a, tr.b, tr.relays[0], tr.relays[1]}
	for _, e := range all {
		for _, o := range all {
			if o != e {
				e.knows(o)
			}
		}
	}
	for _, r := range tr.relays {
		tr.a.mustConnect(r)
		tr.b.mustConnect(r)
	}
	return tr
}

func (tr *triangle) hooks() underlaytest.Hooks {
	return underlaytest.Hooks{
		Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond },
		Drop: func(from, to netip.AddrPort, _ []byte) bool {
			pair := from == nodeA && to == nodeB || from == nodeB && to == nodeA
			return pair && !tr.direct
		},
	}
}

func (tr *triangle) close() {
	for _, e := range []*end{tr.a, tr.b, tr.relays[0], tr.relays[1]} {
		e.Close()
	}
}

// through opens a channel from a to b at a relay.
func (tr *triangle) through(i int) (at netip.AddrPort, g RelayGrant) {
	tr.t.Helper()
	r := tr.relays[i]
	g, err := r.RelayPair(tr.a.id(), tr.b.id())
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.b.AcceptChannels(r.id(), true)
	if at, err = tr.a.OpenChannel(r.id(), g.ForA); err != nil {
		tr.t.Fatal(err)
	}
	if again, err := tr.a.OpenChannel(r.id(), g.ForA); again != at || err != nil {
		tr.t.Error("opened again", again, err)
	}
	if err := tr.a.Try(tr.b.id(), []netip.AddrPort{at}); err != nil {
		tr.t.Fatal(err)
	}
	time.Sleep(time.Second)
	return at, g
}

// gap sends from a to b until something arrives that was sent after now, and returns how long that took.
func (tr *triangle) gap(dev *device) time.Duration {
	tr.t.Helper()
	synctest.Wait()
	for len(dev.got) > 0 {
		<-dev.got
	}
	began := time.Now()
	for time.Since(began) < 10*time.Second {
		_ = tr.a.sendTunnel(tr.b, "new")
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		for len(dev.got) > 0 {
			if strings.Contains(<-dev.got, "new") {
				return time.Since(began)
			}
		}
	}
	tr.t.Fatal("nothing arrives any more")
	return 0
}

func TestAPathThroughARelay(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := newTriangle(t, plenty)
		defer tr.close()
		a, b, r := tr.a, tr.b, tr.relays[0]
		tr.through(0)
		a.mustConnect(b)
		p, _ := a.Path(b.id())
		if p.Kind != PathRelay || p.Via != r.id() || p.Endpoint.IsValid() || p.Transport != "udp" || p.RTT < 20*time.Millisecond {
			t.Errorf("path %+v", p)
		}
		if p, _ := b.Path(a.id()); p.Kind != PathRelay || p.Via != r.id() {
			t.Errorf("path back %+v", p)
		}
		dev := attach(t, b.Socket)
		defer dev.down()
		if err := a.sendTunnel(b, "hello"); err != nil {
			t.Fatal(err)
		}
		if got := <-dev.got; got != a.id().String()+" hello............" {
			t.Errorf("tunnel packet %q", got)
		}
		if err := a.sendTunnel(b, strings.Repeat("x", 9000)); err != nil {
			t.Fatal(err)
		}
		if got := <-dev.got; len(got) < 9000 {
			t.Errorf("a packet of 9000 bytes came as %d", len(got))
		}
		quicPing(t, a, b)
		quicPing(t, b, a)
		if s := r.RelayStats(); s.Packets == 0 || s.Channels != 1 || s.Peers != 2 || s.QueuedPackets != 0 {
			t.Errorf("relay %+v", s)
		}
	})
}

func TestARelayIsTheFallback(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := newTriangle(t, plenty)
		defer tr.close()
		tr.through(0)
		tr.a.mustConnect(tr.b)
		dev := attach(t, tr.b.Socket)
		defer dev.down()
		tr.gap(dev)

		tr.direct = true
		if err := tr.a.Try(tr.b.id(), []netip.AddrPort{nodeB}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if p, _ := tr.a.Path(tr.b.id()); p.Kind != PathDirect || len(p.Standby) != 1 || p.Standby[0].Kind != PathRelay {
			t.Fatalf("direct path not taken: %+v", p)
		}
		tr.gap(dev)
		tr.direct = false
		if took := tr.gap(dev); took >= time.Second {
			t.Errorf("the relay took over after %v", took)
		}
		if p, _ := tr.a.Path(tr.b.id()); p.Kind != PathRelay {
			t.Errorf("path %+v", p)
		}
	})
}

func TestASecondRelayTakesOver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := newTriangle(t, plenty)
		defer tr.close()
		tr.through(0)
		tr.through(1)
		tr.a.mustConnect(tr.b)
		dev := attach(t, tr.b.Socket)
		defer dev.down()
		tr.gap(dev)
		p, _ := tr.a.Path(tr.b.id())
		if len(p.Standby) != 1 || p.Standby[0].Via == p.Via || p.Standby[0].Kind != PathRelay {
			t.Fatalf("paths %+v", p)
		}
		for _, r := range tr.relays {
			if r.id() == p.Via {
				r.Close()
			}
		}
		if took := tr.gap(dev); took >= time.Second {
			t.Errorf("replaced after %v", took)
		}
	})
}

func relayFrame(number uint32, packet string) []byte {
	b := make([]byte, frameHeader, 64)
	putFrameHeader(b, number)
	return append(b, packet...)
}

// TestARelayServesItsPairsOnly has a member guess the channel of others, and a stranger use one.
func TestARelayServesItsPairsOnly(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := newTriangle(t, plenty)
		defer tr.close()
		r, other := tr.relays[0], tr.relays[1]
		_, g := tr.through(0)
		other.mustConnect(r)
		before := r.RelayStats()
		for _, number := range []uint32{g.ForA, g.ForB, g.ForA + 1, 0, 1<<31 - 1} {
			if err := other.memberNode(r.id()).sendDirect([][]byte{relayFrame(number, "guess")}, false); err != nil {
				t.Fatal(err)
			}
		}
		stranger := netip.MustParseAddrPort("192.0.2.99:51820")
		tr.w.Deliver(stranger, netip.MustParseAddrPort("192.0.2.3:51820"), relayFrame(g.ForA, "guess"))
		time.Sleep(time.Second)
		after := r.RelayStats()
		if after.Packets != before.Packets || after.Dropped["unknown"] != 5 || r.Stats().Dropped["stranger"] != 1 {
			t.Errorf("relayed %d frames; dropped %v", after.Packets-before.Packets, after.Dropped)
		}

		// A number with a path behind it is another's for everybody but its relay.
		for number := range uint32(64) {
			tr.w.Deliver(netip.MustParseAddrPort("192.0.2.4:51820"), nodeA, relayFrame(number|fromRelay, string(wireGuard("x"))))
		}
		time.Sleep(time.Second)
		if got := tr.a.Stats().Dropped["relay"]; got != 64 {
			t.Errorf("dropped %d", got)
		}

		// The revoked lose their channels at once.
		r.table.Revoke(tr.a.id())
		synctest.Wait()
		if s := r.RelayStats(); s.Channels != 0 || s.Peers != 0 {
			t.Errorf("still %+v", s)
		}
		before = r.RelayStats()
		_ = tr.a.sendTunnel(tr.b, "x")
		time.Sleep(100 * time.Millisecond)
		if after := r.RelayStats(); after.Packets != before.Packets {
			t.Error("frames of a channel that has ended were forwarded")
		}
	})
}

func TestRelayCapacity(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := newTriangle(t, RelayCapacity{Channels: 1, Peers: 2})
		defer tr.close()
		r, other := tr.relays[0], tr.relays[1]
		_, g := tr.through(0)
		if again, err := r.RelayPair(tr.b.id(), tr.a.id()); err != nil || again != (RelayGrant{g.ForB, g.ForA}) {
			t.Errorf("the pair the other way round: %v, %v", again, err)
		}
		if _, err := r.RelayPair(tr.a.id(), other.id()); !errors.Is(err, ErrRelayFull) {
			t.Errorf("a second pair: %v", err)
		}
		if _, err := r.RelayPair(tr.a.id(), r.id()); !errors.Is(err, ErrUnknownNode) {
			t.Errorf("the relay itself: %v", err)
		}
		if _, err := tr.a.RelayPair(tr.b.id(), r.id()); !errors.Is(err, ErrRelayFull) {
			t.Errorf("a node that is no relay: %v", err)
		}
		time.Sleep(relayIdle + time.Second)
		if _, err := r.RelayPair(tr.a.id(), other.id()); err != nil {
			t.Errorf("an idle pair kept its place: %v", err)
		}
		r.RelayEnd(g) // of the pair that went: nothing happens
		if s := r.RelayStats(); s.Channels != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAcceptedChannelsAreBoundedAndForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := newTriangle(t, plenty)
		defer tr.close()
		a, r := tr.a, tr.relays[0]
		a.AcceptChannels(r.id(), true)
		n := r.memberNode(a.id())
		request := string(append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...))
		for i := range uint32(4 * channelsPerRelay) {
			_ = n.sendDirect([][]byte{relayFrame(i|fromRelay, request), relayFrame((i+1<<20)|fromRelay, string(wireGuard("x")))}, false)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		if got := a.links.table.size(); got != channelsPerRelay {
			t.Errorf("%d links", got)
		}
		time.Sleep(channelProof + 2*sweepInterval)
		if got := a.links.table.size(); got != 0 {
			t.Errorf("%d links are kept", got)
		}
	})
}

// TestFairness floods from one member while another sends a little: as a table of bytes offered and forwarded.
func TestFairness(t *testing.T) {
	for _, c := range []struct {
		name    string
		rate    int
		offered []int // bytes a millisecond by each member
		share   []int // of what is forwarded, percent
	}{
		{"one floods, one sends less than its share", 1_000_000, []int{50_000, 300}, []int{70, 30}},
		{"two flood", 1_000_000, []int{50_000, 20_000}, []int{50, 50}},
		{"three flood, one sends a little", 2_000_000, []int{9_000, 9_000, 9_000, 200}, []int{30, 30, 30, 10}},
		{"alone", 1_000_000, []int{50_000}, []int{100}},
	} {
		q := fairQueue{rate: c.rate}
		flows, legs := make([]flow, len(c.offered)), make([]leg, len(c.offered))
		got, total := make([]int, len(c.offered)), 0
		credit := make([]int, len(c.offered))
		var batch [relayBatch]parcel
		for ms := range 5000 {
			for i := range flows {
				for credit[i] += c.offered[i]; credit[i] >= 1000; credit[i] -= 1000 {
					q.push(&flows[i], parcel{leg: &legs[i], delivery: delivery{buf: make([]byte, 1000)}})
				}
			}
			for {
				n, _ := q.take(instant(ms)*time.Millisecond, batch[:])
				if n == 0 {
					break
				}
				for _, p := range batch[:n] {
					for i := range legs {
						if p.leg == &legs[i] {
							got[i] += len(p.buf)
							total += len(p.buf)
						}
					}
				}
			}
		}
		if want := 5 * c.rate; total < want*98/100 || total > want*102/100+burstMin {
			t.Errorf("%s: %d bytes forwarded in 5 s, want %d", c.name, total, want)
		}
		for i := range got {
			if percent := 100 * got[i] / total; percent < c.share[i]-2 || percent > c.share[i]+2 {
				t.Errorf("%s: member %d has %d%%, want %d%%", c.name, i, percent, c.share[i])
			}
		}
	}
}

func TestTheQueueKeepsOrderAndCounts(t *testing.T) {
	var q fairQueue
	var f, g flow
	push := func(to *flow, i, size int) bool {
		b := make([]byte, size)
		binary.BigEndian.PutUint32(b, uint32(i))
		return q.push(to, parcel{delivery: delivery{buf: b}})
	}
	for i := range 300 {
		push(&f, i, 100)
		push(&g, 1000+i, 5000)
	}
	if push(&g, 0, flowMemory) {
		t.Error("more than a flow may hold")
	}
	var fs, gs []int
	var batch [7]parcel
	for {
		n, wait := q.take(0, batch[:])
		if n == 0 {
			if wait != 0 {
				t.Error("waits for nothing")
			}
			break
		}
		for _, p := range batch[:n] {
			if i := int(binary.BigEndian.Uint32(p.buf)); i < 1000 {
				fs = append(fs, i)
			} else {
				gs = append(gs, i)
			}
		}
	}
	if len(fs) != 300 || len(gs) != flowMemory/5000 || !slices.IsSorted(fs) || !slices.IsSorted(gs) || q.packets != 0 || q.bytes != 0 || f.memory != 0 {
		t.Errorf("%d and %d came out; %d packets, %d bytes left", len(fs), len(gs), q.packets, q.bytes)
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(relayFrame(7, "x"))
	f.Add(relayFrame(7|fromRelay, "x"))
	f.Add([]byte{relayByte, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		number, down, packet, ok := parseFrame(b)
		if !ok {
			return
		}
		if down {
			number |= fromRelay
		}
		if len(packet) == 0 || string(relayFrame(number, string(packet))) != string(b) {
			t.Errorf("%x does not encode to itself", b)
		}
	})
}

package underlay

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// TestTheRealDeviceRunsThroughARelay carries pings between two WireGuard devices on the operating system's loopback, which know no other way to
// each other than through a third node.
func TestTheRealDeviceRunsThroughARelay(t *testing.T) {
	lo := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	a, b := open(t, 0, Config{Listen: lo}), open(t, 1, Config{Listen: lo})
	r := open(t, 2, Config{Listen: lo, RelayCapacity: plenty})
	t.Cleanup(func() { a.Close(); b.Close(); r.Close() })
	for _, e := range []*end{a, b} {
		e.knows(r)
		r.knows(e)
	}
	a.knows(b)
	b.knows(a)
	a.hears(b) // no address
	b.hears(a)
	a.mustConnect(r)
	b.mustConnect(r)
	g, err := r.RelayPair(a.id(), b.id())
	if err != nil {
		t.Fatal(err)
	}
	b.AcceptChannels(r.id(), true)
	at, err := a.OpenChannel(r.id(), g.ForA)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Try(b.id(), []netip.AddrPort{at}); err != nil {
		t.Fatal(err)
	}
	a.mustConnect(b)

	da, ta := wireGuardDevice(t, a, b, "10.0.0.2")
	db, tb := wireGuardDevice(t, b, a, "10.0.0.1")
	carry(t, ta, tb, tuntest.Ping(netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")))
	carry(t, tb, ta, tuntest.Ping(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")))
	if p, ok := a.Path(b.id()); !ok || p.Kind != PathRelay || p.Via != r.id() {
		t.Errorf("path %+v", p)
	}
	if s := r.RelayStats(); s.Packets < 4 {
		t.Errorf("relay %+v", s)
	}
	closed := make(chan struct{})
	go func() { da.Close(); db.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("Device.Close hangs")
	}
}

// relayBench is a relay with two members, fed by hand: its Bind sends into nothing and never reads.
func relayBench(tb testing.TB) (e *end, from *node, number uint32) {
	b := &stillBind{done: make(chan struct{}), ready: make(chan struct{})}
	e = open(tb, 0, Config{Bind: b, RelayCapacity: plenty})
	var nodes []*node
	for i := 1; i < 3; i++ {
		e.knows(&end{t: tb, key: keys[i], Socket: e.Socket})
		n := e.memberNode(keys[i].ID())
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 51820)
		n.active.Store(newRoute(&conn.StdNetEndpoint{AddrPort: from}, e.sources.put(from, n, e.now())))
		nodes = append(nodes, n)
	}
	g, err := e.RelayPair(keys[1].ID(), keys[2].ID())
	if err != nil {
		tb.Fatal(err)
	}
	return e, nodes[0], g.ForA
}

// forwardBatch takes 64 frames in and sends them on, as a reader and the forwarder do.
func forwardBatch(e *end, f *forwarder, from *node, packet []byte) {
	for range relayBatch {
		number, _, _, _ := parseFrame(packet)
		e.relay.accept(from, number, packet, e.now())
	}
	e.relay.mu.Lock()
	n, _ := e.relay.queue.take(e.now(), f.batch[:])
	e.relay.mu.Unlock()
	f.ship(f.batch[:n])
}

func TestForwardingAllocatesNothing(t *testing.T) {
	e, from, number := relayBench(t)
	defer e.Close()
	packet := relayFrame(number, string(make([]byte, 1452)))
	f := &forwarder{relay: e.relay}
	forwardBatch(e, f, from, packet)
	// Pools lose buffers now and then, under the race detector a quarter of them: what must not be is an allocation for every frame.
	if n := testing.AllocsPerRun(200, func() { forwardBatch(e, f, from, packet) }); n > relayBatch*3/4 {
		t.Errorf("forwarding %d frames allocates %v times", relayBatch, n)
	}
}

// TestRelaysDoNotChain has a relay whose only way to the far end is relayed itself.
func TestRelaysDoNotChain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := newTriangle(t, plenty)
		defer tr.close()
		tr.through(0) // a to b
		tr.a.mustConnect(tr.b)
		n := tr.a.memberNode(tr.b.id())
		if r := n.active.Load(); r == nil || !r.relayed() {
			t.Fatal("no relayed path to begin with")
		}
		if err := n.sendDirect([][]byte{relayFrame(1, "x")}, false); !errors.Is(err, ErrNoPath) {
			t.Errorf("a frame for a channel over a channel: %v", err)
		}
		// Nor is a frame inside a frame taken in.
		before := tr.b.Stats().Dropped["relay"]
		if err := n.send([][]byte{relayFrame(1, "x")}, questions); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if got := tr.b.Stats().Dropped["relay"] - before; got != 1 {
			t.Errorf("%d dropped", got)
		}
	})
}

// TestAFloodingPairLeavesOthersTheirShare floods through a relay with little capacity, while another pair sends 20 packets a second.
func TestAFloodingPairLeavesOthersTheirShare(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := newTriangle(t, RelayCapacity{BytesPerSecond: 100_000, Channels: 16, Peers: 16})
		defer tr.close()
		r, other := tr.relays[0], tr.relays[1]
		_, g := tr.through(0)
		other.mustConnect(r)
		h, err := r.RelayPair(other.id(), tr.b.id())
		if err != nil {
			t.Fatal(err)
		}
		before, frames := r.RelayStats(), 0
		seen := map[byte]int{}
		quiet := tr.hooks()
		tr.w.Set(underlaytest.Hooks{Latency: quiet.Latency, Drop: quiet.Drop, See: func(from, to netip.AddrPort, b []byte) {
			if to == nodeB && len(b) == frameHeader+1000 && b[0] == relayByte {
				seen[b[frameHeader]]++
			}
		}})
		flood, little := relayFrame(g.ForA, "F"+strings.Repeat("x", 999)), relayFrame(h.ForA, "L"+strings.Repeat("x", 999))
		for range 100 { // 5 s, 1 MB a second
			for range 50 {
				_ = tr.a.memberNode(r.id()).sendDirect([][]byte{flood}, false)
			}
			_ = other.memberNode(r.id()).sendDirect([][]byte{little}, false)
			frames++
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(500 * time.Millisecond)
		tr.w.Set(quiet)
		if seen['L'] < frames*95/100 {
			t.Errorf("%d of %d packets of the quiet pair came through; the other had %d", seen['L'], frames, seen['F'])
		}
		if got := r.RelayStats().Bytes - before.Bytes; got > 5_500_000/10+2*burstMin {
			t.Errorf("%d bytes in 5.5 s", got)
		}
	})
}

func BenchmarkForward(b *testing.B) {
	e, from, number := relayBench(b)
	packet := relayFrame(number, string(make([]byte, 1452)))
	f := &forwarder{relay: e.relay}
	b.SetBytes(int64(len(packet)))
	b.ReportAllocs()
	for i := 0; i < b.N; i += relayBatch { // ns/op is per frame
		forwardBatch(e, f, from, packet)
	}
	b.StopTimer()
	e.Close()
}

func BenchmarkChannelSend(b *testing.B) {
	e, relay, _ := relayBench(b)
	at, err := e.OpenChannel(*relay.member.Load(), 5)
	if err != nil {
		b.Fatal(err)
	}
	bufs, _, _ := device128()
	for i := range bufs {
		bufs[i] = bufs[i][:1452]
	}
	ep := e.links.get(at)
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(bufs) {
		if err := e.transmit(bufs, ep); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	e.Close()
}

// TestLinkDeliveryEndsWithTheDevice closes a device whose third ReceiveFunc waits, while a link delivers.
func TestLinkDeliveryEndsWithTheDevice(t *testing.T) {
	e := open(t, 0, Config{Bind: &stillBind{done: make(chan struct{}), ready: make(chan struct{})}})
	defer e.Close()
	funcs, _, err := e.Bind().Open(0)
	if err != nil {
		t.Fatal(err)
	}
	d := e.session.Load()
	n := e.nodeOf(keys[1].Public().WireGuard)
	ended := make(chan error)
	go func() {
		bufs, sizes, eps := device128()
		for {
			if _, err := funcs[len(funcs)-1](bufs, sizes, eps); err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 10 * deliverQueue {
		e.deliverWireGuard(&n.endpoint, wireGuard("x"))
	}
	if err := e.Bind().Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != net.ErrClosed {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the ReceiveFunc did not end")
	}
	e.deliverWireGuard(&n.endpoint, wireGuard("x"))
	if e.Stats().Dropped["no_device"] == 0 || len(d.links) > deliverQueue {
		t.Errorf("dropped %v", e.Stats().Dropped)
	}
}

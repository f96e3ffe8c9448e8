package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	mathrand "math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// received collects the numbered packets that come out of a pipe, until it closes.
type received struct {
	last  atomic.Int64 // when the last came, Unix nanoseconds
	count atomic.Int64
	gap   atomic.Int64 // the longest time between two, in nanoseconds
	seen  [1 << 16]atomic.Bool
}

func collect(p *Pipe) *received {
	r := &received{}
	go func() {
		for {
			select {
			case b := <-p.Packets():
				n, ok := packetNumber(b)
				if !ok {
					continue
				}
				now := time.Now().UnixNano()
				if last := r.last.Swap(now); last != 0 && now-last > r.gap.Load() {
					r.gap.Store(now - last)
				}
				if !r.seen[n&0xffff].Swap(true) {
					r.count.Add(1)
				}
			case <-p.Done():
				return
			}
		}
	}()
	return r
}

func statusOf(t testing.TB, from, to *testNode) TunnelStatus {
	t.Helper()
	for _, s := range from.plane.Tunnels() {
		if s.ID == to.id {
			return s
		}
	}
	return TunnelStatus{ID: to.id, State: TunnelIdle}
}

// within waits in virtual time until ok, and fails the test if that takes longer than limit.
func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	until := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(until) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond) // virtual
	}
}

func bubble(t *testing.T, n int, f func(t *testing.T, w *testWorld)) {
	synctest.Test(t, func(t *testing.T) {
		w := newTestWorld(t, n)
		w.delay = 20 * time.Millisecond
		f(t, w)
	})
}

func TestTheFirstPacketOpensATunnelAndArrives(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		atB, atA := collect(b.pipe), collect(a.pipe)
		a.pipe.Inject(udp4(a.v4, b.v4, 1))
		a.pipe.Inject(udp6(a.v6, b.v6, 2))
		// Opening a stream costs nothing here; four frames and three WireGuard messages of 20 ms each.
		within(t, 160*time.Millisecond, "both packets at b", func() bool { return atB.count.Load() == 2 })
		b.pipe.Inject(udp4(b.v4, a.v4, 3))
		within(t, 50*time.Millisecond, "the answer at a", func() bool { return atA.count.Load() == 1 })
		for _, s := range []TunnelStatus{statusOf(t, a, b), statusOf(t, b, a)} {
			if s.State != TunnelUp || !s.PostQuantum || s.PSKEpoch != 1 || s.Rx == 0 || s.Tx == 0 || s.HandshakeAge < 0 {
				t.Errorf("status %+v", s)
			}
		}
	})
}

func TestPacketsFromBothEndsAtOnceDoNotDelayEachOther(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		atA, atB := collect(a.pipe), collect(b.pipe)
		a.pipe.Inject(udp4(a.v4, b.v4, 1))
		b.pipe.Inject(udp4(b.v4, a.v4, 2))
		within(t, 400*time.Millisecond, "both arrive", func() bool { return atA.count.Load() == 1 && atB.count.Load() == 1 })
	})
}

func TestCrossingRotationsEndWithOneKey(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		atA, atB := collect(a.pipe), collect(b.pipe)
		if err := a.plane.Ensure(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		const packets = 1000 // 10 s
		for i := range uint32(packets) {
			if i%200 == 100 {
				a.plane.beginExchange(a.plane.tunnels.get(b.id))
				b.plane.beginExchange(b.plane.tunnels.get(a.id))
			}
			a.pipe.Inject(udp4(a.v4, b.v4, i))
			b.pipe.Inject(udp4(b.v4, a.v4, i))
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		sa, sb := statusOf(t, a, b), statusOf(t, b, a)
		if sa.PSKEpoch != sb.PSKEpoch || sa.PSKEpoch < 6 {
			t.Errorf("epochs %d and %d after five crossing exchanges", sa.PSKEpoch, sb.PSKEpoch)
		}
		if lost := 2*packets - atA.count.Load() - atB.count.Load(); lost != 0 {
			t.Errorf("%d packets lost", lost)
		}
		// The keys in place are the same: a session from nothing comes up under them.
		a.plane.tunnels.get(b.id).peer.ExpireCurrentKeypairs()
		b.plane.tunnels.get(a.id).peer.ExpireCurrentKeypairs()
		a.pipe.Inject(udp4(a.v4, b.v4, packets))
		within(t, time.Second, "a packet under the last key", func() bool { return atB.seen[packets].Load() })
	})
}

func TestNothingLeavesUnderAClassicalKey(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		w.setStreams(false) // no exchange is possible
		var sent atomic.Int64
		w.setTap(func(identity.NodeID, identity.NodeID, []byte) bool { sent.Add(1); return true })
		for i := range uint32(10) {
			a.pipe.Inject(udp4(a.v4, b.v4, i))
			b.pipe.Inject(udp4(b.v4, a.v4, i))
			time.Sleep(500 * time.Millisecond)
		}
		if sent.Load() != 0 {
			t.Errorf("%d WireGuard packets left without a key", sent.Load())
		}
		// Whoever has the member's private key, but not the preshared key, gets no session either.
		w.setStreams(true)
		if err := a.plane.Ensure(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		b.stop()
		thief := &testBind{node: b, in: make(chan testPacket, 4096)}
		b.replaceEnds(thief, nil)
		pipe := OpenPipe(b.prefixes(), 0)
		dev := device.NewDevice(pipe, thief, device.NewLogger(device.LogLevelSilent, ""))
		private, public := b.key.WireGuardPrivate(), a.key.Public().WireGuard
		config := "private_key=" + hexOf(private[:]) + "\npublic_key=" + hexOf(public[:]) + "\nendpoint=" + a.id.String() +
			"\nallowed_ip=0.0.0.0/0\n"
		if err := errors.Join(dev.IpcSet(config), dev.Up()); err != nil {
			t.Fatal(err)
		}
		keepPeer(dev.LookupPeer(device.NoisePublicKey(public)))
		var data atomic.Int64
		w.setTap(func(from, _ identity.NodeID, p []byte) bool {
			if from == b.id && binary.LittleEndian.Uint32(p) == device.MessageTransportType {
				data.Add(1)
			}
			return true
		})
		pipe.Inject(udp4(b.v4, a.v4, 9))
		time.Sleep(30 * time.Second)
		if data.Load() != 0 {
			t.Error("a session came up without the preshared key")
		}
		dev.Close()
		b.start(nil) // for stopAll
	})
}

func TestRotationUnderTrafficLosesNothing(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(func(c *Config) { c.RekeyInterval = 10 * time.Second })
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		atA, atB := collect(a.pipe), collect(b.pipe)
		if err := a.plane.Ensure(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		const packets = 10_000 // 200 s, one each 20 ms
		for i := range uint32(packets) {
			a.pipe.Inject(udp4(a.v4, b.v4, i))
			b.pipe.Inject(udp4(b.v4, a.v4, i))
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if lost := packets - atA.count.Load(); lost != 0 {
			t.Errorf("%d packets lost towards a", lost)
		}
		if lost := packets - atB.count.Load(); lost != 0 {
			t.Errorf("%d packets lost towards b", lost)
		}
		if gap := time.Duration(max(atA.gap.Load(), atB.gap.Load())); gap > 60*time.Millisecond {
			t.Errorf("traffic stalled for %v", gap)
		}
		sa, sb := statusOf(t, a, b), statusOf(t, b, a)
		if sa.PSKEpoch < 18 || sa.PSKEpoch != sb.PSKEpoch {
			t.Errorf("epochs %d and %d after 200 s at an interval of 10 s", sa.PSKEpoch, sb.PSKEpoch)
		}
		if sa.HandshakeAge > 12*time.Second {
			t.Errorf("the session did not move to the new key: handshake %v ago", sa.HandshakeAge)
		}
	})
}

func TestRotationWithLossKeepsTraffic(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(func(c *Config) { c.RekeyInterval = 10 * time.Second })
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		atB := collect(b.pipe)
		if err := a.plane.Ensure(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		// Half of the handshake messages are lost, and so three of four handshakes; data is not.
		var mu sync.Mutex
		random := mathrand.New(mathrand.NewPCG(1, 2))
		w.setTap(func(_, _ identity.NodeID, p []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			return binary.LittleEndian.Uint32(p) == device.MessageTransportType || random.IntN(2) == 0
		})
		const packets = 15_000 // 300 s: sessions of 180 s would end within
		for i := range uint32(packets) {
			a.pipe.Inject(udp4(a.v4, b.v4, i))
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if lost := packets - atB.count.Load(); lost != 0 {
			t.Errorf("%d packets lost", lost)
		}
	})
}

func TestAnIdleTunnelDoesNotRotateAndIsRemoved(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		atB := collect(b.pipe)
		a.pipe.Inject(udp4(a.v4, b.v4, 1))
		time.Sleep(4 * time.Minute)
		if s := statusOf(t, a, b); s.PSKEpoch != 1 || !s.PostQuantum {
			t.Errorf("after four silent minutes: %+v", s)
		}
		time.Sleep(3 * time.Minute)
		for _, n := range nodes {
			if n.plane.device.LookupPeer(device.NoisePublicKey(nodes[1-n.index].key.Public().WireGuard)) != nil {
				t.Errorf("node %d still has a peer after seven silent minutes", n.index)
			}
		}
		if s := statusOf(t, a, b); s.State != TunnelIdle || s.PostQuantum {
			t.Errorf("status of an idle tunnel: %+v", s)
		}
		a.pipe.Inject(udp4(a.v4, b.v4, 2))
		within(t, time.Second, "traffic makes the tunnel anew", func() bool { return atB.count.Load() == 2 })
	})
}

func TestAPeerThatRestartsIsReachableWithinASecond(t *testing.T) {
	for _, speaksFirst := range []string{"the one that stayed", "the one that restarted"} {
		t.Run(speaksFirst, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, w *testWorld) {
				nodes := w.startAll(nil)
				defer w.stopAll()
				a, b := nodes[0], nodes[1]
				if err := a.plane.Ensure(t.Context(), b.id); err != nil {
					t.Fatal(err)
				}
				time.Sleep(7 * time.Second)
				b.stop()
				time.Sleep(time.Second)
				b.start(nil)
				at := collect(b.pipe)
				from, to := a, b
				if speaksFirst == "the one that restarted" {
					at, from, to = collect(a.pipe), b, a
				}
				begun := time.Now()
				for i := uint32(0); at.count.Load() < 3 && time.Since(begun) < 20*time.Second; i++ {
					from.pipe.Inject(udp4(from.v4, to.v4, i))
					time.Sleep(50 * time.Millisecond)
				}
				if took := time.Since(begun); took > time.Second {
					t.Errorf("traffic took %v", took)
				}
			})
		})
	}
}

func TestALostControlConnectionOfASilentPeerLeadsToANewKey(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		if err := a.plane.Ensure(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		b.stop()
		b.start(nil)
		b.deaf.Store(true) // the underlay of b has no validated path from a yet: it hears nothing
		at := collect(b.pipe)
		a.link.tell(b.id, false)
		begun := time.Now()
		for i := uint32(0); at.count.Load() < 3 && time.Since(begun) < 20*time.Second; i++ {
			a.pipe.Inject(udp4(a.v4, b.v4, i))
			time.Sleep(50 * time.Millisecond)
		}
		if took := time.Since(begun); took > 1500*time.Millisecond {
			t.Errorf("traffic took %v", took)
		}
	})
}

func TestALostControlConnectionOfALivePeerChangesNothing(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		if err := a.plane.Ensure(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		for i := range uint32(600) { // 60 s
			if i%150 == 140 {
				a.link.tell(b.id, false)
				b.link.tell(a.id, false)
			}
			a.pipe.Inject(udp4(a.v4, b.v4, i))
			b.pipe.Inject(udp4(b.v4, a.v4, i))
			time.Sleep(100 * time.Millisecond)
		}
		if s := statusOf(t, a, b); s.PSKEpoch != 1 {
			t.Errorf("%d exchanges in a minute of live traffic", s.PSKEpoch)
		}
	})
}

func TestDropCutsAtOnceAndARevokedMemberStaysOut(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b, c := nodes[0], nodes[1], nodes[2]
		atA, atC := collect(a.pipe), collect(c.pipe)
		for _, to := range []*testNode{b, c} {
			if err := a.plane.Ensure(t.Context(), to.id); err != nil {
				t.Fatal(err)
			}
		}
		a.table.Revoke(b.id)
		c.table.Revoke(b.id)
		a.plane.Drop(b.id)
		if a.plane.device.LookupPeer(device.NoisePublicKey(b.key.Public().WireGuard)) != nil {
			t.Error("the peer is still there after Drop")
		}
		for i := range uint32(20) {
			b.pipe.Inject(udp4(b.v4, a.v4, i))
			time.Sleep(100 * time.Millisecond)
		}
		if n := atA.count.Load(); n != 0 {
			t.Errorf("%d packets of a revoked member arrived", n)
		}
		if err := a.plane.Ensure(t.Context(), b.id); !errors.Is(err, ErrRevoked) {
			t.Errorf("Ensure to a revoked member: %v", err)
		}
		if err := b.plane.Ensure(t.Context(), c.id); !errors.Is(err, ErrRefused) {
			t.Errorf("Ensure by a revoked member: %v", err)
		}
		a.pipe.Inject(udp4(a.v4, c.v4, 1))
		within(t, 100*time.Millisecond, "others go on", func() bool { return atC.count.Load() == 1 })
	})
}

func TestRevocationInTheTableDropsTheTunnel(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		if err := a.plane.Ensure(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		a.table.Revoke(b.id)
		synctest.Wait()
		if a.plane.device.LookupPeer(device.NoisePublicKey(b.key.Public().WireGuard)) != nil {
			t.Error("the peer outlived its revocation")
		}
	})
}

func TestPacketsThatFindNoWayAreAnswered(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		w.setStreams(false)
		nobody := netip.MustParseAddr("10.86.99.99")
		a.pipe.Inject(udp4(a.v4, nobody, 1))
		synctest.Wait()
		expectUnreachable(t, a, nobody)
		a.pipe.Inject(udp4(a.v4, b.v4, 2)) // a member, but out of reach
		a.pipe.Inject(udp6(a.v6, b.v6, 3))
		time.Sleep(waitTime + 10*time.Millisecond)
		expectUnreachable(t, a, b.v4)
		expectUnreachable(t, a, b.v6)
		a.pipe.Inject(udp4(a.v4, netip.MustParseAddr("192.0.2.1"), 4)) // not ours: silence
		a.pipe.Inject(udp4(a.v4, netip.MustParseAddr("224.0.0.1"), 5))
		a.pipe.Inject([]byte{1, 2, 3})
		synctest.Wait()
		select {
		case p := <-a.pipe.Packets():
			t.Errorf("an answer where none is due: %x", p)
		default:
		}
		if s := a.plane.Stats(); s.DroppedOffOverlay != 3 || s.DroppedNoMember != 1 || s.DroppedWaitTooLong != 2 {
			t.Errorf("counted %+v", s)
		}
	})
}

func expectUnreachable(t *testing.T, n *testNode, dst netip.Addr) {
	t.Helper()
	select {
	case p := <-n.pipe.Packets():
		header, kind, code := 20, byte(3), byte(1)
		if dst.Is6() {
			header, kind, code = 40, 1, 3
		}
		to, _ := destination(p)
		quoted, _ := destination(p[header+8:])
		if p[header] != kind || p[header+1] != code || quoted != dst || (to != n.v4 && to != n.v6) {
			t.Errorf("not the unreachable for %s: %x", dst, p)
		}
	default:
		t.Errorf("no unreachable for %s", dst)
	}
}

func TestTheQueueOfWaitingPacketsIsBoundedAndKeepsTheFirst(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		atB := collect(b.pipe)
		for i := range uint32(waitPackets + 20) {
			a.pipe.Inject(udp4(a.v4, b.v4, i))
		}
		time.Sleep(time.Second)
		if n := atB.count.Load(); n != waitPackets {
			t.Errorf("%d packets arrived, want the %d that may wait", n, waitPackets)
		}
		if !atB.seen[0].Load() || atB.seen[waitPackets].Load() {
			t.Error("not the first ones were kept")
		}
		if s := a.plane.Stats(); s.DroppedQueueFull != 20 {
			t.Errorf("counted %d drops", s.DroppedQueueFull)
		}
	})
}

func TestEnsureTellsWhy(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		w.setStreams(false)
		if err := a.plane.Ensure(t.Context(), b.id); !errors.Is(err, ErrUnreachable) || !errors.Is(err, errTestUnreachable) {
			t.Errorf("unreachable member: %v", err)
		}
		if err := a.plane.Ensure(t.Context(), identity.NodeID{1}); !errors.Is(err, ErrNotMember) {
			t.Errorf("unknown node: %v", err)
		}
		if err := a.plane.Ensure(t.Context(), a.id); !errors.Is(err, ErrNotMember) {
			t.Errorf("ourselves: %v", err)
		}
		w.setStreams(true)
		w.setTap(func(identity.NodeID, identity.NodeID, []byte) bool { return false })
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := a.plane.Ensure(ctx, b.id); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no WireGuard: %v", err)
		}
		if err := a.plane.Ensure(t.Context(), b.id); !errors.Is(err, ErrUnreachable) {
			t.Errorf("no WireGuard, for long: %v", err)
		}
		w.setTap(nil)
		within(t, 30*time.Second, "it heals", func() bool { return a.plane.Ensure(t.Context(), b.id) == nil })
	})
}

func TestALostFirstHandshakeIsRepeatedSoon(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		at := collect(b.pipe)
		var n atomic.Int64
		w.setTap(func(identity.NodeID, identity.NodeID, []byte) bool { return n.Add(1) > 1 })
		a.pipe.Inject(udp4(a.v4, b.v4, 1))
		within(t, 1500*time.Millisecond, "the packet", func() bool { return at.count.Load() == 1 })
	})
}

package underlay

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// pairOf opens two members that know each other, with devices, on a network of 5 ms over IPv4 and 20 ms over IPv6.
func pairOf(t *testing.T, hooks underlaytest.Hooks) (a, b *end, deva, devb *device) {
	w := &underlaytest.Network{}
	if hooks.Latency == nil {
		hooks.Latency = func(from, _ netip.AddrPort) time.Duration {
			if from.Addr().Is4() {
				return 5 * time.Millisecond
			}
			return 20 * time.Millisecond
		}
	}
	w.Set(hooks)
	a, b = onNetwork(t, w, 0, "192.0.2.1", "2001:db8::1"), onNetwork(t, w, 1, "192.0.2.2", "2001:db8::2")
	a.knows(b)
	b.knows(a)
	a.mustConnect(b)
	deva, devb = attach(t, a.Socket), attach(t, b.Socket)
	return a, b, deva, devb
}

func closeAll(a, b *end, deva, devb *device) {
	deva.down()
	devb.down()
	a.Close()
	b.Close()
}

// sendLarge sends a tunnel packet of so many bytes.
func (e *end) sendLarge(o *end, size int) error {
	ep, err := e.Bind().ParseEndpoint(o.id().String())
	if err != nil {
		return err
	}
	p := wireGuard("large")
	return e.Bind().Send([][]byte{append(p, make([]byte, size-len(p))...)}, ep)
}

func drain(d *device) (n int) {
	for len(d.got) > 0 {
		<-d.got
		n++
	}
	return n
}

// TestBlackholesAreLeftWithinTwoSeconds has data flow both ways while something of what a sends over IPv4, the faster path, begins to
// vanish, or in both directions.
func TestBlackholesAreLeftWithinTwoSeconds(t *testing.T) {
	fromA := func(from netip.AddrPort) bool { return from == nodeA }
	for name, drop := range map[string]func(from netip.AddrPort, b []byte) bool{
		"only WireGuard, one way":   func(from netip.AddrPort, b []byte) bool { return fromA(from) && classify(b) == classWireGuard },
		"only WireGuard, both ways": func(from netip.AddrPort, b []byte) bool { return from.Addr().Is4() && classify(b) == classWireGuard },
		"only data, one way":        func(from netip.AddrPort, b []byte) bool { return fromA(from) && isData(b) },
		"everything, one way":       func(from netip.AddrPort, _ []byte) bool { return fromA(from) },
		"everything, both ways":     func(from netip.AddrPort, _ []byte) bool { return from.Addr().Is4() },
		"everything but what is small": func(from netip.AddrPort, b []byte) bool {
			return from.Addr().Is4() && len(b) > 700 // not even 1280 pass: no MTU helps
		},
	} {
		for _, answered := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, answered %v", name, answered), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					var cut atomic.Bool
					a, b, deva, devb := pairOf(t, underlaytest.Hooks{Drop: func(from, _ netip.AddrPort, p []byte) bool {
						return cut.Load() && drop(from, p)
					}})
					defer closeAll(a, b, deva, devb)
					large := strings.Contains(name, "small")
					talk := func() {
						if large {
							_ = a.sendLarge(b, 1250)
						}
						_ = a.sendTunnel(b, "ping")
						if answered && large == (drain(devb) > 1) { // as TCP: nothing is said to silence
							_ = b.sendTunnel(a, "pong")
						}
						time.Sleep(20 * time.Millisecond)
					}
					for range 250 {
						talk()
					}
					if p, _ := a.Path(b.id()); p.Endpoint != nodeB || p.Lossy {
						t.Fatalf("path %+v", p)
					}
					cut.Store(true)
					began := time.Now()
					for {
						talk()
						if p, _ := a.Path(b.id()); p.Endpoint != nodeB {
							break
						}
						if time.Since(began) > 10*time.Second {
							t.Fatal("the path was not left")
						}
					}
					took := time.Since(began)
					t.Logf("left after %v", took)
					limit := 2 * time.Second
					if large {
						limit += time.Second // it takes two verdicts: a lower MTU is tried first
					}
					if took > limit {
						t.Errorf("left after %v", took)
					}
					for range 50 {
						talk()
					}
					drain(devb)
					talk()
					talk()
					time.Sleep(100 * time.Millisecond)
					if drain(devb) == 0 {
						t.Error("nothing arrives over the other path")
					}
				})
			})
		}
	}
}

// TestALossyPathIsTakenAgainWhenItDelivers also counts what arrives meanwhile: a trial costs no packet.
func TestALossyPathIsTakenAgainWhenItDelivers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var cut atomic.Bool
		a, b, deva, devb := pairOf(t, underlaytest.Hooks{Drop: func(from, _ netip.AddrPort, p []byte) bool {
			return cut.Load() && from.Addr().Is4() && classify(p) == classWireGuard
		}})
		defer closeAll(a, b, deva, devb)
		arrived := 0
		talk := func(n int) {
			for range n {
				_ = a.sendTunnel(b, "x")
				_ = b.sendTunnel(a, "x")
				time.Sleep(20 * time.Millisecond)
				drain(deva)
				arrived += drain(devb)
			}
		}
		talk(100)
		cut.Store(true)
		talk(100)
		if p, _ := a.Path(b.id()); p.Endpoint.Addr().Is4() {
			t.Fatalf("path %+v", p)
		}
		tried := a.Tried(b.id())
		if !strings.Contains(fmt.Sprint(tried), "lossy") {
			t.Errorf("tried %+v", tried)
		}
		settle := func() { // what is under way arrives
			time.Sleep(time.Second)
			drain(deva)
			arrived += drain(devb)
		}
		settle()
		arrived = 0
		talk(3000) // a minute with trials that fail
		settle()
		if arrived < 3000 {
			t.Errorf("%d packets of 3000 arrived while a lossy path was tried", arrived)
		}
		cut.Store(false)
		talk(3000)
		if p, _ := a.Path(b.id()); p.Endpoint != nodeB || p.Lossy {
			t.Errorf("not taken again: %+v", p)
		}
	})
}

// TestThePathsMTUIsFollowed has IPv4 packets larger than the network's MTU vanish.
func TestThePathsMTUIsFollowed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var mtu atomic.Int32
		mtu.Store(1500)
		a, b, deva, devb := pairOf(t, underlaytest.Hooks{Drop: func(from, _ netip.AddrPort, p []byte) bool {
			header := 48
			if from.Addr().Is4() {
				header = 28
			}
			return len(p)+header > int(mtu.Load())
		}})
		defer closeAll(a, b, deva, devb)
		changed, cancel := a.Watch()
		defer cancel()
		// talk sends as a device would that follows the MTU, until it is as expected.
		talk := func(want int, fragments bool, within time.Duration) {
			t.Helper()
			began := time.Now()
			for {
				p, _ := a.Path(b.id())
				if p.MTU == want && p.Fragments == fragments {
					break
				}
				if time.Since(began) > within {
					t.Fatalf("after %v: %+v, want MTU %d", within, p, want)
				}
				_ = a.sendLarge(b, p.MTU+wireGuardOverhead)
				_ = a.sendTunnel(b, "x")
				_ = b.sendTunnel(a, "x")
				time.Sleep(20 * time.Millisecond)
				drain(deva)
				drain(devb)
			}
			t.Logf("%d after %v", want, time.Since(began))
			select {
			case <-changed:
			default:
				t.Error("watchers were not told")
			}
		}
		talk(1440, false, 100*time.Millisecond)
		for range 100 {
			_ = a.sendLarge(b, 1440+wireGuardOverhead)
			time.Sleep(20 * time.Millisecond)
		}
		for len(changed) > 0 {
			<-changed
		}
		mtu.Store(1420)
		talk(1360, false, 2*time.Second)
		mtu.Store(1280)
		for range 10 {
			_ = a.sendLarge(b, 1360+wireGuardOverhead)
			time.Sleep(20 * time.Millisecond)
		}
		talk(mtuFloor, true, 2*time.Second)
		mtu.Store(9000)
		talk(8928, false, 25*time.Minute)
	})
}

// stingy is a Bind that refuses what the system would.
type stingy struct {
	*underlaytest.Host
	largest atomic.Int32 // bytes; 0: any
	noV4    atomic.Pointer[error]
}

func (s *stingy) Send(bufs [][]byte, ep conn.Endpoint) error {
	if e := s.noV4.Load(); e != nil && ep.DstIP().Is4() && !ep.DstIP().IsLoopback() {
		return *e
	}
	if most := s.largest.Load(); most > 0 && largest(bufs) > int(most) {
		return syscall.EMSGSIZE
	}
	return s.Host.Send(bufs, ep)
}

func TestWhatTheSystemRefusesCountsAtOnce(t *testing.T) {
	for _, refusal := range []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EPERM} {
		inBubble(t, func(t *testing.T) {
			w := &underlaytest.Network{}
			w.Set(underlaytest.Hooks{Latency: func(from, _ netip.AddrPort) time.Duration {
				if from.Addr().Is4() {
					return 5 * time.Millisecond
				}
				return 20 * time.Millisecond
			}})
			s := &stingy{Host: w.Host(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"))}
			a, b := open(t, 0, Config{Bind: s, Port: 51820}), onNetwork(t, w, 1, "192.0.2.2", "2001:db8::2")
			defer a.Close()
			defer b.Close()
			a.knows(b)
			b.knows(a)
			a.mustConnect(b)
			dev := attach(t, b.Socket)
			defer dev.down()
			for range 100 {
				_ = a.sendTunnel(b, "x")
				time.Sleep(20 * time.Millisecond)
			}
			if p, _ := a.Path(b.id()); p.Endpoint != nodeB || p.MTU != 1440 {
				t.Fatalf("path %+v", p)
			}
			s.largest.Store(1432)
			_ = a.sendLarge(b, 1472)
			time.Sleep(20 * time.Millisecond)
			if p, _ := a.Path(b.id()); p.MTU != 1392 {
				t.Errorf("a large packet was refused: MTU %d", p.MTU)
			}
			s.noV4.Store(&refusal)
			_ = a.sendTunnel(b, "lost")
			time.Sleep(10 * time.Millisecond)
			if p, _ := a.Path(b.id()); p.Endpoint.Addr().Is4() {
				t.Errorf("%v: path %+v", refusal, p)
			}
			s.noV4.Store(nil)
			for range 200 {
				_ = a.sendTunnel(b, "x")
				time.Sleep(20 * time.Millisecond)
			}
			if p, _ := a.Path(b.id()); p.Endpoint != nodeB {
				t.Errorf("the better path works again: %+v", p)
			}
		})
	}
}

// TestAKeptPathStaysAlive also counts what that costs in a day.
func TestAKeptPathStaysAlive(t *testing.T) {
	const budget = 250_000
	for _, addrs := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}} {
		inBubble(t, func(t *testing.T) {
			var w underlaytest.Network
			var bytes atomic.Int64
			var gap, last atomic.Int64
			began := time.Now()
			w.Set(underlaytest.Hooks{
				Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond },
				See: func(from, _ netip.AddrPort, b []byte) {
					bytes.Add(int64(len(b) + nat.PacketOverhead))
					if from.Addr().Is4() {
						bytes.Add(-20)
					}
					if from.Addr() == netip.MustParseAddr(addrs[0]) {
						now := int64(time.Since(began))
						gap.Store(max(gap.Load(), now-last.Load()))
						last.Store(now)
					}
				},
			})
			a, b := onNetwork(t, &w, 0, addrs[0]), onNetwork(t, &w, 1, addrs[1])
			defer a.Close()
			defer b.Close()
			a.knows(b)
			b.knows(a)
			if err := a.Keep(b.id(), true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if p, _ := a.Path(b.id()); p.Kind != PathDirect {
				t.Fatalf("a kept node is not looked for: %+v", p)
			}
			bytes.Store(0)
			time.Sleep(24 * time.Hour)
			t.Logf("%d bytes a day, at most %v without a packet", bytes.Load(), time.Duration(gap.Load()))
			if bytes.Load() > budget {
				t.Errorf("%d bytes a day", bytes.Load())
			}
			if time.Duration(gap.Load()) > 26*time.Second {
				t.Errorf("a mapping was left alone for %v", time.Duration(gap.Load()))
			}
			// It moves, and says nothing by itself: a finds out and looks for it, where its record says.
			to := netip.MustParseAddr("203.0.113.7")
			if b.id(); !netip.MustParseAddr(addrs[0]).Is4() {
				to = netip.MustParseAddr("2001:db8:7::7")
			}
			b.host.Move(to)
			time.Sleep(2 * time.Minute)
			a.hears(b, netip.AddrPortFrom(to, 51820))
			time.Sleep(2 * time.Second)
			if p, _ := a.Path(b.id()); p.Endpoint.Addr() != to {
				t.Errorf("not found again: %+v", p)
			}
			_ = a.Keep(b.id(), false)
			time.Sleep(2 * time.Minute)
			bytes.Store(0)
			time.Sleep(time.Hour)
			if bytes.Load() != 0 {
				t.Errorf("%d bytes for a node that is kept no more", bytes.Load())
			}
		})
	}
}

// TestANetworkChangeIsFollowed moves a host while the other sends; the host is told, as by netlink.
func TestANetworkChangeIsFollowed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond }})
		changes := make(chan struct{}, 1)
		h := w.Host(netip.MustParseAddr("192.0.2.1"))
		a, b := open(t, 0, Config{Bind: h, Port: 51820, Changes: changes}), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		dev := attach(t, a.Socket)
		defer dev.down()
		talk := func() { _ = b.sendTunnel(a, "x"); time.Sleep(20 * time.Millisecond) }
		for range 100 {
			talk()
		}
		drain(dev)
		watch, cancel := a.Watch()
		defer cancel()
		h.Move(netip.MustParseAddr("198.51.100.1"))
		changes <- struct{}{}
		began := time.Now()
		for len(dev.got) == 0 {
			talk()
			if time.Since(began) > 5*time.Second {
				t.Fatal("not followed")
			}
		}
		t.Logf("back after %v", time.Since(began))
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		select {
		case <-watch:
		default:
			t.Error("watchers were not told: nobody announces the new address")
		}
		close(changes) // must not spin
		time.Sleep(time.Minute)
	})
}

// TestANewNATMappingIsFollowed has a router forget its mappings and take other ports, while data flows.
func TestANewNATMappingIsFollowed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond }})
		router := w.NAT(underlaytest.NATConfig{
			External: netip.MustParseAddr("198.51.100.9"), Filtering: underlaytest.AddressAndPortDependent, Sequential: true,
		})
		h := router.Host(netip.MustParseAddr("10.0.0.2"))
		a, b := open(t, 0, Config{Bind: h, Port: 51820}), onNetwork(t, &w, 1, "192.0.2.2")
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		deva, devb := attach(t, a.Socket), attach(t, b.Socket)
		defer closeAll(a, b, deva, devb)
		talk := func() {
			_ = a.sendTunnel(b, "x")
			_ = b.sendTunnel(a, "x")
			time.Sleep(20 * time.Millisecond)
		}
		for range 100 {
			talk()
		}
		was, _ := b.Path(a.id())
		router.Reboot()
		time.Sleep(6 * time.Millisecond) // what was on the way
		drain(deva)
		drain(devb)
		began := time.Now()
		for len(deva.got) == 0 || len(devb.got) == 0 {
			talk()
			if time.Since(began) > 10*time.Second {
				t.Fatal("not followed")
			}
		}
		took := time.Since(began)
		t.Logf("back after %v", took)
		if took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		if p, _ := b.Path(a.id()); p.Endpoint == was.Endpoint {
			t.Errorf("still %v: the router gave the same port", p.Endpoint)
		}
	})
}

package underlaytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// arrivalAt is one packet that came, and when.
type arrivalAt struct {
	size int
	at   time.Duration
}

// flight sends packets of the sizes from one host to the other, spaced, and returns what arrived.
func flight(t *testing.T, n *Network, up Link, size, count int, space time.Duration) (got []arrivalAt) {
	a, b := n.Host(server), n.Host(other)
	a.SetLink(up, Link{})
	from, to := newSpare(t, a), newSpare(t, b)
	began := time.Now()
	go func() {
		buf := make([]byte, 10000)
		for {
			k, _, err := to.ReadFrom(buf)
			if err != nil {
				return
			}
			got = append(got, arrivalAt{k, time.Since(began)})
		}
	}()
	for range count {
		if _, err := from.WriteTo(make([]byte, size), net.UDPAddrFromAddrPort(netip.AddrPortFrom(other, firstPort))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(space)
	}
	time.Sleep(10 * time.Second)
	from.Close()
	to.Close()
	synctest.Wait()
	return got
}

func newSpare(t *testing.T, h *Host) net.PacketConn {
	c, err := h.OpenSpare()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestALinkLosesItsShare(t *testing.T) {
	for name, c := range map[string]struct {
		link Link
		want float64
	}{
		"each":      {Link{Loss: 0.1}, 0.1},
		"in bursts": {Link{Burst: Burst{Every: 900 * time.Millisecond, Length: 100 * time.Millisecond, Loss: 1}}, 0.1},
	} {
		synctest.Test(t, func(t *testing.T) {
			const count = 50_000
			var n Network
			lost := 1 - float64(len(flight(t, &n, c.link, 100, count, 10*time.Millisecond)))/count
			if math.Abs(lost-c.want) > 0.02 {
				t.Errorf("%s: %.3f of the packets were lost", name, lost)
			}
			if s := n.Stats(); s.Sent != count || s.Delivered+s.Lost[Loss] != count {
				t.Errorf("%s: counted %+v", name, s)
			}
		})
	}
}

func TestTheSameSeedLosesTheSamePackets(t *testing.T) {
	run := func(seed uint64) (got []arrivalAt) {
		synctest.Test(t, func(t *testing.T) {
			var n Network
			n.SetSeed(seed)
			got = flight(t, &n, Link{Latency: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.2, Reorder: 0.1, Duplicate: 0.1}, 100, 500, time.Millisecond)
		})
		return got
	}
	if first := run(1); !slices.Equal(first, run(1)) || slices.Equal(first, run(2)) {
		t.Error("what arrives does not depend on the seed alone")
	}
}

func TestJitterKeepsTheOrderAndReorderingDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(Link{Latency: 20 * time.Millisecond, Jitter: 10 * time.Millisecond}, 7, "x")
		var last, low, high time.Duration
		low = time.Hour
		for now := time.Duration(0); now < 10*time.Second; now += 100 * time.Microsecond {
			d := l.cross(now, &packet{to: netip.AddrPortFrom(other, 1)}).delay
			if now+d < last {
				t.Fatalf("the packet of %v overtook another", now)
			}
			last, low, high = now+d, min(low, d), max(high, d)
		}
		if low < 20*time.Millisecond || high > 30*time.Millisecond || high-low < 8*time.Millisecond {
			t.Errorf("delays from %v to %v", low, high)
		}
		var n Network
		a, b := n.Host(server), n.Host(other)
		a.SetLink(Link{Latency: 20 * time.Millisecond, Reorder: 0.2, Duplicate: 0.2}, Link{})
		from, to := newSpare(t, a), newSpare(t, b)
		defer from.Close()
		defer to.Close()
		for i := range 60 {
			from.WriteTo([]byte{byte(i)}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(other, firstPort)))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		count, overtaken, before := 0, 0, byte(0)
		to.SetReadDeadline(time.Now().Add(time.Second))
		for buf := make([]byte, 1); ; count++ {
			if _, _, err := to.ReadFrom(buf); err != nil {
				break
			}
			if buf[0] < before {
				overtaken++
			}
			before = buf[0]
		}
		if overtaken == 0 || count <= 60 {
			t.Errorf("of %d packets %d came late", count, overtaken)
		}
	})
}

func TestBandwidthSpacesPacketsAndTheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		// 1000 bytes with headers at 8 Mbit/s: a millisecond each. The queue holds ten, one more is being sent.
		got := flight(t, &n, Link{Bandwidth: 8e6, Queue: 10_000}, 972, 100, 0)
		if len(got) != 11 || got[10].at != 11*time.Millisecond || got[0].at != time.Millisecond {
			t.Errorf("arrived: %v", got)
		}
		if n.Stats().Lost[QueueFull] != 89 {
			t.Errorf("counted %+v", n.Stats())
		}
	})
}

func TestPacketsLargerThanTheMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		a, b := n.Host(server), n.Host(other)
		a.SetLink(Link{MTU: 1500}, Link{})
		b.SetLink(Link{}, Link{MTU: 1400})
		p := a.Process()
		if _, _, err := p.Open(51820); err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		to := newBox(t, b)
		for _, c := range []struct {
			size    int
			fits    bool
			err     error
			inParts bool
		}{{1372, true, nil, true}, {1373, false, nil, true}, {1472, false, nil, true}, {1473, false, syscall.EMSGSIZE, true}} {
			ep := &Endpoint{AddrPort: to.addr(other)}
			if err := p.Send([][]byte{make([]byte, c.size)}, ep); !errors.Is(err, c.err) {
				t.Errorf("%d bytes: %v", c.size, err)
			}
			if got := len(to.arrived()) == 1; got != c.fits {
				t.Errorf("%d bytes arrived: %v", c.size, got)
			}
			if err := p.SendFragmented([][]byte{make([]byte, c.size)}, ep); err != nil || (len(to.arrived()) == 1) != c.inParts {
				t.Errorf("%d bytes in fragments: %v", c.size, err)
			}
		}
	})
}

func TestWaysBetweenRegions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		east, west := n.Region("east"), n.Region("west")
		n.SetWays(east, west, Link{Latency: 40 * time.Millisecond})
		n.SetWay(east, east, Link{Latency: 3 * time.Millisecond})
		var hosts []*Host
		for i, r := range []*Region{east, east, west} {
			hosts = append(hosts, n.Host(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})))
			hosts[i].SetRegion(r)
		}
		from := newBox(t, hosts[0])
		for i, want := range map[int]time.Duration{1: 3 * time.Millisecond, 2: 40 * time.Millisecond} {
			to := newBox(t, hosts[i])
			from.send(to.addr(hosts[i].Addresses()[0]))
			time.Sleep(want - 1)
			if len(to.arrived()) != 0 {
				t.Errorf("host %d: too early", i)
			}
			time.Sleep(time.Nanosecond)
			if len(to.arrived()) != 1 {
				t.Errorf("host %d: not after %v", i, want)
			}
		}
	})
}

func TestCutsLoseWhatCrossesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		n.Set(Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 10 * time.Millisecond }})
		a, b := n.Host(server), n.Host(other)
		hidden := n.NAT(NATConfig{External: outer}).Host(inner)
		boxA, boxB, boxC := newBox(t, a), newBox(t, b), newBox(t, hidden)
		pass := func(from, to *box, ip netip.Addr) bool {
			from.send(to.addr(ip))
			time.Sleep(10 * time.Millisecond)
			return len(to.arrived()) == 1
		}
		boxA.send(boxB.addr(other)) // on its way when the cut comes
		cut := n.Cut([]*Host{a}, []*Host{b})
		time.Sleep(time.Second)
		if len(boxB.arrived()) != 0 || pass(boxA, boxB, other) || !pass(boxB, boxA, server) {
			t.Error("a cut in one direction")
		}
		boxA.send(boxB.addr(other)) // on its way when it is healed
		time.Sleep(time.Millisecond)
		cut.Heal()
		time.Sleep(time.Second)
		if len(boxB.arrived()) != 0 || !pass(boxA, boxB, other) {
			t.Error("after the cut")
		}
		both := n.Partition([]*Host{hidden}, nil)
		if pass(boxC, boxA, server) || pass(boxA, boxC, outer) || !pass(boxA, boxB, other) {
			t.Error("a partition, with a host behind a NAT")
		}
		both.Heal()
		if !pass(boxC, boxA, server) {
			t.Error("after the partition")
		}
	})
}

func TestACrashSaysNoGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		a, b := n.Host(server), n.Host(other)
		first := b.Process()
		receive, port, err := first.Open(51820)
		if err != nil {
			t.Fatal(err)
		}
		l, err := first.ListenTCP(netip.AddrPortFrom(other, 443))
		if err != nil {
			t.Fatal(err)
		}
		c, err := a.DialTCP(t.Context(), netip.AddrPortFrom(other, 443))
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		b.Crash()
		if _, err := receive[0]([][]byte{{}}, []int{0}, make([]conn.Endpoint, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the dead socket: %v", err)
		}
		if _, err := d.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the dead stream: %v", err)
		}
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other end was told: %v", err)
		}
		if _, _, err := b.Process().Open(port); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a program on a machine without power: %v", err)
		}
		b.Restart()
		second := b.Process()
		if _, _, err := second.Open(port); err != nil {
			t.Fatal(err)
		}
		first.Close() // what the dead one still does is not felt by the living
		if b.Sockets() != 1 {
			t.Error("the dead process closed a socket of the living")
		}
		c.SetReadDeadline(time.Time{})
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after the restart the stream: %v", err)
		}
		second.Kill()
		if b.Sockets() != 0 {
			t.Error("a killed process left its socket")
		}
	})
}

func TestAPausedHostHoldsOrLoses(t *testing.T) {
	for _, hold := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var n Network
			a, b := n.Host(server), n.Host(other)
			boxA, boxB := newBox(t, a), newBox(t, b)
			b.Pause(hold)
			boxA.send(boxB.addr(other))
			boxB.send(boxA.addr(server))
			if len(boxA.arrived())+len(boxB.arrived()) != 0 {
				t.Error("traffic of a paused host")
			}
			b.Resume()
			if got := len(boxA.arrived()) + len(boxB.arrived()); hold && got != 2 || !hold && got != 0 {
				t.Errorf("hold %v: %d packets after the pause", hold, got)
			}
		})
	}
}

func TestStreamsOutliveLossAndCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		a, b := n.Host(server), n.Host(other)
		a.SetLink(Link{Latency: 5 * time.Millisecond, Loss: 0.2}, Link{Loss: 0.2})
		l, err := b.ListenTCP(netip.AddrPortFrom(other, 443))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, err := a.DialTCP(ctx, netip.AddrPortFrom(other, 443))
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		sent := make([]byte, 300_000)
		for i := range sent {
			sent[i] = byte(i * i >> 3)
		}
		go func() {
			c.Write(sent[:len(sent)/2])
			cut := n.Partition([]*Host{a}, nil)
			time.AfterFunc(30*time.Second, cut.Heal)
			c.Write(sent[len(sent)/2:])
			c.Close()
		}()
		if got, err := io.ReadAll(d); err != nil || !slices.Equal(got, sent) {
			t.Errorf("%d of %d bytes arrived: %v", len(got), len(sent), err)
		}
		d.Close()
		l.Close()
	})
}

func TestATapSeesTheWholeLifeOfPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		a, b := n.Host(server), n.Host(other)
		nat := n.NAT(NATConfig{External: outer, Filtering: AddressAndPortDependent})
		hidden := nat.Host(inner)
		boxA, boxB, boxC := newBox(t, a), newBox(t, b), newBox(t, hidden)
		var seen []string
		tap := n.Tap(func(s Sight) {
			seen = append(seen, fmt.Sprint(s.Sent, s.Lost, s.From, s.To, s.Source == hidden, s.Target == a, string(s.Data)))
		}, a)
		boxC.send(boxA.addr(server))
		boxB.send(boxA.addr(server))
		boxA.send(boxC.addr(server)) // to itself: the same port
		boxA.send(netip.AddrPortFrom(outer, 9))
		boxB.send(boxC.addr(outer)) // of no host that is watched
		tap.Close()
		boxB.send(boxA.addr(server))
		at := func(ip netip.Addr) netip.AddrPort { return netip.AddrPortFrom(ip, firstPort) }
		want := []string{
			fmt.Sprint(false, Reason(""), at(outer), at(server), true, true, "x"),
			fmt.Sprint(false, Reason(""), at(other), at(server), false, true, "x"),
			fmt.Sprint(true, Reason(""), at(server), at(server), false, false, "x"),
			fmt.Sprint(false, Reason(""), at(server), at(server), false, true, "x"),
			fmt.Sprint(true, Reason(""), at(server), netip.AddrPortFrom(outer, 9), false, false, "x"),
			fmt.Sprint(false, Translation, at(server), netip.AddrPortFrom(outer, 9), false, false, "x"),
		}
		if !slices.Equal(seen, want) {
			t.Errorf("seen\n%q\nwant\n%q", seen, want)
		}
	})
}

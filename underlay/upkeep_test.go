package underlay

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

func TestFailoverTakesLessThanASecond(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		var cut atomic.Bool
		w.Set(underlaytest.Hooks{
			Latency: func(from, _ netip.AddrPort) time.Duration {
				if from.Addr().Is4() {
					return 5 * time.Millisecond
				}
				return 20 * time.Millisecond
			},
			Drop: func(from, _ netip.AddrPort, _ []byte) bool { return cut.Load() && from.Addr().Is4() },
		})
		a, b := onNetwork(t, &w, 0, "192.0.2.1", "2001:db8::1"), onNetwork(t, &w, 1, "192.0.2.2", "2001:db8::2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		time.Sleep(time.Second)
		if p, _ := a.Path(b.id()); p.Endpoint != nodeB || len(p.Standby) != 1 {
			t.Fatalf("path %+v", p)
		}
		deva, devb := attach(t, a.Socket), attach(t, b.Socket)
		defer deva.down()
		defer devb.down()
		changed, cancel := a.Watch()
		defer cancel()
		talk := func() { // both ways, every 20 ms
			_ = a.sendTunnel(b, "ping")
			_ = b.sendTunnel(a, "pong")
			time.Sleep(20 * time.Millisecond)
		}
		for range 200 {
			talk()
		}
		for len(devb.got) > 0 {
			<-devb.got
		}
		cut.Store(true)
		began := time.Now()
		for len(devb.got) == 0 || len(deva.got) == 0 {
			talk()
			if time.Since(began) < 50*time.Millisecond {
				for len(devb.got) > 0 { // what was on the way
					<-devb.got
				}
				for len(deva.got) > 0 {
					<-deva.got
				}
			}
			if time.Since(began) > 5*time.Second {
				t.Fatal("no failover")
			}
		}
		t.Logf("failover after %v", time.Since(began))
		if took := time.Since(began); took > time.Second {
			t.Errorf("failover took %v", took)
		}
		select {
		case <-changed:
		default:
			t.Error("watchers were not told")
		}
		if p, _ := a.Path(b.id()); p.Endpoint.Addr().Is4() {
			t.Errorf("path %+v", p)
		}
	})
}

func TestAMachineThatChangesNetworkIsFollowed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond }})
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		time.Sleep(time.Second)
		dev := attach(t, a.Socket)
		defer dev.down()
		_ = b.sendTunnel(a, "x")
		time.Sleep(time.Second)
		<-dev.got
		b.host.Move(netip.MustParseAddr("203.0.113.9"))
		began := time.Now()
		for len(dev.got) == 0 {
			_ = b.sendTunnel(a, "moved")
			time.Sleep(20 * time.Millisecond)
			if time.Since(began) > 5*time.Second {
				t.Fatal("the tunnel did not come back")
			}
		}
		t.Logf("back after %v", time.Since(began))
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		for range 100 { // a's own packets follow
			_ = a.sendTunnel(b, "y")
			time.Sleep(20 * time.Millisecond)
		}
		if p, _ := a.Path(b.id()); p.Endpoint != netip.MustParseAddrPort("203.0.113.9:51820") {
			t.Errorf("path %+v", p)
		}
	})
}

func TestIdlePeersCostLessThanTheirBudget(t *testing.T) {
	const budget = 250_000 // bytes a day and peer, both directions, headers included
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		var p tap
		w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond }, See: p.hook})
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		// Used now and then: a burst every quarter of an hour, both ways. What is not the burst itself counts.
		for range 24 * 4 {
			_ = a.sendTunnel(b, "x")
			time.Sleep(10 * time.Millisecond)
			_ = b.sendTunnel(a, "x")
			time.Sleep(15 * time.Minute)
		}
		total := 0
		for _, q := range p.packets() {
			if classify(q.data) == classSTUN {
				total += len(q.data) + nat.PacketOverhead
			}
		}
		t.Logf("%d bytes a day", total)
		if total > budget {
			t.Errorf("%d bytes a day, budget %d", total, budget)
		}
	})
}

// Who only answers is owed nothing: gossip's probes, every 20 s between neighbours, cost no checks. A question without an answer does.
func TestAnAnsweredQuestionNeedsNoCheck(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		var p tap
		var cut atomic.Bool
		w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond }, See: p.hook,
			Drop: func(_, _ netip.AddrPort, _ []byte) bool { return cut.Load() }})
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		ask := func() (checks int) {
			before := len(p.packets())
			if err := a.SendGossip(b.id(), []byte("?"), true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			select {
			case <-b.Gossip():
				if err := b.SendGossip(a.id(), []byte("!"), true); err != nil {
					t.Fatal(err)
				}
			default:
			}
			time.Sleep(20 * time.Second)
			for _, q := range p.packets()[before:] {
				if classify(q.data) == classSTUN {
					checks++
				}
			}
			return checks
		}
		for range 100 {
			if n := ask(); n > 0 {
				t.Fatalf("%d packets of checks after a question that was answered", n)
			}
		}
		cut.Store(true)
		if ask() == 0 {
			t.Error("no check after a question that was not answered")
		}
	})
}

// Regression: what gossip tells, which nobody answers, had the path checked each time, so that members that tell each other much sent twice as many checks
// as news. News for who has not been heard lately are followed by one: it may be gone.
func TestNewsAreOwedNothingWhileTheOtherIsHeard(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		var p tap
		w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond }, See: p.hook})
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		checksAfter := func(pause time.Duration) (checks int) {
			time.Sleep(pause)
			before := len(p.packets())
			for i := range 4 { // seconds: each tells the other something, half a second after it was told
				from, to := a, b
				if i%2 == 1 {
					from, to = b, a
				}
				if err := from.SendGossip(to.id(), []byte("news"), false); err != nil {
					t.Fatal(err)
				}
				time.Sleep(500 * time.Millisecond)
				<-to.Gossip()
			}
			for _, q := range p.packets()[before:] {
				if classify(q.data) == classSTUN {
					checks++
				}
			}
			return checks
		}
		checksAfter(0)
		for range 20 {
			if n := checksAfter(time.Second); n > 0 {
				t.Fatalf("%d packets of checks beside four of news", n)
			}
		}
		if checksAfter(freshFor) == 0 {
			t.Error("no check of who has been silent")
		}
	})
}

func TestALostPathIsFoundOnDemand(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		var cut atomic.Bool
		var checks atomic.Int32
		w.Set(underlaytest.Hooks{
			Drop: func(_, _ netip.AddrPort, _ []byte) bool { return cut.Load() },
			See:  func(_, _ netip.AddrPort, _ []byte) { checks.Add(1) },
		})
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		cut.Store(true)
		for range 300 {
			_ = a.sendTunnel(b, "x")
			time.Sleep(100 * time.Millisecond)
		}
		if p, _ := a.Path(b.id()); p.Kind != PathNone {
			t.Fatalf("after 30 s of silence: %+v", p)
		}
		if err := a.sendTunnel(b, "x"); err != ErrNoPath {
			t.Errorf("sending without a path: %v", err)
		}
		time.Sleep(time.Minute)
		quiet := checks.Load()
		time.Sleep(time.Hour)
		if got := checks.Load() - quiet; got != 0 {
			t.Errorf("%d packets while nobody asked", got)
		}
		for range 1000 { // many packets ask for one search a second
			_ = a.sendTunnel(b, "x")
			time.Sleep(time.Millisecond)
		}
		if got := checks.Load() - quiet; got > 20 {
			t.Errorf("%d checks for one search", got)
		}
		cut.Store(false)
		time.Sleep(6 * time.Second)
		_ = a.sendTunnel(b, "x")
		time.Sleep(2 * time.Second)
		if p, _ := a.Path(b.id()); p.Kind != PathDirect {
			t.Errorf("the path did not come back: %+v", p)
		}
	})
}

func TestAHandshakeWaitsForThePath(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 10 * time.Millisecond }})
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		dev := attach(t, b.Socket)
		defer dev.down()
		ep, err := a.Bind().ParseEndpoint(b.id().String())
		if err != nil {
			t.Fatal(err)
		}
		initiation := make([]byte, handshakeMax)
		initiation[0] = 1
		began := time.Now()
		if err := a.Bind().Send([][]byte{initiation}, ep); err != nil {
			t.Fatal(err)
		}
		<-dev.got
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("the first packet took %v, want two round trips at most", took)
		}
	})
}

func TestOrphansAreReported(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		var reports []identity.NodeID
		got := make(chan identity.NodeID, 100)
		b.OnOrphan(func(id identity.NodeID) { got <- id })
		dev := attach(t, b.Socket)
		defer dev.down()
		for range 30 {
			_ = a.sendTunnel(b, "x")
			time.Sleep(100 * time.Millisecond)
		}
		for len(got) > 0 {
			reports = append(reports, <-got)
		}
		if len(reports) != 3 || reports[0] != a.id() {
			t.Errorf("%d reports in three seconds: %v", len(reports), reports)
		}
		b.WireGuardKnown(a.key.Public().WireGuard, true)
		for range 30 {
			_ = a.sendTunnel(b, "x")
			time.Sleep(100 * time.Millisecond)
		}
		if len(got) != 0 {
			t.Error("a node that the device knows was reported")
		}
	})
}

func TestConnectUsesHintsAndNewRecords(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		wrong := netip.MustParseAddrPort("192.0.2.77:51820")
		a.hears(b, wrong)
		done := make(chan error, 1)
		go func() { done <- a.Connect(t.Context(), b.id()) }()
		time.Sleep(time.Second)
		a.hears(b, wrong, nodeB) // arrives while the search is under way
		began := time.Now()
		if err := <-done; err != nil || time.Since(began) > 100*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}

		a.Forget(b.id())
		a.hears(b, wrong)
		time.Sleep(10 * time.Second)
		a.Hint(b.id(), []netip.AddrPort{nodeB})
		a.mustConnect(b)
	})
}

func TestManyPathsAreBounded(t *testing.T) {
	s := newPathSet(false)
	for i := range 100 {
		s.answer(netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:1", i)), pathUDP, time.Duration(100-i)*time.Millisecond, instant(i)*time.Second)
		if len(s.paths) > pathsMax || s.find(s.active) == nil {
			t.Fatalf("%d paths, active %v", len(s.paths), s.active)
		}
	}
}

func TestManyNodesConnectAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return time.Millisecond }})
		var all []*end
		for i := range keys {
			all = append(all, onNetwork(t, &w, i, fmt.Sprintf("192.0.2.%d", i+1)))
		}
		for _, x := range all {
			for _, y := range all {
				if x != y {
					x.knows(y)
				}
			}
		}
		for _, x := range all {
			for _, y := range all {
				if x != y {
					go func() {
						if err := x.Connect(t.Context(), y.id()); err != nil {
							t.Error(err)
						}
					}()
				}
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, x := range all {
			if got := len(x.Paths()); got != len(all)-1 {
				t.Errorf("%d paths", got)
			}
			x.Close()
		}
	})
}

package underlaytest

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestOuterPortsAreChosenAsConfigured(t *testing.T) {
	inner2 := netip.MustParseAddr("192.168.1.3")
	for name, c := range map[string]struct {
		cfg           NATConfig
		first, second func(uint16) bool // the outer ports of two hosts that both send from firstPort
	}{
		"kept where free": {NATConfig{}, func(p uint16) bool { return p == firstPort }, func(p uint16) bool { return p != firstPort }},
		"overloaded":      {NATConfig{Overload: true}, func(p uint16) bool { return p == firstPort }, func(p uint16) bool { return p == firstPort }},
		"in order":        {NATConfig{Sequential: true}, func(p uint16) bool { return p == 30000 }, func(p uint16) bool { return p == 30001 }},
		"random":          {NATConfig{RandomPorts: true}, func(p uint16) bool { return p != firstPort }, func(p uint16) bool { return p != firstPort }},
		"parity":          {NATConfig{RandomPorts: true, Parity: true}, func(p uint16) bool { return p%2 == 0 }, func(p uint16) bool { return p%2 == 0 }},
	} {
		synctest.Test(t, func(t *testing.T) {
			var n Network
			b := newBox(t, n.Host(server))
			c.cfg.External = outer
			nat := n.NAT(c.cfg)
			one, two := newBox(t, nat.Host(inner)), newBox(t, nat.Host(inner2))
			one.send(b.addr(server))
			first := b.arrived()
			two.send(b.addr(server))
			second := b.arrived()
			if len(first) != 1 || len(second) != 1 || !c.first(first[0].Port()) || !c.second(second[0].Port()) {
				t.Errorf("%s: seen as %v and %v", name, first, second)
			}
		})
	}
}

func TestPairedPoolsKeepAHostsAddress(t *testing.T) {
	for _, arbitrary := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var n Network
			b := newBox(t, n.Host(server))
			nat := n.NAT(NATConfig{External: outer, Pool: []netip.Addr{netip.MustParseAddr("198.51.100.2")}, Arbitrary: arbitrary})
			h := nat.Host(inner)
			seen := map[netip.Addr]bool{}
			for range 20 {
				newBox(t, h).send(b.addr(server))
				for _, from := range b.arrived() {
					seen[from.Addr()] = true
				}
			}
			if (len(seen) == 2) != arbitrary {
				t.Errorf("arbitrary %v: seen as %v", arbitrary, seen)
			}
		})
	}
}

func TestIPv6BehindARouterIsFilteredAndNotTranslated(t *testing.T) {
	six, away := netip.MustParseAddr("2001:db8:1::2"), netip.MustParseAddr("2001:db8:2::2")
	for name, c := range map[string]struct {
		cfg                NATConfig
		out, back, unasked bool
	}{
		"none":     {NATConfig{}, false, false, false},
		"firewall": {NATConfig{IPv6: true, Filtering: AddressAndPortDependent}, true, true, false},
		"open":     {NATConfig{IPv6Open: true}, true, true, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var n Network
			far := n.Host(away)
			b, stranger := newBox(t, far), newBox(t, far)
			c.cfg.External = outer
			client := newBox(t, n.NAT(c.cfg).Host(inner, six))
			client.send(b.addr(away))
			if got := b.arrived(); (len(got) == 1 && got[0] == client.addr(six)) != c.out {
				t.Errorf("%s: seen as %v", name, got)
			}
			b.send(client.addr(six))
			if got := len(client.arrived()) == 1; got != c.back {
				t.Errorf("%s: the answer came back: %v", name, got)
			}
			stranger.send(client.addr(six))
			if got := len(client.arrived()) == 1; got != c.unasked {
				t.Errorf("%s: unasked came in: %v", name, got)
			}
		})
	}
}

func TestForwardedPortsLetAnybodyInUntilTheyExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		public := n.Host(server)
		b := newBox(t, public)
		nat := n.NAT(NATConfig{External: outer, Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent})
		hidden := nat.Host(inner)
		client := newBox(t, hidden)
		hole := netip.AddrPortFrom(outer, 51820)
		if !nat.Forward(UDP, hole.Port(), client.addr(inner), time.Hour) || nat.Forward(UDP, hole.Port(), netip.MustParseAddrPort("192.168.1.9:1"), 0) {
			t.Error("a port was refused that is free, or given twice")
		}
		b.send(hole)
		client.send(b.addr(server))
		if in, out := client.arrived(), b.arrived(); len(in) != 1 || len(out) != 1 || out[0] != hole {
			t.Errorf("in: %v, out as %v", in, out)
		}
		at := netip.AddrPortFrom(inner, 443)
		l, err := hidden.ListenTCP(at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		nat.Forward(TCP, 443, at, 0)
		c, err := public.DialTCP(t.Context(), netip.AddrPortFrom(outer, 443))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		time.Sleep(time.Hour + 1)
		b.send(hole)
		if len(client.arrived()) != 0 {
			t.Error("the port is open after its time")
		}
	})
}

func TestAHostsFirewall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		a, b := n.Host(server), n.Host(other)
		l, err := a.ListenTCP(netip.AddrPortFrom(server, 443))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		boxA, boxB := newBox(t, a), newBox(t, b)
		dial := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			c, err := b.DialTCP(ctx, netip.AddrPortFrom(server, 443))
			if err == nil {
				c.Close()
			}
			return err
		}
		a.SetFirewall(Firewall{Stateful: true})
		boxB.send(boxA.addr(server))
		if len(boxA.arrived()) != 0 || !errors.Is(dial(), context.DeadlineExceeded) {
			t.Error("somebody came in unasked")
		}
		boxA.send(boxB.addr(other))
		boxB.send(boxA.addr(server))
		if len(boxA.arrived()) != 1 || len(boxB.arrived()) != 1 {
			t.Error("the answer did not come in")
		}
		a.SetFirewall(Firewall{DropUDP: true})
		boxA.send(boxB.addr(other))
		if err := dial(); err != nil || len(boxB.arrived()) != 0 {
			t.Errorf("UDP passed, or TCP did not: %v", err)
		}
	})
}

func TestARouterThatRebootsOrIsRenumberedForgetsItsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		public := n.Host(server)
		l, err := public.ListenTCP(netip.AddrPortFrom(server, 443))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		nat := n.NAT(NATConfig{External: outer})
		hidden := nat.Host(inner)
		c, err := hidden.DialTCP(t.Context(), netip.AddrPortFrom(server, 443))
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		nat.Reboot()
		d.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if k, err := d.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes passed without a mapping", k)
		}
		b, client := newBox(t, public), newBox(t, hidden)
		nat.Renumber(netip.MustParseAddr("198.51.100.77"))
		client.send(b.addr(server))
		if got := b.arrived(); len(got) != 1 || got[0].Addr() != nat.External() {
			t.Errorf("seen as %v", got)
		}
		c.Close()
		d.Close()
	})
}

func BenchmarkPacketsThroughANATAndThreeLinks(b *testing.B) {
	var n Network
	far := n.Host(server)
	h := n.NAT(NATConfig{External: outer}).Host(inner)
	link := Link{Latency: time.Microsecond, Jitter: time.Microsecond, Loss: 0.01}
	h.SetLink(link, link)
	far.SetLink(link, link)
	n.SetWay(nil, nil, link)
	if _, _, err := h.Open(1000); err != nil {
		b.Fatal(err)
	}
	ep := &Endpoint{AddrPort: netip.AddrPortFrom(server, 1000)}
	packet := [][]byte{make([]byte, 1200)}
	b.ReportAllocs()
	for b.Loop() {
		if err := h.Send(packet, ep); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
}

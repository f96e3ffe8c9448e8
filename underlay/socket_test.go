package underlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

func TestMembersFindEachOther(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 10 * time.Millisecond }})
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)

		began := time.Now()
		a.mustConnect(b)
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("connecting took %v, want two round trips of 20ms at most", took)
		}
		p, ok := a.Path(b.id())
		if !ok || p.Kind != PathDirect || p.Endpoint != netip.MustParseAddrPort("192.0.2.2:51820") || p.MTU != mtuFloor {
			t.Errorf("path %+v", p)
		}
		time.Sleep(10 * time.Millisecond) // our answer to its challenge is on the way
		synctest.Wait()
		// The other side has a path without having asked.
		if p, ok := b.Path(a.id()); !ok || p.Kind != PathDirect {
			t.Errorf("the other side's path %+v, %v", p, ok)
		}
		if rtt, err := a.Probe(t.Context(), b.id()); err != nil || rtt != 20*time.Millisecond {
			t.Errorf("probe %v, %v", rtt, err)
		}
		if got := a.Observed()[netip.MustParseAddrPort("192.0.2.1:51820")]; got != 1 {
			t.Errorf("observed %v", a.Observed())
		}

		// Everything travels.
		dev := attach(t, b.Socket)
		defer dev.down()
		if err := a.sendTunnel(b, "hello"); err != nil {
			t.Fatal(err)
		}
		if got := <-dev.got; got != a.id().String()+" hello............" {
			t.Errorf("tunnel packet %q", got)
		}
		if err := a.SendGossip(b.id(), []byte("rumour"), true); err != nil {
			t.Fatal(err)
		}
		if g := <-b.Gossip(); string(g.Data) != "rumour" || g.FromID != a.id() {
			t.Errorf("gossip %+v", g)
		}
		quicPing(t, a, b)
	})
}

// quicPing sends a QUIC packet from a to b and looks at how it arrives.
func quicPing(t *testing.T, a, b *end) {
	t.Helper()
	from, to := a.PacketConn(), b.PacketConn()
	addr, ok := a.AddrOf(b.id())
	if !ok {
		t.Fatal("no address of the member")
	}
	if _, err := from.WriteTo([]byte{0xc0, 1, 2}, addr); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, who, err := to.ReadFrom(buf)
	if err != nil || n != 3 || who != net.Addr(Addr{a.key.Public().WireGuard}) {
		t.Errorf("QUIC packet of %d bytes from %v: %v", n, who, err)
	}
}

func TestAJoinerSpeaksToAMemberItHasNeverMet(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		joiner, member := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer joiner.Close()
		defer member.Close()

		addr, err := joiner.Contact(t.Context(), netip.MustParseAddrPort("192.0.2.2:51820"))
		if err != nil {
			t.Fatal(err)
		}
		if addr.Key != member.key.Public().WireGuard {
			t.Error("learned another key")
		}
		pc, theirs := joiner.PacketConn(), member.PacketConn()
		if _, err := pc.WriteTo([]byte{0xc0}, addr); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		n, from, err := theirs.ReadFrom(buf)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		if _, err := theirs.WriteTo([]byte{0xc1, 0}, from); err != nil {
			t.Fatal(err)
		}
		if n, _, err = pc.ReadFrom(buf); err != nil || n != 2 {
			t.Fatal(n, err)
		}

		// It is still a stranger: no tunnel packet of it gets to the device.
		dev := attach(t, member.Socket)
		defer dev.down()
		n2 := joiner.nodes.get(addr.Key)
		_ = n2.send([][]byte{wireGuard("sneaky")}, data)
		synctest.Wait()
		if len(dev.got) != 0 {
			t.Error("a stranger's tunnel packet was accepted")
		}
		// Admission makes it a member's at once, without another check.
		member.knows(joiner)
		_ = n2.send([][]byte{wireGuard("welcome")}, data)
		synctest.Wait()
		if len(dev.got) != 1 {
			t.Error("the admitted member's tunnel packet was dropped")
		}
	})
}

func TestStrangersAreForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		joiner, member := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer joiner.Close()
		defer member.Close()
		if _, err := joiner.Contact(t.Context(), netip.MustParseAddrPort("192.0.2.2:51820")); err != nil {
			t.Fatal(err)
		}
		if got := member.Stats().Strangers; got != 1 {
			t.Fatalf("%d strangers", got)
		}
		time.Sleep(strangerLife + 2*sweepInterval)
		synctest.Wait()
		if got := member.Stats(); got.Strangers != 0 || member.sources.get(netip.MustParseAddrPort("192.0.2.1:51820")) != nil {
			t.Errorf("still %d strangers", got.Strangers)
		}
	})
}

func TestConnectSaysWhatIsWrong(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		ctx := t.Context()
		if err := a.Connect(ctx, b.id()); !errors.Is(err, ErrUnknownNode) {
			t.Errorf("a node nobody knows: %v", err)
		}
		a.knows(b)
		a.hears(b)
		if err := a.Connect(ctx, b.id()); !errors.Is(err, ErrNoCandidates) {
			t.Errorf("a node without addresses: %v", err)
		}
		b.Close()
		a.Hint(b.id(), []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:51820")})
		began := time.Now()
		if err := a.Connect(ctx, b.id()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("a node that is down: %v", err)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("gave up after %v", took)
		}
		soon, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := a.Connect(soon, b.id()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a deadline: %v", err)
		}
		if _, err := a.Contact(ctx, netip.MustParseAddrPort("192.0.2.1:51820")); !errors.Is(err, ErrNoCandidates) {
			t.Errorf("ourselves: %v", err)
		}
		done := make(chan error)
		go func() { done <- a.Connect(ctx, b.id()) }()
		synctest.Wait()
		a.Close()
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("closed meanwhile: %v", err)
		}
	})
}

func TestPortInUseNamesThePort(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Skip(err)
	}
	defer c.Close()
	port := uint16(c.LocalAddr().(*net.UDPAddr).Port)
	_, err = Open(Config{Key: keys[0], Peers: peer.NewTable(keys[0].ID()), Port: port})
	var pe *PortError
	if !errors.Is(err, ErrPortInUse) || !errors.As(err, &pe) || pe.Port != port {
		t.Errorf("got %v", err)
	}
}

// TestRealSockets runs two nodes over loopback and the operating system's sockets, IPv4 and IPv6.
func TestRealSockets(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			addr := netip.MustParseAddr(ip)
			if l, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0")); err != nil {
				t.Skip(err)
			} else {
				l.Close()
			}
			a := open(t, 0, Config{Listen: []netip.Addr{addr}})
			defer a.Close()
			b := open(t, 1, Config{Listen: []netip.Addr{addr}})
			defer b.Close()
			a.knows(b)
			b.knows(a)
			a.mustConnect(b)
			dev := attach(t, b.Socket)
			for i := range 3 { // the device comes and goes; the socket stays
				waitFor(t, "tunnel packet", func() bool {
					if err := a.sendTunnel(b, "x"); err != nil {
						t.Fatal(err)
					}
					select {
					case <-dev.got:
						return true
					case <-time.After(100 * time.Millisecond):
						return false
					}
				})
				quicPing(t, a, b)
				dev.down()
				if _, err := a.Probe(t.Context(), b.id()); err != nil {
					t.Fatalf("round %d: the pump did not take over: %v", i, err)
				}
				dev.up()
			}
			dev.down()
		})
	}
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 50 {
		if ok() {
			return
		}
	}
	t.Fatal("no " + what)
}

//go:build linux

package nat_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

// TestCoturnTellsWhatTheNATDoes runs a discovery from behind a router against a real server with two addresses.
func TestCoturnTellsWhatTheNATDoes(t *testing.T) {
	lab.Need(t, "nft", "conntrack", "turnserver")
	for _, c := range []struct {
		nat     lab.NAT
		kind    peer.NAT
		mapping nat.Dependence
	}{
		{lab.EasyNAT, peer.NATEasy, nat.EndpointIndependent},
		{lab.HardNAT, peer.NATHard, nat.AddressAndPortDependent},
	} {
		l := lab.New(t)
		server := l.Host("server")
		if out, err := server.Run("ip", "addr", "add", "192.0.2.100/24", "dev", "eth0"); err != nil {
			t.Fatal(out, err)
		}
		p := server.Start("turnserver", "-S", "-n", "-L", server.IPv4.String(), "-L", "192.0.2.100", "-p", "3478",
			"--no-tls", "--no-dtls", "--no-cli", "-l", "stdout", "--pidfile", l.Dir()+"/turn.pid", "--userdb", l.Dir()+"/turn.db")
		h := l.Router("router", lab.RouterConfig{NAT: c.nat}).AddHost("h")
		conn, err := h.ListenPacket("udp4", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var b nat.Behaviour
		err = lab.Eventually(20*time.Second, func() error { // the server takes its time to start
			d := nat.NewDiscovery([]nat.Server{{Addr: netip.AddrPortFrom(server.IPv4, 3478)}}, nil)
			discover(t, d, conn.(*net.UDPConn))
			if b = d.Behaviour(); b.UDP != nat.Yes {
				return errors.New("no answer")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if b.Kind() != c.kind || b.Mapping != c.mapping || b.Filtering != nat.AddressAndPortDependent {
			t.Errorf("%s: %s, %+v\n%s", c.nat, b.Kind(), b, p.Output())
		}
	}
}

// discover carries out a discovery over a socket: each question every 100 ms until it is answered or its time is over.
func discover(t *testing.T, d *nat.Discovery, conn *net.UDPConn) {
	t.Helper()
	var open []nat.Ask
	ask, next := d.Step(nil, time.Now())
	for !next.IsZero() {
		open = append(open, ask...)
		for _, a := range open {
			if _, err := conn.WriteToUDPAddrPort(nat.ChangeRequest(nat.TransactionID{byte(a.Number)}, a.Change), a.To); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		ask = nil
		b := make([]byte, 1500)
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			ask, next = d.Step(nil, time.Now())
			continue
		}
		if m, err := nat.Parse(b[:n]); err == nil && m.Kind == nat.Response {
			ask, next = d.Step(&nat.Reply{Number: int(m.Transaction[0]), From: from, Mapped: m.Mapped, Other: m.Other}, time.Now())
		}
	}
}

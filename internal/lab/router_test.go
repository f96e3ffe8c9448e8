package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

const (
	// answerWait is how long an answer may take before a request is sent again.
	answerWait = 200 * time.Millisecond
	// silent is how long to listen for what should not come, after a marker that came.
	silent = 300 * time.Millisecond
)

// needRouters skips where no router can be built.
func needRouters(t *testing.T, tools ...string) {
	t.Helper()
	Need(t, append([]string{"nft", "conntrack"}, tools...)...)
}

// open opens a UDP socket on a host.
func open(t *testing.T, h *Host, addr string) *net.UDPConn {
	t.Helper()
	c, err := h.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// reflector answers every packet with the address it came from, until the test ends.
func reflector(t *testing.T, h *Host) netip.AddrPort {
	t.Helper()
	c := open(t, h, ":3478")
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort([]byte(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()).String()), from)
		}
	}()
	return netip.AddrPortFrom(h.IPv4, 3478)
}

// mapped asks a reflector how it sees a socket.
func mapped(c *net.UDPConn, server netip.AddrPort) (netip.AddrPort, error) {
	var seen netip.AddrPort
	err := Eventually(2*time.Second, func() error {
		if _, err := c.WriteToUDPAddrPort([]byte("who am I?"), server); err != nil {
			return err
		}
		b := make([]byte, 64)
		c.SetReadDeadline(time.Now().Add(answerWait))
		n, from, err := c.ReadFromUDPAddrPort(b)
		switch {
		case err != nil:
			return err
		case from.Addr().Unmap() != server.Addr():
			return fmt.Errorf("a late answer of %s", from)
		}
		seen, err = netip.ParseAddrPort(string(b[:n]))
		return err
	})
	return seen, err
}

func receive(c *net.UDPConn, wait time.Duration) (string, error) {
	b := make([]byte, 2048)
	c.SetReadDeadline(time.Now().Add(wait))
	n, _, err := c.ReadFromUDPAddrPort(b)
	return string(b[:n]), err
}

func mustMap(t *testing.T, c *net.UDPConn, server netip.AddrPort) netip.AddrPort {
	t.Helper()
	seen, err := mapped(c, server)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// crosses tells whether a packet from one socket arrives at another, which sends nothing.
func crosses(from *net.UDPConn, to netip.AddrPort, at *net.UDPConn) bool {
	for range 5 {
		from.WriteToUDPAddrPort([]byte("a stranger"), to)
	}
	for {
		got, err := receive(at, silent)
		if err != nil || got == "a stranger" {
			return err == nil
		}
	}
}

func TestNATsMapAndFilterAsTheirKindSays(t *testing.T) {
	needRouters(t)
	l := New(t)
	first, second := l.Host("first"), l.Host("second")
	one, two := reflector(t, first), reflector(t, second)
	stranger := open(t, second, ":4000")
	alone := func(name string, kind NAT) (*Router, netip.Addr) {
		r := l.Router(name, RouterConfig{NAT: kind})
		return r, r.External
	}
	for _, c := range []struct {
		name  string
		build func() (r *Router, external netip.Addr)
		same  bool
	}{
		{"easy", func() (*Router, netip.Addr) { return alone("easy", EasyNAT) }, true},
		{"hard", func() (*Router, netip.Addr) { return alone("hard", HardNAT) }, false},
		{"carrier", func() (*Router, netip.Addr) {
			carrier := l.Router("carrier", RouterConfig{NAT: EasyNAT, Subnet: "100.64.0.0/24"})
			return l.Router("home", RouterConfig{NAT: EasyNAT, Behind: carrier}), carrier.External
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, external := c.build()
			inside := open(t, r.AddHost("in-"+c.name), ":51820")
			a, b := mustMap(t, inside, one), mustMap(t, inside, two)
			if a.Addr() != external || b.Addr() != external || (a == b) != c.same {
				t.Errorf("seen as %s and %s; want the address %s, the same port: %v", a, b, external, c.same)
			}
			if crosses(stranger, a, inside) {
				t.Error("a packet nobody asked for came in")
			}
			if c.same {
				// The host asks the stranger, through the same mapping, and from then on hears it.
				inside.WriteToUDPAddrPort([]byte("knock"), netip.AddrPortFrom(second.IPv4, 4000))
				if got, err := receive(stranger, soon); err != nil || got != "knock" {
					t.Fatal(got, err)
				}
				if !crosses(stranger, a, inside) {
					t.Error("the mapping is closed to whom the host has sent to")
				}
			}
			r.Rebind()
			if again := mustMap(t, inside, one); again == a {
				t.Errorf("the mapping %s survived", a)
			} else if c.same && mustMap(t, inside, two) != again {
				t.Error("another kind of NAT since the mapping was lost")
			}
		})
	}
}

func TestTwoEasyNATsCanBePunchedThroughAndHardOnesNot(t *testing.T) {
	needRouters(t)
	l := New(t)
	server := reflector(t, l.Host("server"))
	for _, c := range []struct {
		kind NAT
		want bool
	}{{EasyNAT, true}, {HardNAT, false}} {
		t.Run(string(c.kind), func(t *testing.T) {
			a := open(t, l.Router("left-"+string(c.kind), RouterConfig{NAT: c.kind}).AddHost("a-"+string(c.kind)), ":51820")
			b := open(t, l.Router("right-"+string(c.kind), RouterConfig{NAT: c.kind}).AddHost("b-"+string(c.kind)), ":51820")
			ours, theirs := mustMap(t, a, server), mustMap(t, b, server)
			// The early one is lost at the other's firewall and opens the sender's.
			a.WriteToUDPAddrPort([]byte("early"), theirs)
			b.WriteToUDPAddrPort([]byte("late"), ours)
			got, err := receive(a, silent)
			for err == nil && got != "late" { // the reflector's second answer
				got, err = receive(a, silent)
			}
			if (err == nil && got == "late") != c.want {
				t.Errorf("punched: %q, %v; want %v", got, err, c.want)
			}
		})
	}
}

func TestWhereUDPIsBlockedTCPGoesOut(t *testing.T) {
	needRouters(t)
	l := New(t)
	server := l.Host("server")
	udp := reflector(t, server)
	h := l.Router("office", RouterConfig{NAT: EasyNAT, BlockUDP: true}).AddHost("h")
	if seen, err := mapped(open(t, h, ":0"), udp); err == nil {
		t.Errorf("UDP came back from %s", seen)
	}
	listener, err := server.Listen("0.0.0.0:443")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c, err := h.Dial("tcp", netip.AddrPortFrom(server.IPv4, 443).String(), soon)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestIPv6OnlyHostsHaveNothingElseAndAFirewall(t *testing.T) {
	needRouters(t, "ping")
	l := New(t)
	server := l.Host("server")
	a := l.Router("left", RouterConfig{IPv6Only: true}).AddHost("a")
	b := l.Router("right", RouterConfig{IPv6Only: true}).AddHost("b")
	if err := a.Ping(server.IPv6, soon); err != nil {
		t.Error(err)
	}
	if out, err := a.Run("ip", "-4", "-o", "addr", "show", "dev", "eth0"); err != nil || out != "" {
		t.Errorf("has IPv4: %s %v", out, err)
	}
	ours, theirs := open(t, a, ":51820"), open(t, b, ":51820")
	to := netip.AddrPortFrom(a.IPv6, 51820)
	if crosses(theirs, to, ours) {
		t.Error("a packet nobody asked for came in")
	}
	// On a busy machine packets of one side can be handled before an earlier one of the other: both sides repeat theirs, as punching does.
	err := Eventually(soon, func() error {
		ours.WriteToUDPAddrPort([]byte("knock"), netip.AddrPortFrom(b.IPv6, 51820))
		if !crosses(theirs, to, ours) {
			return errors.New("two firewalls cannot be punched through")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPortMappingIsOffered(t *testing.T) {
	needRouters(t, "miniupnpd")
	l := New(t)
	server := l.Host("server")
	one := reflector(t, server)
	stranger := open(t, server, ":4000")
	r := l.Router("fritz", RouterConfig{NAT: EasyNAT, PortMapping: true})
	h := r.AddHost("h")
	inside := open(t, h, ":51820")
	if seen := mustMap(t, inside, one); seen.Addr() != r.External {
		t.Errorf("seen as %s, want the address %s", seen, r.External)
	}
	// NAT-PMP (RFC 6886 §3.3): map UDP port 51820 to 51821 for an hour.
	asking := open(t, h, ":0")
	var answer string
	err := Eventually(soon, func() (err error) {
		asking.WriteToUDPAddrPort([]byte{0, 1, 0, 0, 0xca, 0x6c, 0xca, 0x6d, 0, 0, 0x0e, 0x10}, netip.MustParseAddrPort("192.168.1.1:5351"))
		answer, err = receive(asking, answerWait)
		return err
	})
	if err != nil || len(answer) != 16 || answer[2] != 0 || answer[3] != 0 {
		t.Fatalf("NAT-PMP said % x, %v", answer, err)
	}
	if !crosses(stranger, netip.AddrPortFrom(r.External, 51821), inside) {
		t.Error("a stranger cannot get in through the mapped port")
	}
}

func TestWhatIsDroppedIsDroppedOneWayAndInSilence(t *testing.T) {
	needRouters(t)
	l := New(t)
	h := l.Host("server")
	server := reflector(t, h)
	for _, client := range []*Host{l.Host("public"), l.Router("r", RouterConfig{NAT: EasyNAT}).AddHost("private")} {
		t.Run(client.Name, func(t *testing.T) {
			c := open(t, client, ":0")
			mustMap(t, c, server)
			for _, way := range []Direction{Out, In} {
				undo := client.Drop(way, map[Direction]string{Out: "ip daddr ", In: "ip saddr "}[way]+h.IPv4.String())
				if _, err := c.WriteToUDPAddrPort([]byte("lost"), server); err != nil {
					t.Errorf("%s: the sender is told: %v", way, err)
				}
				if got, err := receive(c, silent); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s: %q %v", way, got, err)
				}
				undo()
				mustMap(t, c, server)
			}
			undo := client.DropLarger(1300) // bytes
			if !tooLarge(c, server, 1301) || tooLarge(c, server, 1300) {
				t.Error("the limit is not where it was set")
			}
			undo()
			if tooLarge(c, server, 1400) {
				t.Error("the limit stayed")
			}
		})
	}
}

// tooLarge tells whether an IP packet of that size is lost.
func tooLarge(c *net.UDPConn, to netip.AddrPort, size int) bool {
	for range 5 {
		c.WriteToUDPAddrPort(make([]byte, size-28), to)
	}
	if _, err := receive(c, silent); err != nil {
		return true
	}
	for { // the answers to the others
		if _, err := receive(c, answerWait); err != nil {
			return false
		}
	}
}

func TestAHostMovesAndHasTwoUplinks(t *testing.T) {
	needRouters(t, "ping")
	l := New(t)
	server := l.Host("server")
	one := reflector(t, server)
	cable, mobile := l.Router("cable", RouterConfig{NAT: EasyNAT}), l.Router("mobile", RouterConfig{NAT: HardNAT, Subnet: "10.9.0.0/24"})
	h := cable.AddHost("h")
	before := h.IPv4
	h.Readdress()
	if err := h.Ping(server.IPv4, soon); err != nil || h.IPv4 == before {
		t.Errorf("moved from %s to %s: %v", before, h.IPv4, err)
	}
	second := mobile.Plug(h)
	c := open(t, h, ":0")
	for _, step := range []struct {
		do   func()
		want *Router
	}{{func() {}, cable}, {h.Cut, mobile}, {h.Restore, cable}, {second.Cut, cable}} {
		step.do()
		err := Eventually(soon, func() error {
			seen, err := mapped(c, one)
			if err == nil && seen.Addr() != step.want.External {
				err = fmt.Errorf("seen as %s, want %s", seen, step.want.External)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestARouterWithANarrowWayOutSaysSo(t *testing.T) {
	needRouters(t, "ping")
	l := New(t)
	server := l.Host("server")
	r := l.Router("r", RouterConfig{NAT: EasyNAT})
	h := r.AddHost("h")
	if err := h.Ping(server.IPv4, soon); err != nil {
		t.Fatal(err)
	}
	r.SetMTU(1280)
	out, err := h.Run("ping", "-n", "-c", "2", "-W", "1", "-M", "do", "-s", "1372", server.IPv4.String())
	if err == nil || !strings.Contains(out, "mtu = 1280") && !strings.Contains(out, "mtu=1280") {
		t.Errorf("want to be told of 1280 bytes: %s", out)
	}
	for _, c := range []interface{ SetMTU(int) }{h, r, server} {
		c.SetMTU(9000)
	}
	h.Run("ip", "route", "flush", "cache")
	if out, err := h.Run("ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "8972", server.IPv4.String()); err != nil {
		t.Errorf("9000 bytes do not fit: %s", out)
	}
}

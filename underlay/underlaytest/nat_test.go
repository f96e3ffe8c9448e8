package underlaytest

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var (
	inner  = netip.MustParseAddr("192.168.1.2")
	outer  = netip.MustParseAddr("198.51.100.1")
	server = netip.MustParseAddr("192.0.2.1")
	other  = netip.MustParseAddr("192.0.2.2")
)

// box is a host's spare socket that remembers what arrives.
type box struct {
	t    *testing.T
	conn net.PacketConn
	from chan netip.AddrPort
}

func newBox(t *testing.T, h *Host) *box {
	c, err := h.OpenSpare()
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t, c, make(chan netip.AddrPort, 100)}
	go func() {
		for buf := make([]byte, 100); ; {
			_, a, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			b.from <- a.(*net.UDPAddr).AddrPort()
		}
	}()
	t.Cleanup(func() { c.Close() })
	return b
}

func (b *box) addr(ip netip.Addr) netip.AddrPort {
	return netip.AddrPortFrom(ip, uint16(b.conn.LocalAddr().(*net.UDPAddr).Port))
}

func (b *box) send(to netip.AddrPort) {
	if _, err := b.conn.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(to)); err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
}

// arrived returns where packets came from since the last call.
func (b *box) arrived() (out []netip.AddrPort) {
	synctest.Wait()
	for len(b.from) > 0 {
		out = append(out, <-b.from)
	}
	return out
}

func TestMappingsDependOnWhatTheyShould(t *testing.T) {
	for _, c := range []struct {
		mapping Dependence
		ports   int // to two ports of one server and one of another
	}{{EndpointIndependent, 1}, {AddressDependent, 2}, {AddressAndPortDependent, 3}} {
		synctest.Test(t, func(t *testing.T) {
			var n Network
			s, s2 := n.Host(server), n.Host(other)
			nat := n.NAT(NATConfig{External: outer, Mapping: c.mapping})
			b1, b2, b3 := newBox(t, s), newBox(t, s), newBox(t, s2)
			client := newBox(t, nat.Host(inner))
			var ports []netip.AddrPort
			for _, to := range []struct {
				b  *box
				ip netip.Addr
			}{{b1, server}, {b2, server}, {b3, other}, {b1, server}} {
				client.send(to.b.addr(to.ip))
				for _, from := range to.b.arrived() {
					if from.Addr() != outer {
						t.Errorf("from %s", from)
					}
					if !slices.Contains(ports, from) {
						ports = append(ports, from)
					}
				}
			}
			if len(ports) != c.ports || nat.Mappings() != c.ports {
				t.Errorf("mapping %d: seen as %v", c.mapping, ports)
			}
		})
	}
}

func TestFiltersLetInWhatTheyShould(t *testing.T) {
	for _, c := range []struct {
		filtering                  Dependence
		samePort, sameHost, others bool
	}{{EndpointIndependent, true, true, true}, {AddressDependent, true, true, false}, {AddressAndPortDependent, true, false, false}} {
		synctest.Test(t, func(t *testing.T) {
			var n Network
			s, s2 := n.Host(server), n.Host(other)
			nat := n.NAT(NATConfig{External: outer, Filtering: c.filtering})
			b1, b2, b3 := newBox(t, s), newBox(t, s), newBox(t, s2)
			client := newBox(t, nat.Host(inner))
			hole := client.addr(outer) // the port is kept
			b1.send(hole)
			if len(client.arrived()) != 0 {
				t.Error("a packet came in unasked")
			}
			client.send(b1.addr(server))
			for b, want := range map[*box]bool{b1: c.samePort, b2: c.sameHost, b3: c.others} {
				b.send(hole)
				if got := len(client.arrived()) == 1; got != want {
					t.Errorf("filtering %d: passed %v, want %v", c.filtering, got, want)
				}
			}
		})
	}
}

func TestMappingsExpireAndAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		b := newBox(t, n.Host(server))
		nat := n.NAT(NATConfig{External: outer, Lifetime: 30 * time.Second, Mapping: AddressAndPortDependent})
		client := newBox(t, nat.Host(inner))
		client.send(b.addr(server))
		first := b.arrived()[0]
		time.Sleep(29 * time.Second)
		client.send(b.addr(server))
		b.arrived()
		time.Sleep(29 * time.Second)
		b.send(first)
		if len(client.arrived()) != 1 {
			t.Error("a packet out did not keep the mapping")
		}
		time.Sleep(2 * time.Second)
		b.send(first)
		if len(client.arrived()) != 0 {
			t.Error("the mapping outlived its time")
		}
		client.send(b.addr(server))
		if second := b.arrived()[0]; second == first {
			t.Error("the mapping came back")
		}
		nat.Reboot()
		if nat.Mappings() != 0 {
			t.Error("mappings survived")
		}
	})
}

func TestNATsStandBehindNATs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		b := newBox(t, n.Host(server))
		carrier := n.NAT(NATConfig{External: outer})
		home := carrier.NAT(NATConfig{External: netip.MustParseAddr("100.64.0.2"), Filtering: AddressAndPortDependent})
		neighbour := newBox(t, carrier.Host(netip.MustParseAddr("100.64.0.3")))
		client := newBox(t, home.Host(inner))
		client.send(b.addr(server))
		seen := b.arrived()
		if len(seen) != 1 || seen[0].Addr() != outer {
			t.Fatalf("seen as %v", seen)
		}
		b.send(seen[0])
		if len(client.arrived()) != 1 {
			t.Error("the answer did not come back")
		}
		client.send(neighbour.addr(netip.MustParseAddr("100.64.0.3")))
		if got := neighbour.arrived(); len(got) != 1 || got[0].Addr() != netip.MustParseAddr("100.64.0.2") {
			t.Errorf("the neighbour saw %v", got)
		}
	})
}

func TestHairpinAndBlockedUDP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		b := newBox(t, n.Host(server))
		nat := n.NAT(NATConfig{External: outer})
		host := nat.Host(inner)
		one, two := newBox(t, host), newBox(t, host)
		two.send(b.addr(server))
		hole := b.arrived()[0]
		one.send(hole)
		if len(two.arrived()) != 0 {
			t.Error("a hairpin that is not there")
		}
		nat.Set(NATConfig{Hairpin: true})
		one.send(hole)
		if got := two.arrived(); len(got) != 1 || got[0].Addr() != outer {
			t.Errorf("hairpin gave %v", got)
		}
		nat.Set(NATConfig{DropUDP: true})
		one.send(b.addr(server))
		if len(b.arrived()) != 0 {
			t.Error("UDP passed")
		}
	})
}

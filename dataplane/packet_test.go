package dataplane

import (
	"net/netip"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

func FuzzDestination(f *testing.F) {
	a4, b4 := netip.MustParseAddr("10.86.0.1"), netip.MustParseAddr("10.86.0.2")
	a6, b6 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	f.Add([]byte{})
	f.Add([]byte{0x45})
	f.Add(udp4(a4, b4, 1))
	f.Add(udp6(a6, b6, 1))
	f.Add(udp6(a6, b6, 1)[:39])
	f.Fuzz(func(t *testing.T, packet []byte) {
		dst, ok := destination(packet)
		src, also := source(packet)
		if ok != also {
			t.Fatal("a destination without a source, or the other way round")
		}
		if !ok {
			if answer, any := unreachable(packet, a4); any {
				t.Fatalf("answered what is no packet: %x", answer)
			}
			return
		}
		if h, err := ipv4.ParseHeader(packet); packet[0]>>4 == 4 && err == nil {
			if d, _ := netip.AddrFromSlice(h.Dst.To4()); d != dst {
				t.Fatalf("destination %v, another parser says %v", dst, d)
			}
		}
		if h, err := ipv6.ParseHeader(packet); packet[0]>>4 == 6 && err == nil {
			if d, _ := netip.AddrFromSlice(h.Dst); d != dst {
				t.Fatalf("destination %v, another parser says %v", dst, d)
			}
		}
		from := a4
		if src.Is6() {
			from = a6
		}
		for _, kind := range []func([]byte, netip.Addr) ([]byte, bool){unreachable, prohibited} {
			if answer, ok := kind(packet, from); ok {
				checkUnreachable(t, answer[headroom:], src, from)
			}
		}
	})
}

// checkUnreachable verifies lengths and checksums, and that no error answers an error.
func checkUnreachable(t *testing.T, p []byte, to, from netip.Addr) {
	t.Helper()
	d, ok := destination(p)
	s, _ := source(p)
	if !ok || d != to || s != from {
		t.Fatalf("from %v to %v, want %v to %v", s, d, from, to)
	}
	header, limit, protocol := headerLen4, 576, protocolICMP4
	if to.Is6() {
		header, limit, protocol = headerLen6, 1280, protocolICMP6
		pseudo := uint32(sum(p[8:40], 0)) + uint32(len(p)-header) + protocolICMP6
		if sum(p[header:], pseudo) != 0xffff {
			t.Fatal("ICMPv6 checksum")
		}
	} else if sum(p[:header], 0) != 0xffff || sum(p[header:], 0) != 0xffff {
		t.Fatal("IPv4 or ICMP checksum")
	}
	if len(p) > limit {
		t.Fatalf("%d bytes, at most %d", len(p), limit)
	}
	m, err := icmp.ParseMessage(protocol, p[header:])
	if err != nil || (m.Type != ipv4.ICMPTypeDestinationUnreachable && m.Type != ipv6.ICMPTypeDestinationUnreachable) {
		t.Fatalf("message %+v, %v", m, err)
	}
	if _, again := unreachable(p, to); again {
		t.Fatal("an error would be answered with an error")
	}
}

func TestWhatTheFilterDeniesIsAnsweredAsProhibited(t *testing.T) {
	for _, c := range []struct {
		from, to string
		packet   func(a, b netip.Addr, n uint32) []byte
		code     int
	}{{"10.86.0.1", "10.86.0.2", udp4, 13}, {"fd00::1", "fd00::2", udp6, 1}} {
		from, to := netip.MustParseAddr(c.from), netip.MustParseAddr(c.to)
		answer, ok := prohibited(c.packet(from, to, 1), from)
		if !ok {
			t.Fatal("no answer")
		}
		checkUnreachable(t, answer[headroom:], from, from)
		header := headerLen4
		if from.Is6() {
			header = headerLen6
		}
		if got := int(answer[headroom+header+1]); got != c.code {
			t.Errorf("code %d, want %d", got, c.code)
		}
	}
}

func TestNoErrorAnswersWhatMustNotBeAnswered(t *testing.T) {
	a4, b4 := netip.MustParseAddr("10.86.0.1"), netip.MustParseAddr("10.86.0.2")
	good := udp4(a4, b4, 1)
	if _, ok := unreachable(good, a4); !ok {
		t.Fatal("a plain packet is not answered")
	}
	fragment := udp4(a4, b4, 1)
	fragment[7] = 5
	nobody := udp4(netip.IPv4Unspecified(), b4, 1)
	multicast := udp4(a4, netip.MustParseAddr("224.0.0.1"), 1)
	for name, p := range map[string][]byte{"later fragment": fragment, "from nobody": nobody, "multicast": multicast, "cut": good[:19]} {
		if _, ok := unreachable(p, a4); ok {
			t.Errorf("%s is answered", name)
		}
	}
	if _, ok := unreachable(good, netip.Addr{}); ok {
		t.Error("answered without an address to answer from")
	}
}

func TestOverlayRanges(t *testing.T) {
	o := overlay{netip.MustParsePrefix("10.86.0.0/16"), netip.MustParsePrefix("fd12::/48")}
	for addr, want := range map[string][2]bool{ // contained, broadcast
		"10.86.0.1": {true, false}, "10.86.255.255": {true, true}, "10.87.0.1": {false, false},
		"fd12::1": {true, false}, "fd13::1": {false, false}, "ff02::1": {false, false},
	} {
		a := netip.MustParseAddr(addr)
		if got := [2]bool{o.contains(a), o.broadcast(a)}; got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}

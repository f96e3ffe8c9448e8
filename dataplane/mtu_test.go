package dataplane

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// padded is what the device makes of a packet's size (wireguard-go, device/send.go calculatePaddingSize) when told the MTU.
func padded(size, mtu int) int {
	last := size
	if last > mtu {
		last %= mtu
	}
	return size - last + min((last+15)&^15, mtu)
}

func TestPaddingNeverGoesBeyondThePath(t *testing.T) {
	for limit := MinMTU; limit <= MaxMTU; limit++ {
		mtu := tunnelMTU(limit, MaxMTU)
		if mtu > limit || mtu < limit-15 {
			t.Fatalf("%d of a path of %d", mtu, limit)
		}
		for size := max(mtu-40, 1); size <= mtu; size++ {
			if p := padded(size, DefaultMTU); p > limit {
				t.Fatalf("a packet of %d is padded to %d on a path of %d", size, p, limit)
			}
		}
	}
	for limit, want := range map[int]int{0: MinMTU, 100: MinMTU, MinMTU: MinMTU, 1300: 1296, 1420: 1420, MaxMTU: MaxMTU, 20000: MaxMTU} {
		if got := tunnelMTU(limit, MaxMTU); got != want {
			t.Errorf("path of %d: %d, want %d", limit, got, want)
		}
	}
	if got := tunnelMTU(9000, 1420); got != 1420 {
		t.Errorf("%d through an interface of 1420", got)
	}
}

// sized returns a packet of the size, by udp4 or udp6.
func sized(packet []byte, size int) []byte {
	packet = append(packet, make([]byte, size-len(packet))...)
	if packet[0]>>4 == 4 {
		binary.BigEndian.PutUint16(packet[2:], uint16(size))
		resum(packet)
	} else {
		binary.BigEndian.PutUint16(packet[4:], uint16(size-headerLen6))
	}
	return packet
}

func resum(packet []byte) {
	packet[10], packet[11] = 0, 0
	binary.BigEndian.PutUint16(packet[10:], ^sum(packet[:headerLen4], 0))
}

func TestTooBigSaysHowMuchFits(t *testing.T) {
	a4, b4 := netip.MustParseAddr("10.86.0.1"), netip.MustParseAddr("10.86.0.2")
	a6, b6 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	for _, c := range []struct {
		packet   []byte
		protocol int
		header   int
		kind     icmp.Type
		at       int // of the MTU in the message
	}{
		{sized(udp4(a4, b4, 1), 1420), protocolICMP4, headerLen4, ipv4.ICMPTypeDestinationUnreachable, 6},
		{sized(udp6(a6, b6, 1), 1420), protocolICMP6, headerLen6, ipv6.ICMPTypePacketTooBig, 6},
	} {
		answer, ok := tooBig(c.packet, 1296)
		if !ok {
			t.Fatal("no answer")
		}
		p := answer[headroom:]
		src, _ := source(p)
		dst, _ := destination(p)
		from, _ := source(c.packet)
		to, _ := destination(c.packet)
		m, err := icmp.ParseMessage(c.protocol, p[c.header:])
		if err != nil || m.Type != c.kind || src != to || dst != from {
			t.Errorf("%+v from %v to %v, %v", m, src, dst, err)
		}
		if got := binary.BigEndian.Uint16(p[c.header+c.at:]); got != 1296 {
			t.Errorf("MTU %d", got)
		}
		if !bytes.HasPrefix(c.packet, p[c.header+headerLenICMP:]) {
			t.Error("the quote is not of the packet")
		}
		if c.protocol == protocolICMP4 && (m.Code != 4 || sum(p[:headerLen4], 0) != 0xffff || sum(p[headerLen4:], 0) != 0xffff) {
			t.Error("code or checksum")
		}
		if c.protocol == protocolICMP6 && sum(p[headerLen6:], uint32(sum(p[8:40], 0))+uint32(len(p)-headerLen6)+protocolICMP6) != 0xffff {
			t.Error("checksum")
		}
		if _, again := tooBig(p, 1280); again {
			t.Error("an error would be answered with an error")
		}
	}
}

func FuzzFragment(f *testing.F) {
	a, b := netip.MustParseAddr("10.86.0.1"), netip.MustParseAddr("10.86.0.2")
	f.Add(sized(udp4(a, b, 1), 1420), uint16(1280))
	f.Add([]byte{0x45}, uint16(20))
	f.Fuzz(func(t *testing.T, packet []byte, mtu uint16) {
		_, _ = tooBig(packet, int(mtu))
		parts := fragment(packet, int(mtu))
		if parts == nil {
			return
		}
		first := binary.BigEndian.Uint16(packet[6:])
		var whole []byte
		for i, p := range parts {
			field := binary.BigEndian.Uint16(p[6:])
			if len(p) > int(mtu) || int(binary.BigEndian.Uint16(p[2:])) != len(p) || sum(p[:headerLen4], 0) != 0xffff {
				t.Fatalf("part of %d bytes for an MTU of %d: %x", len(p), mtu, p[:headerLen4])
			}
			if int(field&offsetMask) != int(first&offsetMask)+len(whole)/8 || (field&moreFragments == 0) != (i == len(parts)-1 && first&moreFragments == 0) {
				t.Fatalf("part %d of %d: flags and offset %04x after %04x", i, len(parts), field, first)
			}
			whole = append(whole, p[headerLen4:]...)
		}
		if !bytes.Equal(whole, packet[headerLen4:]) {
			t.Fatal("the parts are not the whole")
		}
	})
}

func TestWhatDoesNotFitThePathIsAnsweredOrCut(t *testing.T) {
	w := newTestWorld(t, 2)
	nodes := w.startAll(func(c *Config) { c.PathMTU = func(identity.NodeID) int { return 1300 } })
	defer w.stopAll()
	a, b := nodes[0], nodes[1]
	if err := a.plane.Ensure(soon(t), b.id); err != nil {
		t.Fatal(err)
	}
	whole := sized(udp4(a.v4, b.v4, 1), 1400)
	df := sized(udp4(a.v4, b.v4, 2), 1400)
	df[6] = dontFragment >> 8
	resum(df)
	for _, p := range [][]byte{sized(udp4(a.v4, b.v4, 3), 1296), df, sized(udp6(a.v6, b.v6, 4), 1400), whole} {
		a.pipe.Inject(p)
	}
	if p := next(t, a.pipe); p[9] != protocolICMP4 || p[headerLen4+1] != 4 {
		t.Errorf("answer to an IPv4 packet: %x", p[:40])
	}
	if p := next(t, a.pipe); p[6] != protocolICMP6 || p[headerLen6] != 2 {
		t.Errorf("answer to an IPv6 packet: %x", p[:60])
	}
	if p := next(t, b.pipe); len(p) != 1296 {
		t.Errorf("%d bytes arrived of 1296", len(p))
	}
	var body []byte
	for range 2 {
		body = append(body, next(t, b.pipe)[headerLen4:]...)
	}
	if !bytes.Equal(body, whole[headerLen4:]) {
		t.Errorf("%d bytes arrived of %d, or others", len(body), len(whole)-headerLen4)
	}
	if s := a.plane.Stats(); s.DroppedTooLarge != 2 {
		t.Errorf("%d counted", s.DroppedTooLarge)
	}
}

// next returns the next packet for the host.
func next(t *testing.T, p *Pipe) []byte {
	t.Helper()
	select {
	case b := <-p.Packets():
		return b
	case <-time.After(10 * time.Second):
		t.Fatal("no packet")
		return nil
	}
}

func TestUserspaceTCPLearnsThePathsMTU(t *testing.T) {
	w := newTestWorld(t, 2)
	w.setTap(func(_, _ identity.NodeID, packet []byte) bool { return len(packet) <= 1300+32 })
	for _, n := range w.list() {
		n.start(func(c *Config) {
			var err error
			if c.Network, err = OpenUserspace(n.prefixes(), 0); err != nil {
				t.Fatal(err)
			}
			c.PathMTU = func(identity.NodeID) int { return 1300 }
		})
	}
	defer w.stopAll()
	a, b := w.list()[0], w.list()[1]
	for _, to := range []netip.Addr{b.v4, b.v6} {
		l, err := b.network.ListenTCP(netip.AddrPortFrom(to, 80))
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan int64, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				got <- 0
				return
			}
			defer c.Close()
			n, _ := io.Copy(io.Discard, c)
			got <- n
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		c, err := a.network.DialContext(ctx, "tcp", netip.AddrPortFrom(to, 80))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		const size = 300_000
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Errorf("to %v: %v", to, err)
		}
		_ = c.Close()
		select {
		case n := <-got:
			if n != size {
				t.Errorf("to %v: %d bytes arrived", to, n)
			}
		case <-ctx.Done():
			t.Errorf("to %v: stuck", to)
		}
		cancel()
		_ = l.Close()
	}
}

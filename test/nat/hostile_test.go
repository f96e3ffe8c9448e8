package main

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

const (
	port = 51820
	// quiet is how long to wait for an answer that should not come.
	quiet = 300 * time.Millisecond
	// magic is STUN's cookie (RFC 8489 §5).
	magic = 0x2112a442
)

// attacked is a mesh of two public nodes with traffic between them, and an attacker beside them.
type attacked struct {
	*world
	attacker *lab.Host
	echo     netip.AddrPort // on the second node, in the overlay
}

func newAttacked(t *testing.T, extra ...string) *attacked {
	t.Helper()
	lab.Need(t, append([]string{"nft", "conntrack", "ping", lab.TUN}, extra...)...)
	a := &attacked{world: newWorld(t, withoutIPv6)}
	a.attacker = a.lab.Host("attacker")
	to := a.hubs[1]
	a.echo = netip.AddrPortFrom(to.Addresses()[0], to.Echo())
	if err := a.hubs[0].Talk(a.echo, 1<<10); err != nil {
		t.Fatal(err)
	}
	return a
}

// withoutIPv6 keeps everything on the one IP version that the attacker's tools speak.
func withoutIPv6(h *lab.Host) { h.Sysctl("ipv6/conf/eth0/disable_ipv6", "1") }

// underlayOf is a node's port on the physical network.
func underlayOf(n *mesh.Node) netip.AddrPort { return netip.AddrPortFrom(n.Host.IPv4, port) }

// ask opens the attacker's own UDP socket.
func (a *attacked) ask(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := a.attacker.ListenPacket("udp4", ":51820")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// received adds up what arrives at a socket until it is quiet.
func received(c *net.UDPConn) (packets, bytes int) {
	b := make([]byte, 1<<16)
	for {
		c.SetReadDeadline(time.Now().Add(quiet))
		n, err := c.Read(b)
		if err != nil {
			return packets, bytes
		}
		packets, bytes = packets+1, bytes+n
	}
}

// binding is a STUN message with a random transaction and these attributes after the header.
func binding(kind uint16, attributes ...byte) []byte {
	b := make([]byte, 20, 20+len(attributes))
	rand.Read(b)
	binary.BigEndian.PutUint16(b, kind)
	binary.BigEndian.PutUint16(b[2:], uint16(len(attributes)))
	binary.BigEndian.PutUint32(b[4:], magic)
	return append(b, attributes...)
}

// first makes random bytes that begin like a protocol.
func first(size int, begin ...byte) []byte {
	b := make([]byte, size)
	rand.Read(b)
	copy(b, begin)
	return b
}

func TestStrangersGetNoMoreBytesThanTheySend(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	joiner := mesh.Start(t, a.lab, a.lab.Host("joiner"))
	wire := sniff(t, a.hubs[0].Host)
	joiner.Join(a.token)
	kinds := map[string][][]byte{}
	for range 200 {
		kinds["stun binding"] = append(kinds["stun binding"], binding(1))
		kinds["stun binding, padded"] = append(kinds["stun binding, padded"], binding(1, first(104, 0, 0x26, 0, 100)...))
		kinds["stun with sender key"] = append(kinds["stun with sender key"], binding(1, first(36, 0xc3, 0x51, 0, 32)...))
		kinds["stun with key, padded"] = append(kinds["stun with key, padded"], binding(1, append(first(36, 0xc3, 0x51, 0, 32), first(204, 0, 0x26, 0, 200)...)...))
		kinds["wireguard handshake"] = append(kinds["wireguard handshake"], first(148, 1, 0, 0, 0))
		kinds["quic initial"] = append(kinds["quic initial"], first(1200, 0xc0, 0, 0, 0, 1, 8))
		kinds["gossip"] = append(kinds["gossip"], first(200, 0x20))
		kinds["relay frame"] = append(kinds["relay frame"], first(200, 0x30))
		kinds["one byte"] = append(kinds["one byte"], first(1))
	}
	for _, p := range wire.packets() { // what a real joiner said, from another address
		if p.from.Addr() == joiner.Host.IPv4 && p.to == underlayOf(a.hubs[0]) {
			kinds["a joiner's packets"] = append(kinds["a joiner's packets"], p.payload)
		}
	}
	if len(kinds["a joiner's packets"]) < 10 {
		t.Fatalf("saw only %d packets of the joiner", len(kinds["a joiner's packets"]))
	}
	c := a.ask(t)
	for name, packets := range kinds {
		out := 0
		for _, p := range packets {
			if _, err := c.WriteToUDPAddrPort(p, underlayOf(a.hubs[0])); err != nil {
				t.Fatal(err)
			}
			out += len(p)
		}
		answers, in := received(c)
		t.Logf("%-22s sent %6d bytes in %3d packets, got %6d bytes in %3d packets", name, out, len(packets), in, answers)
		// IPv4 and UDP headers count too: 28 bytes a packet.
		if in+28*answers > out+28*len(packets) {
			t.Errorf("%s: %d bytes drew %d", name, out, in)
		}
	}
}

func TestReplayedAndForgedChecksMoveNoPath(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	victim, other := a.hubs[0], a.hubs[1]
	wire := sniff(t, victim.Host)
	stream := victim.Steady(a.echo)
	// Path checks of the two, at least one with its answer, by the way of a fresh start of one of them.
	other.Kill()
	other.Start()
	other.Online(settled)
	var checks []datagram
	err := lab.Eventually(settled, func() error {
		checks = slices.DeleteFunc(wire.packets(), func(p datagram) bool {
			return len(p.payload) < 20 || binary.BigEndian.Uint32(p.payload[4:]) != magic || p.from.Addr() != other.Host.IPv4
		})
		if len(checks) < 4 {
			return fmt.Errorf("saw %d checks", len(checks))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mine := a.ask(t)
	forge := newForger(t, a.attacker)
	self := netip.AddrPortFrom(a.attacker.IPv4, port)
	sent := 0
	for round := range 200 {
		p := checks[round%len(checks)]
		for _, from := range []netip.AddrPort{self, underlayOf(other), netip.AddrPortFrom(other.Host.IPv4, 1024+uint16(round))} {
			if err := forge.send(datagram{from, underlayOf(victim), p.payload}); err != nil {
				t.Fatal(err)
			}
			sent += len(p.payload)
		}
		// An answer nobody asked for: "you are seen as the attacker" (XOR-MAPPED-ADDRESS, RFC 8489 §14.2).
		mapped := a.attacker.IPv4.As4()
		value := binary.BigEndian.Uint32(mapped[:]) ^ magic
		attribute := binary.BigEndian.AppendUint16([]byte{0, 0x20, 0, 8, 0, 1}, port^magic>>16)
		answer := binding(0x0101, binary.BigEndian.AppendUint32(attribute, value)...)
		if err := forge.send(datagram{underlayOf(other), underlayOf(victim), answer}); err != nil {
			t.Fatal(err)
		}
	}
	answers, bytes := received(mine)
	t.Logf("%d forged and replayed checks (%d bytes): %d answers (%d bytes) to the attacker's own address", 600, sent, answers, bytes)
	if bytes > sent {
		t.Errorf("%d bytes drew %d", sent, bytes)
	}
	if path := victim.Peer(other.Name).Path; path.Kind != "direct" || strings.Contains(path.Endpoint, a.attacker.IPv4.String()) {
		t.Errorf("the path is %+v", path)
	}
	var status struct {
		Self struct{ Endpoints []string }
	}
	victim.Get(&status, "status")
	for _, e := range status.Self.Endpoints {
		if strings.HasPrefix(e, a.attacker.IPv4.String()+":") {
			t.Errorf("the node believes to be at %s", e)
		}
	}
	if err := stream.Stop(settled); err != nil { // it lived through the other's restart; that pause is no matter here
		t.Error(err)
	}
}

func TestANonMemberCannotUseARelay(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	relay, member := a.hubs[0], a.hubs[1]
	c := a.ask(t)
	const frames, size = 20_000, 200
	before, heard := sentBytes(t, relay.Host), sniff(t, member.Host)
	for i := range frames {
		b := first(size, 0x30)
		binary.BigEndian.PutUint32(b[1:], uint32(i))
		c.WriteToUDPAddrPort(b, underlayOf(relay))
	}
	answers, bytes := received(c)
	out := sentBytes(t, relay.Host) - before
	t.Logf("%d relay frames, %d bytes: %d bytes back in %d packets, the relay sent %d bytes to anybody", frames, frames*size, bytes, answers, out)
	if bytes > 0 || out > frames*size/10 {
		t.Error("the relay worked for a stranger")
	}
	for _, p := range heard.packets() {
		if p.from == underlayOf(relay) && len(p.payload) > size-10 && p.payload[0] == 0x30 {
			t.Fatal("a stranger's frame was forwarded")
		}
	}
}

func sentBytes(t *testing.T, h *lab.Host) int {
	t.Helper()
	out, err := h.Run("cat", "/sys/class/net/eth0/statistics/tx_bytes")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

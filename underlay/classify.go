package underlay

import "github.com/phantommesh/phantommesh/nat"

// class is what the first bytes of a packet say it is (RFC 9443 is the pattern).
//
//	first byte                               class
//	0x01–0x04, then three zero bytes         WireGuard
//	0x00 or 0x01, cookie at bytes 4–7        STUN Binding message
//	0x40 bit set                             QUIC (RFC 9000 §17: the fixed bit)
//	0x20                                     gossip
//	0x30                                     relay frame
//	0x10, 0x11, 0x12 and nothing else        refresh, ping, pong of a kept path
type class uint8

const (
	classUnknown class = iota
	classWireGuard
	classSTUN
	classQUIC
	classGossip
	classRelay
	classKeepalive
	classes
)

const (
	gossipByte = 0x20
	relayByte  = 0x30
	quicBit    = 0x40
	// What keeps a path alive.
	refreshByte = 0x10
	pingByte    = 0x11
	pongByte    = 0x12
	// wireGuardMin is the smallest WireGuard message, a keepalive; larger transport messages carry data.
	wireGuardMin = 32
	// wireGuardTransport is the first byte of transport data.
	wireGuardTransport = 4
)

// classify says what a packet is. It looks at bytes only: who may send what is decided afterwards.
func classify(b []byte) class {
	if len(b) == 0 {
		return classUnknown
	}
	switch first := b[0]; {
	case first&quicBit != 0:
		return classQUIC
	case first == gossipByte:
		return classGossip
	case first == relayByte:
		return classRelay
	case len(b) == 1 && first >= refreshByte && first <= pongByte:
		return classKeepalive
	case len(b) >= wireGuardMin && first >= 1 && first <= 4 && b[1]|b[2]|b[3] == 0:
		return classWireGuard
	case nat.IsMessage(b):
		return classSTUN
	}
	return classUnknown
}

// isData reports whether a WireGuard packet carries more than a handshake or a keepalive.
func isData(b []byte) bool { return len(b) > wireGuardMin && b[0] == wireGuardTransport }

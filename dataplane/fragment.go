package dataplane

import "encoding/binary"

// Bits of the second 16 bits after the identification (RFC 791 §3.1).
const (
	dontFragment  = 0x4000
	moreFragments = 0x2000
	offsetMask    = 0x1fff
)

// fragment cuts an IPv4 packet into parts of at most mtu bytes (RFC 791 §3.2), which may be a fragment itself. It returns nil if the packet
// must not be cut, is not IPv4, is malformed, or has options, of which each would want its own treatment; nobody sends these.
func fragment(packet []byte, mtu int) [][]byte {
	if len(packet) < headerLen4 || packet[0] != 0x45 || int(binary.BigEndian.Uint16(packet[2:])) != len(packet) {
		return nil
	}
	flags := binary.BigEndian.Uint16(packet[6:])
	unit := (mtu - headerLen4) &^ 7 // all but the last carry a multiple of 8 bytes
	if flags&dontFragment != 0 || unit <= 0 {
		return nil
	}
	payload, offset := packet[headerLen4:], int(flags&offsetMask)
	if offset+len(payload)/8 > offsetMask {
		return nil
	}
	var parts [][]byte
	for begin := 0; begin < len(payload); begin += unit {
		body := payload[begin:min(begin+unit, len(payload))]
		part := append(append(make([]byte, 0, headerLen4+len(body)), packet[:headerLen4]...), body...)
		field := flags&^offsetMask | uint16(offset+begin/8)
		if begin+unit < len(payload) {
			field |= moreFragments
		}
		binary.BigEndian.PutUint16(part[2:], uint16(len(part)))
		binary.BigEndian.PutUint16(part[6:], field)
		binary.BigEndian.PutUint16(part[10:], 0)
		binary.BigEndian.PutUint16(part[10:], ^sum(part[:headerLen4], 0))
		parts = append(parts, part)
	}
	return parts
}

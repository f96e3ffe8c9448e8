package firewall

import (
	"encoding/binary"
	"net/netip"
)

// Protocol numbers (IANA).
const (
	protocolHopByHop    = 0
	protocolICMP4       = 1
	protocolTCP         = 6
	protocolUDP         = 17
	protocolRouting     = 43
	protocolFragment    = 44
	protocolICMP6       = 58
	protocolDestination = 60
)

// Sizes of headers in bytes, without options.
const (
	headerLen4    = 20
	headerLen6    = 40
	headerLenTCP  = 20
	headerLenUDP  = 8
	headerLenICMP = 8
	quotedLen     = 8 // of a transport header in an ICMP error (RFC 792)
	// extensionsMax bounds the extension headers of an IPv6 packet. RFC 8200 §4.1 recommends an order in which there are at most six.
	extensionsMax = 6
	// firstBytes: a later fragment that begins below would overwrite what was looked at of the first one (RFC 1858 §4).
	firstBytes = headerLenTCP
)

// TCP flags (RFC 9293 §3.1).
const (
	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagRST = 1 << 2
	flagACK = 1 << 4
)

// Message types of ICMP (RFC 792) and ICMPv6 (RFC 4443).
const (
	echoReply4, echoRequest4 = 0, 8
	unreachable4             = 3
	quench4                  = 4
	redirect4                = 5
	exceeded4, parameter4    = 11, 12
	echoRequest6, echoReply6 = 128, 129
	informational6           = 128 // and above; below are errors
)

// part says which part of a datagram a packet is.
type part uint8

const (
	whole part = iota
	first      // fragment, with the transport header
	later      // fragment
)

// header is what the firewall looks at of a packet.
type header struct {
	src, dst netip.Addr
	protocol uint8
	flags    uint8 // of TCP
	part     part
	kind     icmpKind
	sport    uint16 // of ICMP echoes: the identifier, in both
	dport    uint16
	datagram uint32 // identification of a fragmented datagram
	chain    uint8  // with fragments: the protocol that the fragment header, or the IPv4 header, names
	quote    []byte // in ICMP errors: the packet they are about
}

// icmpKind sorts messages of ICMP.
type icmpKind uint8

const (
	icmpNone    icmpKind = iota // another protocol
	icmpRequest                 // echo request
	icmpReply                   // echo reply
	icmpError                   // has a quote
	icmpOther
)

// parse reads a packet. quoted: it stands in an ICMP error, where it may be cut after 8 bytes of its transport header.
func (h *header) parse(b []byte, quoted bool) bool {
	if len(b) < headerLen4 {
		return false
	}
	switch b[0] >> 4 {
	case 4:
		return h.parse4(b, quoted)
	case 6:
		return h.parse6(b, quoted)
	}
	return false
}

func (h *header) parse4(b []byte, quoted bool) bool {
	length, total := int(b[0]&0x0f)*4, int(binary.BigEndian.Uint16(b[2:]))
	if length < headerLen4 || length > len(b) || total < length || (total > len(b) && !quoted) {
		return false
	}
	h.src, h.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	h.protocol = b[9]
	h.chain = h.protocol
	fragment := binary.BigEndian.Uint16(b[6:])
	offset, more := int(fragment&0x1fff)*8, fragment&0x2000 != 0
	if offset > 0 || more {
		h.datagram = uint32(binary.BigEndian.Uint16(b[4:]))
	}
	return h.fragment(offset, more) && (h.part == later || h.transport(b[length:min(total, len(b))], quoted))
}

func (h *header) parse6(b []byte, quoted bool) bool {
	if len(b) < headerLen6 {
		return false
	}
	total := headerLen6 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) && !quoted {
		return false
	}
	h.src, h.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	next, rest := b[6], b[headerLen6:min(total, len(b))]
	for range extensionsMax {
		size := 0
		switch next {
		case protocolHopByHop, protocolRouting, protocolDestination:
			if len(rest) < 8 {
				return false
			}
			if next == protocolRouting && rest[2] == 0 {
				return false // type 0: forbidden by RFC 5095
			}
			size = 8 + 8*int(rest[1])
		case protocolFragment:
			if len(rest) < 8 || h.part != whole || h.datagram != 0 {
				return false
			}
			fragment := binary.BigEndian.Uint16(rest[2:])
			h.chain, h.datagram = rest[0], binary.BigEndian.Uint32(rest[4:])
			if offset := int(fragment &^ 7); !h.fragment(offset, fragment&1 != 0) {
				return false
			}
			if h.part == later {
				h.protocol = h.chain
				return true
			}
			size = 8
		default:
			h.protocol = next
			return h.transport(rest, quoted)
		}
		if size > len(rest) {
			return false
		}
		next, rest = rest[0], rest[size:]
	}
	return false
}

// fragment notes which part of a datagram the packet is; false for one that nobody sends in good faith.
func (h *header) fragment(offset int, more bool) bool {
	switch {
	case offset > 0:
		h.part = later
		return offset >= firstBytes
	case more:
		h.part = first
	}
	return true
}

// transport reads the transport header.
func (h *header) transport(b []byte, quoted bool) bool {
	need := 0
	switch h.protocol {
	case protocolTCP:
		need = headerLenTCP
	case protocolUDP, protocolICMP4, protocolICMP6:
		need = headerLenUDP
	default:
		return true
	}
	if quoted {
		need = quotedLen
	}
	if len(b) < need {
		return false
	}
	switch h.protocol {
	case protocolICMP4, protocolICMP6:
		return h.icmp(b)
	case protocolTCP:
		if !quoted {
			h.flags = b[13]
		}
	}
	h.sport, h.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	return true
}

func (h *header) icmp(b []byte) bool {
	if (h.protocol == protocolICMP4) != h.src.Is4() {
		return false
	}
	h.kind = icmpOther
	switch kind := b[0]; {
	case h.src.Is4() && (kind == unreachable4 || kind == quench4 || kind == redirect4 || kind == exceeded4 || kind == parameter4),
		h.src.Is6() && kind < informational6:
		h.kind, h.quote = icmpError, b[headerLenICMP:]
		return h.part == whole
	case h.src.Is4() && kind == echoRequest4, h.src.Is6() && kind == echoRequest6:
		h.kind = icmpRequest
	case h.src.Is4() && kind == echoReply4, h.src.Is6() && kind == echoReply6:
		h.kind = icmpReply
	default:
		return true
	}
	h.sport = binary.BigEndian.Uint16(b[4:])
	h.dport = h.sport
	return true
}

package dataplane

import "net/netip"

// Sizes of the fixed headers, without options: RFC 791 §3.1 and RFC 8200 §3.
const (
	headerLen4   = 20
	headerLen6   = 40
	headerLenTCP = 20 // RFC 9293 §3.1
)

// destination returns where an IP packet wants to go; false if it is not an IPv4 or IPv6 packet with a whole header.
// WireGuard looks at the same bytes, so a packet can not go to one peer in our eyes and to another in its.
func destination(packet []byte) (netip.Addr, bool) {
	if len(packet) == 0 {
		return netip.Addr{}, false
	}
	switch packet[0] >> 4 {
	case 4:
		if len(packet) >= headerLen4 {
			return netip.AddrFrom4([4]byte(packet[16:20])), true
		}
	case 6:
		if len(packet) >= headerLen6 {
			return netip.AddrFrom16([16]byte(packet[24:40])), true
		}
	}
	return netip.Addr{}, false
}

// source returns where an IP packet says it comes from; false as for destination.
func source(packet []byte) (netip.Addr, bool) {
	if len(packet) == 0 {
		return netip.Addr{}, false
	}
	switch packet[0] >> 4 {
	case 4:
		if len(packet) >= headerLen4 {
			return netip.AddrFrom4([4]byte(packet[12:16])), true
		}
	case 6:
		if len(packet) >= headerLen6 {
			return netip.AddrFrom16([16]byte(packet[8:24])), true
		}
	}
	return netip.Addr{}, false
}

// overlay are the address ranges of the mesh.
type overlay []netip.Prefix

// contains reports whether the address belongs to the mesh, member or not.
func (o overlay) contains(a netip.Addr) bool {
	for _, p := range o {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// broadcast reports whether the address is the directed broadcast address of a range (RFC 919 §7): nobody answers for it.
func (o overlay) broadcast(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	for _, p := range o {
		if p.Addr().Is4() && p.Bits() < 31 && p.Contains(a) && !p.Contains(a.Next()) {
			return true
		}
	}
	return false
}

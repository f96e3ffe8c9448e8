package dataplane

import (
	"encoding/binary"
	"net/netip"
)

const (
	protocolICMP4 = 1
	protocolICMP6 = 58
	headerLenICMP = 8
	// quoteMax4: an ICMP error is at most 576 bytes (RFC 1812 §4.3.2.3), quoteMax6: at most 1280 (RFC 4443 §2.4 c).
	quoteMax4 = 576 - headerLen4 - headerLenICMP
	quoteMax6 = 1280 - headerLen6 - headerLenICMP
	// headroom precedes a packet that we make and hand to the interface: room for the kernel's virtio header.
	headroom = 16
)

// unreachable makes the ICMP error that tells the host that the packet's destination can not be reached: host unreachable
// (RFC 792: type 3 code 1) or address unreachable (RFC 4443 §3.1: type 1 code 3). from is our own overlay address of the packet's
// family. The result has headroom bytes of room in front. False where no error may be sent (RFC 1122 §3.2.2, RFC 4443 §2.4 e):
// for broken packets, ICMP errors, later fragments, and packets from or to nobody in particular.
func unreachable(packet []byte, from netip.Addr) ([]byte, bool) {
	src, ok := source(packet)
	dst, _ := destination(packet)
	if !ok || !from.IsValid() || from.Is4() != src.Is4() || src.IsUnspecified() || src.IsMulticast() || dst.IsMulticast() {
		return nil, false
	}
	if src.Is4() {
		return icmpError4(packet, src, from, icmpError{3, 1, 0})
	}
	return icmpError6(packet, src, from, icmpError{1, 3, 0})
}

// prohibited is unreachable for what the filter denied: communication administratively prohibited (RFC 1812 §5.2.7.1: type 3 code 13;
// RFC 4443 §3.1: type 1 code 1). Programs give up at once instead of waiting.
func prohibited(packet []byte, from netip.Addr) ([]byte, bool) {
	out, ok := unreachable(packet, from)
	if !ok {
		return nil, false
	}
	header, code, pseudo := headerLen4, byte(13), uint32(0)
	if from.Is6() {
		header, code = headerLen6, 1
		pseudo = uint32(sum(out[headroom+8:headroom+40], 0)) + uint32(len(out)-headroom-header) + protocolICMP6
	}
	icmp := out[headroom+header:]
	icmp[1], icmp[2], icmp[3] = code, 0, 0
	binary.BigEndian.PutUint16(icmp[2:], ^sum(icmp, pseudo))
	return out, true
}

// tooBig makes the ICMP error that tells the host of the MTU of the way to the packet's destination: fragmentation needed (RFC 1191 §4:
// type 3 code 4, MTU in the last two bytes) or packet too big (RFC 4443 §3.2: type 2, MTU in all four). It comes from the destination,
// since a host takes nothing from outside that claims to come from itself (RFC 1812 §5.3.7). Otherwise as unreachable.
func tooBig(packet []byte, mtu int) ([]byte, bool) {
	src, ok := source(packet)
	dst, _ := destination(packet)
	if !ok || src.IsUnspecified() || src.IsMulticast() || dst.IsMulticast() {
		return nil, false
	}
	if src.Is4() {
		return icmpError4(packet, src, dst, icmpError{3, 4, uint32(mtu)})
	}
	return icmpError6(packet, src, dst, icmpError{2, 0, uint32(mtu)})
}

// icmpError is what an ICMP error says: the third field is its second 32 bits.
type icmpError struct {
	kind, code byte
	rest       uint32
}

func icmpError4(packet []byte, to, from netip.Addr, e icmpError) ([]byte, bool) {
	header := int(packet[0]&0x0f) * 4
	if header < headerLen4 || len(packet) < header || binary.BigEndian.Uint16(packet[6:8])&0x1fff != 0 {
		return nil, false
	}
	// Of ICMP only echo requests (8) and the other queries deserve an error; be strict and answer echo requests alone.
	if packet[9] == protocolICMP4 && (len(packet) <= header || packet[header] != 8) {
		return nil, false
	}
	quote := packet[:min(len(packet), quoteMax4)]
	out := make([]byte, headroom+headerLen4+headerLenICMP+len(quote))
	ip, icmp := out[headroom:headroom+headerLen4], out[headroom+headerLen4:]
	ip[0], ip[8], ip[9] = 0x45, 64, protocolICMP4
	binary.BigEndian.PutUint16(ip[2:], uint16(len(out)-headroom))
	copy(ip[12:], from.AsSlice())
	copy(ip[16:], to.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip, 0))
	icmp[0], icmp[1] = e.kind, e.code
	binary.BigEndian.PutUint32(icmp[4:], e.rest)
	copy(icmp[headerLenICMP:], quote)
	binary.BigEndian.PutUint16(icmp[2:], ^sum(icmp, 0))
	return out, true
}

func icmpError6(packet []byte, to, from netip.Addr, e icmpError) ([]byte, bool) {
	// An ICMPv6 error has a type below 128.
	if packet[6] == protocolICMP6 && (len(packet) <= headerLen6 || packet[headerLen6] < 128) {
		return nil, false
	}
	quote := packet[:min(len(packet), quoteMax6)]
	out := make([]byte, headroom+headerLen6+headerLenICMP+len(quote))
	ip, icmp := out[headroom:headroom+headerLen6], out[headroom+headerLen6:]
	ip[0], ip[6], ip[7] = 0x60, protocolICMP6, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(len(icmp)))
	copy(ip[8:], from.AsSlice())
	copy(ip[24:], to.AsSlice())
	icmp[0], icmp[1] = e.kind, e.code
	binary.BigEndian.PutUint32(icmp[4:], e.rest)
	copy(icmp[headerLenICMP:], quote)
	// The checksum covers a pseudo header of both addresses, the length and the protocol (RFC 8200 §8.1).
	pseudo := uint32(sum(ip[8:40], 0)) + uint32(len(icmp)) + protocolICMP6
	binary.BigEndian.PutUint16(icmp[2:], ^sum(icmp, pseudo))
	return out, true
}

// sum is the ones' complement sum of RFC 1071 over b, starting from initial.
func sum(b []byte, initial uint32) uint16 {
	total := initial
	for ; len(b) >= 2; b = b[2:] {
		total += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		total += uint32(b[0]) << 8
	}
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return uint16(total)
}

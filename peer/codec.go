package peer

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// The encoded record, all integers big-endian:
//
//	offset        size  field
//	0             1     version, 3
//	1             1     flags: 0x01 voter, 0x02 relay, 0x04 busy, 0x08 region named, 0x10 placed, the rest zero
//	2             1     NAT in front of the node, 0–4
//	3             8     sequence
//	11            8     state version
//	19            1     R, length of the region, 0–63
//	20            R     region, printable UTF-8
//	20+R          1     E, number of endpoints, 0–8
//	21+R          …     E endpoints, each
//	                      1     family in the high four bits (4 or 6), kind in the low four (1–3)
//	                      4|16  address
//	                      2     port, not zero
//	              1     N, number of relays, 0–2
//	              32×N  node IDs of the relays
//	              19    coordinate (coordinate.go), if placed
//	              64    Ed25519 signature over node ID ‖ everything before the signature
//
// Largest: 19 + 1+63 + 1+8×19 + 1+2×32 + 19 + 64 = 384 bytes. There is one encoding for one record: no endpoint or relay twice, no
// IPv4 address inside an IPv6 one, nothing after the signature.
const (
	recordVersion = 3
	flagVoter     = 0x01
	flagRelay     = 0x02
	flagBusy      = 0x04
	flagNamed     = 0x08
	flagPlaced    = 0x10
	flagsKnown    = flagVoter | flagRelay | flagBusy | flagNamed | flagPlaced
	fixedSize     = 19
	signatureSize = 64
	recordLargest = fixedSize + 1 + RegionMax + 1 + EndpointsMax*19 + 1 + RelaysMax*32 + CoordinateSize + signatureSize
)

// A record that could outgrow its bound does not compile.
const _ = uint(RecordMax - recordLargest)

// appendBody appends the record's encoding without the signature.
func (r Record) appendBody(b []byte) []byte {
	b = append(b, recordVersion, r.flags(), byte(r.NAT))
	b = binary.BigEndian.AppendUint64(b, r.Sequence)
	b = binary.BigEndian.AppendUint64(b, r.StateVersion)
	b = append(b, byte(len(r.Region)))
	b = append(b, r.Region...)
	b = append(b, byte(len(r.Endpoints)))
	for _, e := range r.Endpoints {
		b = append(b, family(e.Addr.Addr())<<4|byte(e.Kind))
		b = append(b, e.Addr.Addr().AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, e.Addr.Port())
	}
	b = append(b, byte(len(r.Relays)))
	for _, id := range r.Relays {
		b = append(b, id[:]...)
	}
	if r.Placed {
		b = r.Coordinate.Append(b)
	}
	return b
}

func (r Record) flags() (flags byte) {
	for _, f := range []struct {
		set bool
		bit byte
	}{{r.Voter, flagVoter}, {r.Relay, flagRelay}, {r.Busy, flagBusy}, {r.Named, flagNamed}, {r.Placed, flagPlaced}} {
		if f.set {
			flags |= f.bit
		}
	}
	return flags
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return 4
	}
	return 6
}

// ParseRecord reads the record that the node id is said to have made, without checking its signature: see [VerifyRecord]. It
// accepts the one canonical encoding only and returns [ErrRecordForm] with what is wrong and where.
func ParseRecord(id identity.NodeID, b []byte) (Record, error) {
	if len(b) > RecordMax {
		return Record{}, fmt.Errorf("%w: %d bytes, at most %d", ErrRecordForm, len(b), RecordMax)
	}
	d := decoder{rest: b, size: len(b)}
	r := Record{ID: id}
	if v := d.byte(); v != recordVersion {
		d.fail("version %d", v)
	}
	flags := d.byte()
	if flags&^flagsKnown != 0 {
		d.fail("unknown flags %#x", flags)
	}
	r.Voter, r.Relay, r.Busy = flags&flagVoter != 0, flags&flagRelay != 0, flags&flagBusy != 0
	r.Named, r.Placed = flags&flagNamed != 0, flags&flagPlaced != 0
	if r.NAT = NAT(d.byte()); r.NAT > NATBlocked {
		d.fail("unknown kind of NAT %d", uint8(r.NAT))
	}
	r.Sequence, r.StateVersion = d.uint64(), d.uint64()
	r.Region = d.region()
	r.Endpoints = d.endpoints()
	r.Relays = d.relays()
	if r.Placed {
		r.Coordinate = d.coordinate()
	}
	d.take(signatureSize)
	if d.err == nil && len(d.rest) != 0 {
		d.fail("%d bytes after the signature", len(d.rest))
	}
	if d.err != nil {
		return Record{}, d.err
	}
	return r, nil
}

// decoder reads a record front to back. After the first failure it returns zeros and keeps the first error.
type decoder struct {
	rest []byte
	size int
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s at byte %d", ErrRecordForm, fmt.Sprintf(format, args...), d.size-len(d.rest))
	}
	d.rest = nil
}

// take returns the next n bytes, or nil and a failure when there are fewer.
func (d *decoder) take(n int) []byte {
	if d.err != nil || len(d.rest) < n {
		d.fail("cut short")
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) region() string {
	n := int(d.byte())
	if n > RegionMax {
		d.fail("region of %d bytes", n)
	}
	s := string(d.take(n))
	if d.err == nil && !validRegion(s) {
		d.fail("region is not printable text")
	}
	return s
}

func (d *decoder) endpoints() []Endpoint {
	n := int(d.byte())
	if n > EndpointsMax {
		d.fail("%d endpoints", n)
	}
	var out []Endpoint
	for range n {
		e := d.endpoint()
		if d.err != nil {
			return nil
		}
		if !e.valid() || hasAddr(out, e.Addr) {
			d.fail("endpoint %s (%s) is not usable or stands twice", e.Addr, e.Kind)
			return nil
		}
		out = append(out, e)
	}
	return out
}

func (d *decoder) endpoint() Endpoint {
	head := d.byte()
	var addr netip.Addr
	switch head >> 4 {
	case 4:
		addr, _ = netip.AddrFromSlice(d.take(4))
	case 6:
		addr, _ = netip.AddrFromSlice(d.take(16))
	default:
		d.fail("address family %d", head>>4)
	}
	port := d.take(2)
	if port == nil {
		return Endpoint{}
	}
	return Endpoint{Addr: netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port)), Kind: EndpointKind(head & 0x0f)}
}

func (d *decoder) relays() []identity.NodeID {
	n := int(d.byte())
	if n > RelaysMax {
		d.fail("%d relays", n)
	}
	var out []identity.NodeID
	for range n {
		b := d.take(len(identity.NodeID{}))
		if b == nil {
			return nil
		}
		id := identity.NodeID(b)
		if id.IsZero() || slices.Contains(out, id) {
			d.fail("relay is zero or stands twice")
			return nil
		}
		out = append(out, id)
	}
	return out
}

func (d *decoder) coordinate() Coordinate {
	b := d.take(CoordinateSize)
	if b == nil {
		return Coordinate{}
	}
	c, ok := ParseCoordinate(b)
	if !ok {
		d.fail("the coordinate's error is more than %d", errorMost)
	}
	return c
}

// validRegion reports whether s may be shown to people and kept as a map key: short, printable, not padded with spaces.
func validRegion(s string) bool {
	if len(s) > RegionMax || !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if !unicode.IsPrint(c) || c == ' ' {
			return false
		}
	}
	return true
}

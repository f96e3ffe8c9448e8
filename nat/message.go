package nat

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/pion/stun/v3"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Attributes of ours, from the comprehension-optional range that RFC 8489 §18.3 leaves to designated experts: a server that does not
// know them answers as if they were not there.
const (
	attrSenderKey stun.AttrType = 0xC351 // the sender's X25519 public key, 32 bytes
	attrValidated stun.AttrType = 0xC352 // one byte, 1: the answering node has validated the address it answers to
	attrReport    stun.AttrType = 0xC353 // receiver report, 8 bytes: WireGuard packets and, of these, large ones
	attrPadding   stun.AttrType = 0x0026 // PADDING, RFC 5780 §7.6
)

// Sizes in bytes.
const (
	headerSize    = 20
	attrHeader    = 4
	keySize       = 32
	integritySize = sha256.Size
	mappedSize6   = 20

	// ChallengeSize is a check request without padding: header, sender key, integrity.
	ChallengeSize = headerSize + attrHeader + keySize + attrHeader + integritySize
	// ResponseSize is the largest answer to a check: header, sender key, IPv6 mapped address, validated flag, integrity.
	ResponseSize = headerSize + attrHeader + keySize + attrHeader + mappedSize6 + attrHeader + 4 + attrHeader + integritySize
	// PacketOverhead is what IPv6 and UDP headers add to a packet.
	PacketOverhead = 40 + 8
	// OpeningSize is a padded check request: it pays for the answer and for a challenge back, with the headers of the second packet.
	// It is the same with and without integrity, and a multiple of four.
	OpeningSize = ResponseSize + ChallengeSize + PacketOverhead
	// MessageMax is the largest STUN message accepted from a source that is not validated: beyond a packet that every path carries a
	// request serves no purpose of ours.
	MessageMax = 1280 - PacketOverhead
	// ProbeMax is the largest accepted at all, from validated sources: a request padded to find out how large a packet the path carries,
	// at most a jumbo frame of 9,216 bytes less IPv4 and UDP headers.
	ProbeMax = 9216 - 20 - 8
	// reportSize is the value of a receiver report: two counters.
	reportSize = 8
	// reportedSize is the largest answer with a receiver report; such go to validated sources only, whom we may send more than they sent.
	reportedSize = ResponseSize + attrHeader + reportSize
)

// The padding must have room for its own header.
const _ = uint(OpeningSize - ChallengeSize - attrHeader)

// Why a message was refused.
var (
	ErrForm      = errors.New("nat: malformed STUN message")
	ErrIntegrity = errors.New("nat: STUN message integrity does not match")
)

// Kind is what a STUN message asks or says.
type Kind uint8

// The kinds of message this package reads.
const (
	Request  Kind = iota + 1 // a Binding request
	Response                 // a Binding success response
)

// TransactionID tells which request a response belongs to.
type TransactionID [stun.TransactionIDSize]byte

// PairKey is the key that two nodes share for their path checks: [identity.Key.PathKey].
type PairKey = [32]byte

// Report is what a node has received from one source address since it validated that. The counters wrap.
type Report struct {
	// Packets are the WireGuard packets, Large those of them larger than [MessageMax], which not every path carries.
	Packets, Large uint32
}

// Message is a STUN message from outside. It keeps a reference to the bytes it was parsed from.
type Message struct {
	Kind        Kind
	Transaction TransactionID
	// HasSender tells a keyed check from plain STUN; Sender is the key its sender claims.
	HasSender bool
	Sender    identity.WireGuardKey
	// Keyed: the message carries MESSAGE-INTEGRITY-SHA256. It is worth nothing before Verify.
	Keyed bool
	// Mapped is, in a response, the address the request came from as the answering side saw it; invalid if absent.
	Mapped netip.AddrPort
	// Validated is, in a response, whether the answering node has validated the address it answers to.
	Validated bool
	// HasReport: the answering node says, in Report, what it has received from where the request came from.
	HasReport bool
	Report    Report
	// HasChange and Change are, in a request, the wish for an answer from elsewhere. Who cannot fulfil it must not answer: an answer
	// from here would say that a NAT lets through what it does not (RFC 5780 §7.2).
	HasChange bool
	Change    Change
	// Origin and Other are, in the response of a server that tests NAT behaviour, the address it answers from and the one from which
	// it would answer if asked to change both address and port; invalid if absent.
	Origin, Other netip.AddrPort
	// Size is the message's length in bytes.
	Size int

	raw       []byte
	integrity int // offset of the integrity attribute in raw
}

// IsMessage reports whether b may be a STUN Binding message: its first bytes and the magic cookie (RFC 8489 §5).
func IsMessage(b []byte) bool {
	return len(b) >= headerSize && b[0] <= 1 && stun.IsMessage(b)
}

// Parse reads a Binding request or success response. What is larger than [MessageMax] is for the caller to take from validated sources
// only. It returns [ErrForm] with the reason for anything else, and never more than b
// deserves: it allocates a fixed amount.
func Parse(b []byte) (Message, error) {
	if len(b) > ProbeMax {
		return Message{}, fmt.Errorf("%w: %d bytes, at most %d", ErrForm, len(b), ProbeMax)
	}
	if !IsMessage(b) {
		return Message{}, fmt.Errorf("%w: not a Binding message", ErrForm)
	}
	if int(binary.BigEndian.Uint16(b[2:4]))+headerSize != len(b) {
		return Message{}, fmt.Errorf("%w: length field does not match the packet", ErrForm)
	}
	m := Message{Size: len(b), raw: b, Transaction: TransactionID(b[8:20])}
	switch (stun.NewType(stun.MethodBinding, stun.ClassRequest)).Value() {
	case binary.BigEndian.Uint16(b):
		m.Kind = Request
	default:
		if binary.BigEndian.Uint16(b) != stun.BindingSuccess.Value() {
			return Message{}, fmt.Errorf("%w: neither a Binding request nor its answer", ErrForm)
		}
		m.Kind = Response
	}
	if err := m.attributes(b); err != nil {
		return Message{}, err
	}
	return m, nil
}

// attributes walks the attributes of the message b once, by hand: the walk must know each one's offset and refuse what follows the
// integrity, which the library's decoder does not tell.
func (m *Message) attributes(b []byte) error {
	for at := headerSize; at < len(b); {
		if len(b)-at < attrHeader {
			return fmt.Errorf("%w: attribute header cut short at byte %d", ErrForm, at)
		}
		kind := stun.AttrType(binary.BigEndian.Uint16(b[at:]))
		size := int(binary.BigEndian.Uint16(b[at+2:]))
		end := at + attrHeader + (size+3)&^3
		if end > len(b) {
			return fmt.Errorf("%w: attribute %#04x cut short at byte %d", ErrForm, uint16(kind), at)
		}
		if m.Keyed && kind != stun.AttrFingerprint {
			return fmt.Errorf("%w: attribute %#04x after the integrity", ErrForm, uint16(kind))
		}
		if err := m.attribute(kind, b[at+attrHeader:at+attrHeader+size], at); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// attribute takes in one attribute. Unknown comprehension-optional ones are passed over; of the required ones only those that a
// plain client or server may send us are.
func (m *Message) attribute(kind stun.AttrType, value []byte, at int) error {
	switch kind {
	case attrSenderKey:
		if m.HasSender || len(value) != keySize {
			return fmt.Errorf("%w: sender key of %d bytes, or twice", ErrForm, len(value))
		}
		m.HasSender, m.Sender = true, identity.WireGuardKey(value)
	case attrValidated:
		if len(value) != 1 || value[0] > 1 {
			return fmt.Errorf("%w: validated flag", ErrForm)
		}
		m.Validated = value[0] == 1
	case attrReport:
		if m.HasReport || len(value) != reportSize {
			return fmt.Errorf("%w: receiver report of %d bytes, or twice", ErrForm, len(value))
		}
		m.HasReport = true
		m.Report = Report{Packets: binary.BigEndian.Uint32(value), Large: binary.BigEndian.Uint32(value[4:])}
	case stun.AttrMessageIntegritySHA256:
		if len(value) != integritySize {
			return fmt.Errorf("%w: integrity of %d bytes, want %d", ErrForm, len(value), integritySize)
		}
		m.Keyed, m.integrity = true, at
	case stun.AttrXORMappedAddress:
		var err error
		m.Mapped, err = parseMapped(value, m.raw)
		return err
	}
	return m.behaviourAttribute(kind, value)
}

// parseMapped reads XOR-MAPPED-ADDRESS (RFC 8489 §14.2); the mask is the cookie and transaction ID of the header.
func parseMapped(v, header []byte) (netip.AddrPort, error) {
	if len(v) < 4 || v[0] != 0 {
		return netip.AddrPort{}, fmt.Errorf("%w: mapped address", ErrForm)
	}
	port := binary.BigEndian.Uint16(v[2:]) ^ binary.BigEndian.Uint16(header[4:])
	var addr [16]byte
	n := copy(addr[:], v[4:])
	for i := range n {
		addr[i] ^= header[4+i]
	}
	switch {
	case v[1] == 1 && len(v) == 8:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr[:4])), port), nil
	case v[1] == 2 && len(v) == mappedSize6:
		return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), port), nil
	}
	return netip.AddrPort{}, fmt.Errorf("%w: mapped address of %d bytes, family %d", ErrForm, len(v), v[1])
}

// Verify checks the message's integrity under the key of the pair (RFC 8489 §14.6) and returns [ErrIntegrity] if it is absent or
// does not match.
func (m *Message) Verify(key PairKey) error {
	if !m.Keyed {
		return ErrIntegrity
	}
	want := integrity(key, m.raw[:m.integrity])
	if !hmac.Equal(want[:], m.raw[m.integrity+attrHeader:m.integrity+attrHeader+integritySize]) {
		return ErrIntegrity
	}
	return nil
}

// integrity is the HMAC-SHA256 over the message up to the integrity attribute, whose own size the header's length already counts.
func integrity(key PairKey, before []byte) (sum [integritySize]byte) {
	var header [headerSize]byte
	copy(header[:], before)
	binary.BigEndian.PutUint16(header[2:], uint16(len(before)-headerSize+attrHeader+integritySize))
	h := hmac.New(sha256.New, key[:])
	h.Write(header[:])
	h.Write(before[headerSize:])
	h.Sum(sum[:0])
	return sum
}

// Budget reports whether a node that received a request of size received, answered with answered bytes, may also send a
// challenge to the unproven source, without having sent it more than it received.
func Budget(received, answered int) bool {
	return received >= answered+ChallengeSize+PacketOverhead
}

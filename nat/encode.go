package nat

import (
	"encoding/binary"
	"net/netip"

	"github.com/pion/stun/v3"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// CheckRequest is a keyed check to be sent.
type CheckRequest struct {
	Transaction TransactionID
	// Sender is our own key.
	Sender identity.WireGuardKey
	// Key is that of the pair; nil while the other side's key is unknown.
	Key *PairKey
	// Opening pads the request, so that its receiver may answer and challenge back. Only a challenge itself goes without.
	Opening bool
	// Size, if larger, is what the request is padded to, in bytes: to find out whether the path carries a packet of that size. A
	// multiple of four, at most [ProbeMax].
	Size int
}

// Encode returns the request's bytes: [OpeningSize] of them, or [ChallengeSize] for a challenge, or Size.
func (r CheckRequest) Encode() []byte {
	size := ChallengeSize
	if r.Opening || r.Size > 0 {
		size = max(OpeningSize, r.Size&^3)
	}
	m := newMessage(stun.BindingRequest, r.Transaction, size)
	m.add(attrSenderKey, r.Sender[:])
	tail := 0
	if r.Key != nil {
		tail = attrHeader + integritySize
	}
	if size > ChallengeSize {
		m.add(attrPadding, make([]byte, size-len(m)-attrHeader-tail))
	}
	if r.Key != nil {
		m.sign(*r.Key)
	}
	return m
}

// CheckResponse is a keyed answer to be sent.
type CheckResponse struct {
	Transaction TransactionID
	Sender      identity.WireGuardKey
	// Mapped is where the request came from.
	Mapped netip.AddrPort
	// Validated tells the other side that we have validated that address.
	Validated bool
	// Report, if not nil, tells what has arrived from there. Only for a validated source.
	Report *Report
	Key    PairKey
}

// Encode returns the response's bytes: at most [ResponseSize], and 12 more with a report.
func (r CheckResponse) Encode() []byte {
	m := newMessage(stun.BindingSuccess, r.Transaction, reportedSize)
	m.add(attrSenderKey, r.Sender[:])
	m.addMapped(r.Mapped)
	flag := byte(0)
	if r.Validated {
		flag = 1
	}
	m.add(attrValidated, []byte{flag})
	if r.Report != nil {
		value := binary.BigEndian.AppendUint32(nil, r.Report.Packets)
		m.add(attrReport, binary.BigEndian.AppendUint32(value, r.Report.Large))
	}
	m.sign(r.Key)
	return m
}

// PlainRequest returns a Binding request to a STUN server outside the mesh, with nothing in it that such a server could refuse.
func PlainRequest(id TransactionID) []byte {
	return newMessage(stun.BindingRequest, id, headerSize)
}

// PaddedRequest returns a plain Binding request to another node, which answers only if the answer is no longer than the request
// (RFC 5780 §7.6 has the padding; servers outside the mesh may refuse it).
func PaddedRequest(id TransactionID) []byte {
	m := newMessage(stun.BindingRequest, id, headerSize+attrHeader+mappedSize6)
	m.add(attrPadding, make([]byte, mappedSize6))
	return m
}

// PlainResponse answers a plain Binding request of size bytes that came from mapped. It returns nil if the answer would be longer
// than the request: a forged source must not make us send more than it did.
func PlainResponse(id TransactionID, mapped netip.AddrPort, size int) []byte {
	m := newMessage(stun.BindingSuccess, id, headerSize+attrHeader+mappedSize6)
	m.addMapped(mapped)
	if len(m) > size {
		return nil
	}
	return m
}

// message is a STUN message under construction. Its length field is right after every add.
type message []byte

func newMessage(t stun.MessageType, id TransactionID, capacity int) message {
	m := make(message, headerSize, capacity)
	binary.BigEndian.PutUint16(m, t.Value())
	binary.BigEndian.PutUint32(m[4:], 0x2112A442) // the magic cookie, RFC 8489 §5
	copy(m[8:], id[:])
	return m
}

func (m *message) add(kind stun.AttrType, value []byte) {
	b := binary.BigEndian.AppendUint16(*m, uint16(kind))
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-headerSize))
	*m = b
}

func (m *message) addMapped(a netip.AddrPort) {
	addr := a.Addr().Unmap()
	v := []byte{0, 2, 0, 0}
	if addr.Is4() {
		v[1] = 1
	}
	binary.BigEndian.PutUint16(v[2:], a.Port()^binary.BigEndian.Uint16((*m)[4:]))
	for i, b := range addr.AsSlice() {
		v = append(v, b^(*m)[4+i])
	}
	m.add(stun.AttrXORMappedAddress, v)
}

func (m *message) sign(key PairKey) {
	sum := integrity(key, *m)
	m.add(stun.AttrMessageIntegritySHA256, sum[:])
}

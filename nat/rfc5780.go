package nat

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/pion/stun/v3"
)

// Change is what CHANGE-REQUEST (RFC 5780 §7.2) asks for: an answer from another address or port of the server than the one asked.
type Change struct {
	IP, Port bool
}

// The flags of CHANGE-REQUEST in its last byte.
const (
	changeIP   = 0x04
	changePort = 0x02
)

// ChangeRequest returns a Binding request to a server that tests NAT behaviour, which answers it from elsewhere.
func ChangeRequest(id TransactionID, c Change) []byte {
	m := newMessage(stun.BindingRequest, id, headerSize+attrHeader+4)
	flags := byte(0)
	if c.IP {
		flags |= changeIP
	}
	if c.Port {
		flags |= changePort
	}
	m.add(stun.AttrChangeRequest, []byte{0, 0, 0, flags})
	return m
}

// behaviourAttribute takes in an attribute of RFC 5780. Of one that comes twice neither may be believed.
func (m *Message) behaviourAttribute(kind stun.AttrType, value []byte) (err error) {
	switch kind {
	case stun.AttrChangeRequest:
		if m.Kind != Request || m.HasChange || len(value) != 4 || value[0]|value[1]|value[2]|value[3]&^(changeIP|changePort) != 0 {
			return fmt.Errorf("%w: change request", ErrForm)
		}
		m.HasChange, m.Change = true, Change{IP: value[3]&changeIP != 0, Port: value[3]&changePort != 0}
	case stun.AttrOtherAddress:
		if m.Other.IsValid() {
			return fmt.Errorf("%w: other address twice", ErrForm)
		}
		m.Other, err = parseAddress(value)
	case stun.AttrResponseOrigin:
		if m.Origin.IsValid() {
			return fmt.Errorf("%w: response origin twice", ErrForm)
		}
		m.Origin, err = parseAddress(value)
	}
	return err
}

// parseAddress reads an address in the form of MAPPED-ADDRESS (RFC 8489 §14.1), which is not masked.
func parseAddress(v []byte) (netip.AddrPort, error) {
	if len(v) < 4 || v[0] != 0 {
		return netip.AddrPort{}, fmt.Errorf("%w: address", ErrForm)
	}
	port := binary.BigEndian.Uint16(v[2:])
	switch {
	case v[1] == 1 && len(v) == 8:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(v[4:])), port), nil
	case v[1] == 2 && len(v) == mappedSize6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(v[4:])).Unmap(), port), nil
	}
	return netip.AddrPort{}, fmt.Errorf("%w: address of %d bytes, family %d", ErrForm, len(v), v[1])
}

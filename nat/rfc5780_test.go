package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/pion/stun/v3"
)

// behaviourResponse is what a server such as coturn answers.
func behaviourResponse(attrs ...[]byte) []byte {
	m := newMessage(stun.BindingSuccess, testID, 200)
	m.addMapped(mapped4)
	for _, a := range attrs {
		m = append(m, a...)
	}
	binary.BigEndian.PutUint16(m[2:], uint16(len(m)-headerSize))
	return m
}

var (
	otherAttr  = []byte{0x80, 0x2c, 0, 8, 0, 1, 0x0d, 0x97, 198, 51, 100, 2}
	originAttr = append([]byte{0x80, 0x2b, 0, 20, 0, 2, 0x0d, 0x96}, netip.MustParseAddr("2001:db8::1").AsSlice()...)
)

func TestTheAddressesOfABehaviourServerAreRead(t *testing.T) {
	m, err := Parse(behaviourResponse(otherAttr, originAttr))
	if err != nil {
		t.Fatal(err)
	}
	if m.Other != netip.MustParseAddrPort("198.51.100.2:3479") || m.Origin != netip.MustParseAddrPort("[2001:db8::1]:3478") || m.Mapped != mapped4 {
		t.Errorf("%+v", m)
	}
}

func TestAChangeRequestSurvivesTheTrip(t *testing.T) {
	for _, c := range []Change{{}, {IP: true}, {Port: true}, {IP: true, Port: true}} {
		m, err := Parse(ChangeRequest(testID, c))
		if err != nil || m.Kind != Request || !m.HasChange || m.Change != c {
			t.Errorf("%+v: %+v, %v", c, m, err)
		}
		theirs := &stun.Message{Raw: ChangeRequest(testID, c)}
		if err := theirs.Decode(); err != nil || !theirs.Contains(stun.AttrChangeRequest) {
			t.Errorf("the library reads %v, %v", theirs, err)
		}
	}
}

func TestMalformedBehaviourAttributesAreRefused(t *testing.T) {
	change := ChangeRequest(testID, Change{IP: true})
	odd := bytes.Clone(change)
	odd[len(odd)-1] = 8
	for name, b := range map[string][]byte{
		"other address twice":    behaviourResponse(otherAttr, otherAttr),
		"origin twice":           behaviourResponse(originAttr, originAttr),
		"short other address":    behaviourResponse([]byte{0x80, 0x2c, 0, 4, 0, 1, 1, 1}),
		"family and size differ": behaviourResponse([]byte{0x80, 0x2c, 0, 8, 0, 2, 1, 1, 1, 1, 1, 1}),
		"change in a response":   behaviourResponse([]byte{0, 3, 0, 4, 0, 0, 0, 4}),
		"unknown change":         odd,
	} {
		if _, err := Parse(b); !errors.Is(err, ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

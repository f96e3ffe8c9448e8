package dataplane

import (
	"bytes"
	"errors"
	"testing"
)

func FuzzFrame(f *testing.F) {
	for _, kind := range []frameKind{frameOffer, frameAccept, frameConfirm, frameInstalled, frameRefused} {
		var b bytes.Buffer
		_ = writeFrame(&b, kind, []byte{1})
		f.Add(b.Bytes(), uint8(kind))
	}
	f.Add([]byte{1, 0xff, 0xff}, uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, want uint8) {
		body, err := readFrame(bytes.NewReader(in), frameKind(want))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, frameKind(want), body); err != nil || !bytes.Equal(again.Bytes(), in[:again.Len()]) {
			t.Fatalf("%x reads as %x, which writes as %x, %v", in, body, again.Bytes(), err)
		}
	})
}

func TestARefusalMayTakeThePlaceOfAnyAnswer(t *testing.T) {
	for _, due := range []frameKind{frameAccept, frameInstalled} {
		var b bytes.Buffer
		if err := writeFrame(&b, frameRefused, []byte{byte(refusalNotMember)}); err != nil {
			t.Fatal(err)
		}
		var why *refusedError
		if _, err := readFrame(&b, due); !errors.As(err, &why) || why.why != refusalNotMember {
			t.Errorf("instead of kind %d: %v", due, err)
		}
	}
}

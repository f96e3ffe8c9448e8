package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

type sample struct {
	_ struct{} `cbor:",toarray"`
	A uint64
	B []byte
	C string
}

func TestOnlyTheCanonicalFormIsRead(t *testing.T) {
	good, err := Marshal(sample{A: 7, B: []byte{1}, C: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		in   []byte
		want error
	}{
		"canonical":         {good, nil},
		"trailing byte":     {append(bytes.Clone(good), 0), ErrForm},
		"truncated":         {good[:len(good)-1], ErrForm},
		"long integer":      {[]byte{0x83, 0x18, 0x07, 0x41, 0x01, 0x61, 'x'}, ErrNotCanonical},
		"indefinite length": {[]byte{0x9f, 0x07, 0x41, 0x01, 0x61, 'x', 0xff}, ErrForm},
		"too few":           {[]byte{0x82, 0x07, 0x41, 0x01}, ErrForm},
		"too many":          {[]byte{0x84, 0x07, 0x41, 0x01, 0x61, 'x', 0x00}, ErrForm},
		"tagged":            {append([]byte{0xc1}, good...), ErrForm},
		"bad UTF-8":         {[]byte{0x83, 0x07, 0x41, 0x01, 0x61, 0xff}, ErrForm},
		"empty":             {nil, ErrForm},
	} {
		var v sample
		if err := Unmarshal(tc.in, &v); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func TestAMessageIsBoundedBeforeItIsRead(t *testing.T) {
	var b bytes.Buffer
	if err := WriteMessage(&b, sample{B: make([]byte, 100)}, 50); !errors.Is(err, ErrTooLarge) || b.Len() > 0 {
		t.Fatalf("write: %v, %d bytes out", err, b.Len())
	}
	var v sample
	if err := ReadMessage(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff}), &v, 50); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("read: %v", err)
	}
	if err := ReadMessage(bytes.NewReader([]byte{0, 0, 0, 9, 1}), &v, 50); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("cut off: %v", err)
	}
	if err := ReadMessage(bytes.NewReader(nil), &v, 50); !errors.Is(err, io.EOF) {
		t.Fatalf("end: %v", err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	good, _ := Marshal(sample{A: 7, B: []byte{1}, C: "x"})
	f.Add(good)
	f.Add([]byte{0x9f, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var v sample
		if Unmarshal(b, &v) != nil {
			return
		}
		again, err := Marshal(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x was read but is written as %x (%v)", b, again, err)
		}
	})
}

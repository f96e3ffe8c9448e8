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

func FuzzReadMessage(f *testing.F) {
	var good bytes.Buffer
	if err := WriteMessage(&good, sample{A: 7, B: []byte{1}, C: "x"}, 100); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var v sample
		if ReadMessage(bytes.NewReader(b), &v, 100) != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteMessage(&again, v, 100); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Fatalf("%x is written as %x (%v)", b, again.Bytes(), err)
		}
	})
}

// TestHostileShapesAreCheap feeds what claims to be huge.
func TestHostileShapesAreCheap(t *testing.T) {
	deep := append(bytes.Repeat([]byte{0x81}, nestedMax+2), 0)
	for name, b := range map[string][]byte{
		"array of 2^32":       {0x9a, 0xff, 0xff, 0xff, 0xff},
		"bytes of 2^63":       {0x83, 0x07, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"nested":              deep,
		"key twice":           {0xa2, 0x01, 0x02, 0x01, 0x03},
		"more than elements":  {0x9a, 0x00, 0x01, 0x00, 0x01},
		"number as the bytes": {0x83, 0x07, 0x07, 0x61, 'x'},
	} {
		for _, v := range []any{new(sample), new(any), new([]any), new(map[uint64]uint64)} {
			if err := Unmarshal(b, v); err == nil && name != "number as the bytes" {
				t.Errorf("%s into %T was read", name, v)
			}
		}
	}
}

func TestASequenceIsCutIntoItsValues(t *testing.T) {
	one, two := []byte{0x82, 0x01, 0x02}, []byte{0x43, 0xaa, 0xbb, 0xcc}
	first, rest, err := First(append(bytes.Clone(one), two...))
	if err != nil || !bytes.Equal(first, one) || !bytes.Equal(rest, two) {
		t.Fatalf("%x and %x, %v", first, rest, err)
	}
	if first, rest, err = First(rest); err != nil || !bytes.Equal(first, two) || len(rest) != 0 {
		t.Errorf("then %x and %x, %v", first, rest, err)
	}
	for _, b := range [][]byte{nil, {0x82, 0x01}, {0x43, 0xaa}, {0xff}, {0x9f, 0xff}, {0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		if first, _, err := First(b); !errors.Is(err, ErrForm) {
			t.Errorf("%x: %x, %v", b, first, err)
		}
	}
}

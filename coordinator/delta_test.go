package coordinator

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

func TestARaftStreamGivesBackWhatWasWritten(t *testing.T) {
	heartbeat := bytes.Repeat([]byte("term 7, leader n-abcdefgh; "), 12)
	next := bytes.Replace(heartbeat, []byte("term 7"), []byte("term 12"), 1)
	snapshot := bytes.Repeat([]byte{1, 2, 3, 4, 5}, 10_000)
	messages := [][]byte{
		heartbeat, heartbeat, next, heartbeat, nil, {0}, {0, 0}, {0}, snapshot, heartbeat, heartbeat[:1], heartbeat,
		bytes.Repeat([]byte("a"), 9), bytes.Repeat([]byte("a"), 12), bytes.Repeat([]byte("a"), 5), snapshot[:deltaMax], snapshot[:deltaMax+1],
	}
	var wire bytes.Buffer
	w := &deltaWriter{to: &wire}
	for i, m := range messages {
		before := wire.Len()
		if n, err := w.Write(m); n != len(m) || err != nil {
			t.Fatalf("message %d: %d bytes, %v", i, n, err)
		}
		if (i == 1 || i == 3) && wire.Len()-before > 5 {
			t.Errorf("a repeated heartbeat of %d bytes takes %d", len(m), wire.Len()-before)
		}
	}
	got, err := io.ReadAll(newDeltaReader(&wire))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, slices.Concat(messages...)) {
		t.Errorf("%d bytes came out, not those that went in", len(got))
	}
}

func TestMalformedRaftFramesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		frames []byte
		want   error
	}{
		"more prefix than known":     {[]byte{0, 1, 0, 0}, errDelta},
		"more suffix than known":     {[]byte{0, 0, 0, 2, 'a', 'b', 0, 1, 2, 0}, errDelta},
		"prefix and suffix overflow": {[]byte{0, 0, 0, 1, 'a', 0, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0}, errDelta},
		"unknown base":               {[]byte{2, 0, 0, 0}, errDelta},
		"too long":                   {[]byte{0, 0, 0, 0x81, 0x80, 0x01}, errDelta},
		"cut in the head":            {[]byte{0, 0, 0}, io.EOF},
		"cut in the message":         {[]byte{0, 0, 0, 3, 'a'}, io.ErrUnexpectedEOF},
	} {
		if _, err := io.ReadAll(newDeltaReader(bytes.NewReader(c.frames))); !errors.Is(err, c.want) && err != nil || err == nil && c.want != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDelta(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 'a', 'b', 'c', 1, 1, 1, 1, 'x'}, uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		r := newDeltaReader(bytes.NewReader(b)) // any bytes: no panic, no growth
		if n, _ := io.Copy(io.Discard, r); n > int64(len(b)+1)*deltaFrameMax {
			t.Errorf("%d bytes out of %d", n, len(b))
		}
		var wire bytes.Buffer
		w := &deltaWriter{to: &wire}
		for part := range slices.Chunk(b, int(cut)+1) {
			w.Write(part)
		}
		if got, err := io.ReadAll(newDeltaReader(&wire)); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%x became %x, %v", b, got, err)
		}
	})
}

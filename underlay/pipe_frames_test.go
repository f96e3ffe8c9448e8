package underlay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func frame(payload string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(payload))), payload...)
}

// readAll returns the packets in b, and the error at the end.
func readAll(r io.Reader) (packets []string, err error) {
	br, discard := bufio.NewReaderSize(r, pipeRecord), 0
	for {
		p, err := readFrame(br, &discard)
		if err != nil {
			return packets, err
		}
		packets = append(packets, string(p))
	}
}

func TestFramesAreReadStrictly(t *testing.T) {
	largest := strings.Repeat("x", pipeFrameMax)
	for name, c := range map[string]struct {
		bytes   []byte
		packets int
		err     error
	}{
		"nothing":      {nil, 0, io.EOF},
		"one":          {frame("a"), 1, io.EOF},
		"three":        {append(append(frame("a"), frame(largest)...), frame("c")...), 3, io.EOF},
		"empty":        {append(frame("a"), 0, 0), 1, errFrame},
		"too large":    {frame(largest + "x"), 0, errFrame},
		"half a head":  {append(frame("a"), 0), 1, io.ErrUnexpectedEOF},
		"half a frame": {frame("abc")[:4], 0, io.ErrUnexpectedEOF},
		"HTTP":         {[]byte("GET / HTTP/1.1\r\n\r\n"), 0, errFrame},
	} {
		for _, r := range []io.Reader{bytes.NewReader(c.bytes), iotest.OneByteReader(bytes.NewReader(c.bytes))} {
			if got, err := readAll(r); len(got) != c.packets || !errors.Is(err, c.err) {
				t.Errorf("%s: %d packets, %v; want %d, %v", name, len(got), err, c.packets, c.err)
			}
		}
	}
}

func FuzzPipeFrames(f *testing.F) {
	f.Add([]byte{})
	f.Add(frame("a"))
	f.Add(append(frame("abc"), 0, 0))
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		packets, err := readAll(bytes.NewReader(b))
		if err == nil {
			t.Fatal("no end")
		}
		var again []byte
		for _, p := range packets {
			if len(p) == 0 || len(p) > pipeFrameMax {
				t.Fatalf("a packet of %d bytes", len(p))
			}
			again = append(again, frame(p)...)
		}
		if !bytes.HasPrefix(b, again) {
			t.Error("what was read is not what was there")
		}
		if errors.Is(err, io.EOF) && len(again) != len(b) {
			t.Errorf("%d bytes were left over in silence", len(b)-len(again))
		}
	})
}

func TestTheQueueKeepsOrderAndBounds(t *testing.T) {
	q := newFrameQueue()
	packet := bytes.Repeat([]byte("p"), 1000)
	put := 0
	for q.put([][]byte{packet}, 1) == 0 {
		put++
	}
	if total := put * (len(packet) + pipeHeader + stampSize); total > pipeQueueMax || total < pipeQueueMax-2000 {
		t.Errorf("took %d packets", put)
	}
	if got := q.put([][]byte{nil, make([]byte, pipeFrameMax+1)}, 1); got != 2 {
		t.Errorf("took %d packets that are none", 2-got)
	}
	got, out := 0, []byte(nil)
	for {
		out, _ = q.take(out[:0], 2)
		if len(out) == 0 {
			break
		}
		if len(out) > pipeRecord {
			t.Fatalf("a record of %d bytes", len(out))
		}
		packets, _ := readAll(bytes.NewReader(out))
		got += len(packets)
	}
	if got != put {
		t.Errorf("%d of %d came out", got, put)
	}
	if cap(q.buf) != 0 {
		t.Errorf("an empty queue keeps %d bytes", cap(q.buf))
	}

	// Puts and takes in turn, so that it wraps.
	next, want := byte(0), byte(0)
	for round := range 2000 {
		for range 3 {
			q.put([][]byte{{next}, bytes.Repeat([]byte{next}, 700)}, instant(round))
			next++
		}
		out, _ = q.take(out[:0], instant(round))
		packets, _ := readAll(bytes.NewReader(out))
		for i, p := range packets {
			if p[0] != want || (i%2 == 0) != (len(p) == 1) {
				t.Fatalf("round %d: packet %d of %d bytes, want %d", round, p[0], len(p), want)
			}
			if i%2 == 1 {
				want++
			}
		}
	}
	if cap(q.buf) > 2*pipeQueueMax {
		t.Errorf("grew to %d bytes", cap(q.buf))
	}
}

func TestTheQueueDropsWhatHasWaitedTooLong(t *testing.T) {
	q := newFrameQueue()
	q.put([][]byte{[]byte("old"), []byte("older")}, 1)
	q.put([][]byte{[]byte("fresh")}, 1+pipeAgeMax)
	out, dropped := q.take(nil, 1+pipeAgeMax+time.Millisecond)
	if string(out) != string(frame("fresh")) || dropped != 2 {
		t.Errorf("%q, dropped %d", out, dropped)
	}
}

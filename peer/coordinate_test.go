package peer

import (
	"bytes"
	"testing"
	"time"
)

func TestCoordinatesEstimateRoundTrips(t *testing.T) {
	here := NewCoordinate([Dimensions]float64{}, 0.001, 1.5)
	there := NewCoordinate([Dimensions]float64{0.03, 0.04}, 0.002, 0.1)
	if got := here.RTT(there); got != 53*time.Millisecond || there.RTT(here) != got {
		t.Errorf("estimated %v and %v, want 53 ms", got, there.RTT(here))
	}
	if got := here.Moved(there); got != 50*time.Millisecond {
		t.Errorf("moved %v, want 50 ms", got)
	}
}

func TestWhatIsBeyondTheBoundsOfACoordinateIsPutAtThem(t *testing.T) {
	c := NewCoordinate([Dimensions]float64{1e9, -1e9}, -1, 7)
	if c != (Coordinate{Vec: [Dimensions]int16{32767, -32768}, Error: errorMost}) {
		t.Errorf("got %+v", c)
	}
	if far := c.RTT(Coordinate{Vec: [Dimensions]int16{-32768, 32767}, Height: 65535}); far > 4*time.Second {
		t.Errorf("two coordinates are %v apart", far)
	}
}

func FuzzParseCoordinate(f *testing.F) {
	f.Add(Coordinate{Vec: [Dimensions]int16{1, -2, 3}, Height: 9, Error: 100}.Append(nil))
	f.Add(bytes.Repeat([]byte{0xff}, CoordinateSize))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := ParseCoordinate(b)
		if !ok {
			return
		}
		if !bytes.Equal(c.Append(nil), b) {
			t.Fatalf("two encodings of %+v", c)
		}
		if back := NewCoordinate(c.Seconds()); back != c {
			t.Fatalf("%+v became %+v", c, back)
		}
	})
}

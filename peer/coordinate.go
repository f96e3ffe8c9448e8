package peer

import (
	"encoding/binary"
	"math"
	"time"
)

// Dimensions is how many the space of coordinates has, beside the height: serf's choice, after "Network Coordinates in the Wild" (NSDI 2007).
const Dimensions = 8

// A coordinate on the wire, big-endian, in units of 20 µs; a value out of bounds cannot be written:
//
//	offset  size  field
//	0       2×8   position, signed: up to ±0.66 s in each dimension
//	16      2     height, what the way out of the node's own network costs: up to 1.3 s
//	18      1     error, in 1/128: 0–192, serf's largest, 1.5
const (
	CoordinateSize = 2*Dimensions + 2 + 1
	coordinateUnit = 20 * time.Microsecond
	errorUnit      = 1.0 / 128
	errorMost      = 192
)

// Coordinate is where a node stands in a space in which distances are round trips (Vivaldi), rounded. It is a claim like all of a record.
type Coordinate struct {
	Vec    [Dimensions]int16
	Height uint16
	Error  uint8
}

// NewCoordinate rounds a position and a height in seconds. What is beyond the bounds is put at them; it must be finite.
func NewCoordinate(position [Dimensions]float64, height, err float64) (c Coordinate) {
	for i, x := range position {
		c.Vec[i] = int16(rounded(x/coordinateUnit.Seconds(), math.MinInt16, math.MaxInt16))
	}
	c.Height = uint16(rounded(height/coordinateUnit.Seconds(), 0, math.MaxUint16))
	c.Error = uint8(rounded(err/errorUnit, 0, errorMost))
	return c
}

func rounded(x, least, most float64) float64 { return min(max(math.Round(x), least), most) }

// Seconds returns what NewCoordinate was given, rounded.
func (c Coordinate) Seconds() (position [Dimensions]float64, height, err float64) {
	for i, x := range c.Vec {
		position[i] = float64(x) * coordinateUnit.Seconds()
	}
	return position, float64(c.Height) * coordinateUnit.Seconds(), float64(c.Error) * errorUnit
}

// RTT estimates the round trip between two nodes.
func (c Coordinate) RTT(o Coordinate) time.Duration {
	return c.Moved(o) + time.Duration(int64(c.Height)+int64(o.Height))*coordinateUnit
}

// Moved is the distance between the two positions, without the heights.
func (c Coordinate) Moved(o Coordinate) time.Duration {
	sum := 0.0
	for i := range c.Vec {
		d := float64(c.Vec[i]) - float64(o.Vec[i])
		sum += d * d
	}
	return time.Duration(math.Sqrt(sum) * float64(coordinateUnit))
}

// Append appends the coordinate as it travels: CoordinateSize bytes.
func (c Coordinate) Append(b []byte) []byte {
	for _, x := range c.Vec {
		b = binary.BigEndian.AppendUint16(b, uint16(x))
	}
	b = binary.BigEndian.AppendUint16(b, c.Height)
	return append(b, c.Error)
}

// ParseCoordinate reads what Append has written, and nothing else.
func ParseCoordinate(b []byte) (c Coordinate, ok bool) {
	if len(b) != CoordinateSize || b[CoordinateSize-1] > errorMost {
		return Coordinate{}, false
	}
	for i := range c.Vec {
		c.Vec[i] = int16(binary.BigEndian.Uint16(b[2*i:]))
	}
	c.Height = binary.BigEndian.Uint16(b[2*Dimensions:])
	c.Error = b[CoordinateSize-1]
	return c, true
}

package bulletin

import (
	"encoding/binary"
	"errors"
)

// A set of members is a set of places in a sorted list of n. Encoded, the shortest of:
//
//	nothing                     nobody
//	1 | bitmap                  n bits, the first place in the lowest bit of the first byte
//	2 | gap (uvarint) …         the places that are in it: each as the distance from the one before, the first from -1, less one
//	3 | gap (uvarint) …         those that are not
//
// of equally long ones the first. A thousand members cost at most 126 bytes, one away of them two or three.
const (
	setBitmap = 1
	setIn     = 2
	setOut    = 3
)

var errSet = errors.New("bulletin: malformed set")

// encodeSet encodes which of n places are in the set.
func encodeSet(in []bool) []byte {
	some := false
	for _, b := range in {
		some = some || b
	}
	if !some {
		return []byte{}
	}
	best := make([]byte, 1, 1+(len(in)+7)/8)
	best[0] = setBitmap
	best = append(best, make([]byte, (len(in)+7)/8)...)
	for i, b := range in {
		if b {
			best[1+i/8] |= 1 << (i % 8)
		}
	}
	for _, kind := range []byte{setIn, setOut} {
		gaps, last := []byte{kind}, -1
		for i, b := range in {
			if b == (kind == setIn) {
				gaps = binary.AppendUvarint(gaps, uint64(i-last-1))
				last = i
			}
			if len(gaps) >= len(best) {
				break
			}
		}
		if len(gaps) < len(best) {
			best = gaps
		}
	}
	return best
}

// decodeSet reads a set of n places. Whether it is the shortest form the caller checks by encoding it again.
func decodeSet(b []byte, n int) ([]bool, error) {
	out := make([]bool, n)
	if len(b) == 0 {
		return out, nil
	}
	kind, rest := b[0], b[1:]
	switch kind {
	case setBitmap:
		if len(rest) != (n+7)/8 {
			return nil, errSet
		}
		for i := range out {
			out[i] = rest[i/8]>>(i%8)&1 != 0
		}
		return out, nil
	case setIn, setOut:
	default:
		return nil, errSet
	}
	for i := range out {
		out[i] = kind == setOut
	}
	at := -1
	for len(rest) > 0 {
		gap, size := binary.Uvarint(rest)
		if size <= 0 || gap >= uint64(n) {
			return nil, errSet
		}
		if at += int(gap) + 1; at >= n {
			return nil, errSet
		}
		out[at], rest = kind == setIn, rest[size:]
	}
	return out, nil
}

package underlay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// What travels through a pipe: frames of a length in two bytes, big-endian, from 1 to pipeFrameMax, and a packet as UDP would carry it.

const (
	// pipeFrameMax is the largest packet: WireGuard's on a 9000-byte Ethernet in a relay frame, and some.
	pipeFrameMax = 9216
	pipeHeader   = 2
	// pipeRecord is what is written at once: the largest TLS record (RFC 8446 §5.1).
	pipeRecord = 1 << 14
	// pipeQueueMax is the bytes that wait to be written at most: a full batch of the WireGuard device, 128 packets of 1500 bytes, and
	// some.
	pipeQueueMax = 256 << 10
	// pipeQueueKeep is the memory that an idle queue keeps.
	pipeQueueKeep = 1 << 14
	// pipeAgeMax is how long a packet may wait; then it is dropped in place of a fresh one behind it. TCP in the tunnel knows congestion by
	// loss. The TCP underneath loses nothing, so what it cannot carry would only come later and later, until both repeat the same
	// bytes ("TCP meltdown"). A bound on the wait instead of the bytes means the same on a slow link and on a fast one.
	pipeAgeMax = 200 * time.Millisecond
)

// errFrame: the other side does not speak our protocol.
var errFrame = errors.New("underlay: malformed frame in a pipe")

// readFrame returns the next packet. It is valid until the next call. r must hold a whole frame. The error is errFrame, io.EOF only
// between two frames, or the connection's.
func readFrame(r *bufio.Reader, discard *int) ([]byte, error) {
	if _, err := r.Discard(*discard); err != nil {
		return nil, err
	}
	*discard = 0
	head, err := r.Peek(pipeHeader)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head))
	if n == 0 || n > pipeFrameMax {
		return nil, fmt.Errorf("%w: %d bytes, want 1 to %d", errFrame, n, pipeFrameMax)
	}
	b, err := r.Peek(pipeHeader + n)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		return nil, err
	}
	*discard = pipeHeader + n
	return b[pipeHeader:], nil
}

// frameQueue holds the packets that wait to be written. Putting never waits.
type frameQueue struct {
	mu   sync.Mutex
	buf  []byte // from head on: the instant (8 bytes), then the frame as it will be written
	head int

	filled chan struct{} // capacity 1: something was put
}

// stampSize is the instant in front of a queued frame.
const stampSize = 8

func newFrameQueue() frameQueue { return frameQueue{filled: make(chan struct{}, 1)} }

// put queues packets, and returns how many found no room or are no packets.
func (q *frameQueue) put(packets [][]byte, now instant) (dropped int) {
	q.mu.Lock()
	for _, p := range packets {
		need := stampSize + pipeHeader + len(p)
		if len(p) == 0 || len(p) > pipeFrameMax || len(q.buf)-q.head+need > pipeQueueMax {
			dropped++
			continue
		}
		if len(q.buf)+need > cap(q.buf) && q.head > len(q.buf)/2 { // moves at most as much as was taken since it last did
			q.buf = q.buf[:copy(q.buf, q.buf[q.head:])]
			q.head = 0
		}
		q.buf = binary.BigEndian.AppendUint64(q.buf, uint64(now))
		q.buf = binary.BigEndian.AppendUint16(q.buf, uint16(len(p)))
		q.buf = append(q.buf, p...)
	}
	q.mu.Unlock()
	select {
	case q.filled <- struct{}{}:
	default:
	}
	return dropped
}

// take appends to out the frames that fit one record, leaving out those that have waited too long, and returns how many these were.
func (q *frameQueue) take(out []byte, now instant) (_ []byte, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head < len(q.buf) {
		rest := q.buf[q.head:]
		at := instant(binary.BigEndian.Uint64(rest))
		size := pipeHeader + int(binary.BigEndian.Uint16(rest[stampSize:]))
		if now-at > pipeAgeMax {
			q.head += stampSize + size
			dropped++
			continue
		}
		if len(out)+size > pipeRecord {
			return out, dropped
		}
		out = append(out, rest[stampSize:stampSize+size]...)
		q.head += stampSize + size
	}
	q.buf, q.head = q.buf[:0], 0
	if cap(q.buf) > pipeQueueKeep && len(out) == 0 {
		q.buf = nil
	}
	return out, dropped
}

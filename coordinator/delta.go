package coordinator

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What raft says to a voter it says again and again: a heartbeat is 300 bytes of which none change, and so is an empty append, which takes
// turns with it. On a raft stream each write of raft's, one message as a rule, therefore travels as a frame that names what it has in
// common with one of the last two messages:
//
//	+---------+------------------+------------------+-----------------+------------------
//	| base, 1 | prefix (varint)  | suffix (varint)  | length (varint) | length bytes
//	+---------+------------------+------------------+-----------------+------------------
//
// message = first prefix bytes of the base, the bytes, last suffix bytes of the base. Base 0 is the message before, base 1 the one before
// that. One of over deltaMax bytes is remembered as an empty one. Each direction of a stream begins with two empty ones.
const (
	// deltaMax is well over a message without entries (about 400 bytes), and bounds what a stream costs in memory.
	deltaMax = 1024
	// deltaFrameMax bounds one frame; longer writes, snapshots, become several.
	deltaFrameMax = 16 << 10
)

var errDelta = errors.New("coordinator: malformed frame on a raft stream")

// deltaWriter is one direction of a stream, out. One goroutine at a time.
type deltaWriter struct {
	to    io.Writer
	bases bases
	frame []byte
}

// bases are the last two messages, the newer first.
type bases [2][]byte

// remember takes in a message, in the memory of the oldest.
func (b *bases) remember(message []byte) {
	kept := b[1][:0]
	if len(message) <= deltaMax {
		kept = append(kept, message...)
	}
	b[0], b[1] = kept, b[0]
}

// Write sends b in as many frames as it takes, each in one write.
func (w *deltaWriter) Write(b []byte) (int, error) {
	for sent := 0; ; {
		part := b[sent:min(len(b), sent+deltaFrameMax)]
		w.frame = w.bases.appendDelta(w.frame[:0], part)
		w.bases.remember(part)
		if _, err := w.to.Write(w.frame); err != nil {
			return sent, err
		}
		if sent += len(part); sent == len(b) {
			return sent, nil
		}
	}
}

// appendDelta appends the frame of a message, by the base that has more in common with it.
func (b *bases) appendDelta(frame, message []byte) []byte {
	base := 0
	prefix, suffix := common(b[0], message)
	if p, q := common(b[1], message); p+q > prefix+suffix {
		base, prefix, suffix = 1, p, q
	}
	middle := message[prefix : len(message)-suffix]
	frame = append(frame, byte(base))
	frame = binary.AppendUvarint(frame, uint64(prefix))
	frame = binary.AppendUvarint(frame, uint64(suffix))
	frame = binary.AppendUvarint(frame, uint64(len(middle)))
	return append(frame, middle...)
}

// common returns how many bytes two messages have in common at their beginning, and, of the rest, at their end.
func common(a, b []byte) (prefix, suffix int) {
	shorter := min(len(a), len(b))
	for prefix < shorter && a[prefix] == b[prefix] {
		prefix++
	}
	for suffix < shorter-prefix && a[len(a)-1-suffix] == b[len(b)-1-suffix] {
		suffix++
	}
	return prefix, suffix
}

// deltaReader is one direction of a stream, in. One goroutine at a time.
type deltaReader struct {
	from    *bufio.Reader
	bases   bases
	message []byte
	unread  []byte // of message
}

func newDeltaReader(from io.Reader) *deltaReader { return &deltaReader{from: bufio.NewReader(from)} }

// Read returns the bytes that were written at the other end.
func (r *deltaReader) Read(b []byte) (int, error) {
	for len(r.unread) == 0 {
		if len(b) == 0 {
			return 0, nil
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, r.unread)
	r.unread = r.unread[n:]
	return n, nil
}

// next reads a frame.
func (r *deltaReader) next() error {
	base, err := r.from.ReadByte()
	if err != nil {
		return err // io.EOF here is the end of the stream between two frames
	}
	var head [3]uint64
	for i := range head {
		if head[i], err = binary.ReadUvarint(r.from); err != nil {
			return err
		}
	}
	if int(base) >= len(r.bases) {
		return fmt.Errorf("%w: base %d", errDelta, base)
	}
	last, prefix, suffix, length := r.bases[base], head[0], head[1], head[2]
	known := uint64(len(last))
	if prefix > known || suffix > known-prefix || length > deltaFrameMax {
		return fmt.Errorf("%w: %d and %d of %d known bytes, %d new", errDelta, prefix, suffix, known, length)
	}
	r.message = append(r.message[:0], last[:prefix]...)
	r.message = append(r.message, make([]byte, length)...)
	if _, err := io.ReadFull(r.from, r.message[prefix:]); err != nil {
		return err
	}
	r.message = append(r.message, last[known-suffix:]...)
	if len(r.message) > deltaFrameMax {
		return fmt.Errorf("%w: message of %d bytes", errDelta, len(r.message))
	}
	r.bases.remember(r.message)
	r.unread = r.message
	return nil
}

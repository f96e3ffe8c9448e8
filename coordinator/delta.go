package coordinator

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What raft says to a voter it says again and again: a heartbeat is 300 bytes of which none change. On a raft stream each write of
// raft's, one message as a rule, therefore travels as a frame that names what it has in common with the message before it:
//
//	+------------------+------------------+-----------------+------------------
//	| prefix (varint)  | suffix (varint)  | length (varint) | length bytes
//	+------------------+------------------+-----------------+------------------
//
// message = first prefix bytes of the one before, the bytes, last suffix bytes of the one before. A message of over deltaMax bytes is
// not remembered: what comes after it has nothing in common. Each direction of a stream begins with nothing to remember.
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
	last  []byte
	frame []byte
}

// Write sends b in as many frames as it takes, each in one write.
func (w *deltaWriter) Write(b []byte) (int, error) {
	for sent := 0; ; {
		part := b[sent:min(len(b), sent+deltaFrameMax)]
		w.frame = appendDelta(w.frame[:0], w.last, part)
		w.last = remember(w.last, part)
		if _, err := w.to.Write(w.frame); err != nil {
			return sent, err
		}
		if sent += len(part); sent == len(b) {
			return sent, nil
		}
	}
}

// appendDelta appends the frame of a message that follows last.
func appendDelta(frame, last, message []byte) []byte {
	prefix, suffix := 0, 0
	for prefix < min(len(last), len(message)) && last[prefix] == message[prefix] {
		prefix++
	}
	for suffix < min(len(last), len(message))-prefix && last[len(last)-1-suffix] == message[len(message)-1-suffix] {
		suffix++
	}
	middle := message[prefix : len(message)-suffix]
	frame = binary.AppendUvarint(frame, uint64(prefix))
	frame = binary.AppendUvarint(frame, uint64(suffix))
	frame = binary.AppendUvarint(frame, uint64(len(middle)))
	return append(frame, middle...)
}

// remember returns what the next message is compared with, in the memory of the last.
func remember(last, message []byte) []byte {
	if len(message) > deltaMax {
		return last[:0]
	}
	return append(last[:0], message...)
}

// deltaReader is one direction of a stream, in. One goroutine at a time.
type deltaReader struct {
	from    *bufio.Reader
	last    []byte
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
	prefix, err := binary.ReadUvarint(r.from)
	if err != nil {
		return err // io.EOF here is the end of the stream between two frames
	}
	suffix, err1 := binary.ReadUvarint(r.from)
	length, err2 := binary.ReadUvarint(r.from)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	known := uint64(len(r.last))
	if prefix > known || suffix > known-prefix || length > deltaFrameMax {
		return fmt.Errorf("%w: %d and %d of %d known bytes, %d new", errDelta, prefix, suffix, known, length)
	}
	r.message = append(r.message[:0], r.last[:prefix]...)
	r.message = append(r.message, make([]byte, length)...)
	if _, err := io.ReadFull(r.from, r.message[prefix:]); err != nil {
		return err
	}
	r.message = append(r.message, r.last[known-suffix:]...)
	if len(r.message) > deltaFrameMax {
		return fmt.Errorf("%w: message of %d bytes", errDelta, len(r.message))
	}
	r.last, r.unread = remember(r.last, r.message), r.message
	return nil
}

package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A frame on an exchange stream:
//
//	 0        1        2        3
//	+--------+--------+--------+----------------
//	| kind   | length (big end) | body, length bytes
//	+--------+--------+--------+----------------
//
// One exchange, one stream, begun by either side:
//
//	begins                         answers
//	  offer     ───────────────▶
//	            ◀───────────────  accept
//	  confirm   ───────────────▶  puts the key in place
//	            ◀───────────────  installed (1 byte: 1 if its WireGuard peer was made anew)
//	  puts the key in place, sends a WireGuard handshake
//
// refused (1 byte: why) may take the place of any answer.

// frameKind is the first byte of a frame.
type frameKind uint8

const (
	frameOffer     frameKind = 1
	frameAccept    frameKind = 2
	frameConfirm   frameKind = 3
	frameInstalled frameKind = 4
	frameRefused   frameKind = 5
)

// frameMax bounds a body: the largest, an offer, holds 1,216 bytes of X-Wing public key and little more.
const frameMax = 2048

// refusal says why an exchange was refused.
type refusal uint8

const (
	refusalYield     refusal = 1 // my own offer goes first
	refusalNotMember refusal = 2 // you are revoked, or I do not know you
	refusalFailed    refusal = 3 // the exchange did not work out
)

// refusedError is a refusal as received.
type refusedError struct{ why refusal }

func (e *refusedError) Error() string {
	switch e.why {
	case refusalYield:
		return "the other side's exchange goes first"
	case refusalNotMember:
		return "the other side does not take us for a member"
	}
	return "the other side could not complete the exchange"
}

var errFrame = errors.New("unexpected frame on an exchange stream")

func writeFrame(w io.Writer, kind frameKind, body []byte) error {
	if len(body) > frameMax {
		return fmt.Errorf("frame %d of %d bytes: %w", kind, len(body), errFrame)
	}
	b := make([]byte, 3, 3+len(body))
	b[0] = byte(kind)
	binary.BigEndian.PutUint16(b[1:], uint16(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readFrame reads a frame that must be of the kind. A refusal in its place becomes a *refusedError.
func readFrame(r io.Reader, want frameKind) ([]byte, error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	kind, length := frameKind(head[0]), int(binary.BigEndian.Uint16(head[1:]))
	if kind != want && kind != frameRefused || length > frameMax {
		return nil, fmt.Errorf("kind %d, %d bytes where kind %d was due: %w", kind, length, want, errFrame)
	}
	if (kind == frameRefused || kind == frameInstalled) && length != 1 {
		return nil, fmt.Errorf("kind %d of %d bytes: %w", kind, length, errFrame)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if kind == frameRefused {
		return nil, &refusedError{why: refusal(body[0])}
	}
	return body, nil
}

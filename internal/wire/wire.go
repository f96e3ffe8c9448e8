package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/fxamacker/cbor/v2"
)

// Bounds on what a decoder builds, whatever the input claims.
const (
	nestedMax   = 16    // our deepest structure has 6 levels
	elementsMax = 65536 // a mesh state's members; larger lists are cut into pages
)

// What is wrong with bytes that were refused.
var (
	// ErrForm: not CBOR, or not of the wanted shape.
	ErrForm = errors.New("wire: malformed")
	// ErrNotCanonical: the value is fine but the bytes are not its one canonical form.
	ErrNotCanonical = errors.New("wire: not in canonical form")
	// ErrTooLarge: a message is longer than its reader or writer allows.
	ErrTooLarge = errors.New("wire: message too large")
)

var encMode, decMode = modes()

func modes() (cbor.EncMode, cbor.DecMode) {
	e := cbor.CoreDetEncOptions()
	e.IndefLength = cbor.IndefLengthForbidden
	e.TagsMd = cbor.TagsForbidden
	e.Time = cbor.TimeUnix
	enc, err := e.EncMode()
	if err != nil {
		panic("wire: encoder options: " + err.Error())
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   nestedMax,
		MaxArrayElements:  elementsMax,
		MaxMapPairs:       elementsMax,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic("wire: decoder options: " + err.Error())
	}
	return enc, dec
}

// Marshal gives the canonical bytes of v.
func Marshal(v any) ([]byte, error) { return encMode.Marshal(v) }

// Unmarshal reads b into v, a pointer to a zero value. It returns [ErrForm] or [ErrNotCanonical]; v is then unusable.
func Unmarshal(b []byte, v any) error {
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	again, err := encMode.Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	if !bytes.Equal(again, b) {
		return ErrNotCanonical
	}
	return nil
}

// First cuts the first value off a sequence of them (RFC 8742), without a look at what it is; rest is empty after the last. It returns [ErrForm].
func First(b []byte) (first, rest []byte, err error) {
	var raw cbor.RawMessage
	rest, err = decMode.UnmarshalFirst(b, &raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	return b[:len(b)-len(rest)], rest, nil
}

// headSize is the length in front of a message: four bytes, big-endian.
const headSize = 4

// WriteMessage writes v as one message of at most max bytes, in a single Write.
func WriteMessage(w io.Writer, v any, max int) error {
	body, err := Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > max {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), max)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, headSize+len(body)), uint32(len(body))), body...))
	return err
}

// ReadMessage reads one message of at most max bytes into v. A longer one is [ErrTooLarge], before anything is allocated for it.
func ReadMessage(r io.Reader, v any, max int) error {
	return ReadMessageIf(r, v, func(size int) error {
		if size > max {
			return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, max)
		}
		return nil
	})
}

// ReadMessageIf is ReadMessage where the reader decides by the size whether it takes the message; what take returns is returned.
func ReadMessageIf(r io.Reader, v any, take func(size int) error) error {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if uint64(n) > uint64(math.MaxInt32) {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
	}
	if err := take(int(n)); err != nil {
		return err
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return Unmarshal(body, v)
}

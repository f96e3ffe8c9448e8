package dataplane

import (
	"context"
	"io"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Stream is what an exchange needs of a control stream. The peer at its other end has been authenticated as a member.
type Stream interface {
	io.Reader
	io.Writer
	SetDeadline(t time.Time) error
	// Exporter returns keying material of the TLS session (RFC 8446 §7.5), the same at both ends and nowhere else.
	Exporter(label string, context []byte) ([32]byte, error)
	// Close ends the stream; what was written is still delivered.
	Close() error
	// Reset breaks the stream off in both directions, at once. It may be called at any time.
	Reset()
}

// Streams is what the plane needs of the control channel. Over a *control.Host it is made by the plane; the simulator and the tests
// may bring their own.
type Streams interface {
	// Open opens an exchange stream to a member.
	Open(ctx context.Context, id identity.NodeID) (Stream, error)
	// Handle registers who answers exchange streams. f runs in a goroutine of its own for each stream, which
	// is closed when f returns.
	Handle(f func(ctx context.Context, id identity.NodeID, s Stream))
	// OnConnection registers who is told that a member's control connection came up or was lost.
	OnConnection(f func(id identity.NodeID, up bool))
}

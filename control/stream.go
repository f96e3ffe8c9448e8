package control

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Peer is who is at the other end, proven by the hello.
type Peer struct {
	ID     identity.NodeID
	Public identity.Public
	Member *certificate.Member // nil: a stranger, or we are not enrolled and cannot tell
}

// Address is a node as a net.Addr.
type Address identity.NodeID

// Network returns "phantommesh".
func (Address) Network() string { return "phantommesh" }

// String returns the node ID.
func (a Address) String() string { return identity.NodeID(a).String() }

// Stream is a two-way stream of bytes of one protocol with one peer. It is a net.Conn: Close ends both directions and may be
// called at any time; what was written before is still delivered, unless the connection ends.
type Stream struct {
	conn     *connection
	quic     *quic.Stream
	protocol string

	ctx    context.Context // ends with the stream's Close or with the connection
	cancel context.CancelFunc
	closed atomic.Bool
	ended  sync.Once

	// writing is held by Write and by whoever ends the writing direction: quic-go allows no Close beside a Write.
	writing sync.Mutex
}

var _ net.Conn = (*Stream)(nil)

func newStream(c *connection, qs *quic.Stream, protocol string) *Stream {
	s := &Stream{conn: c, quic: qs, protocol: protocol}
	s.ctx, s.cancel = context.WithCancel(c.quic.Context())
	c.open.Add(1)
	context.AfterFunc(s.ctx, s.release)
	return s
}

// release gives the stream's place back, once.
func (s *Stream) release() { s.ended.Do(func() { s.conn.open.Add(-1) }) }

// Peer returns who is at the other end.
func (s *Stream) Peer() Peer { return s.conn.peer }

// Protocol returns the name the stream was opened with.
func (s *Stream) Protocol() string { return s.protocol }

// Context ends when the stream is closed at this end or its connection ends. A handler that passes its stream on waits for it.
func (s *Stream) Context() context.Context { return s.ctx }

// Read reads what the peer wrote; io.EOF when it has closed its side. Other errors: *Refused, ErrReset, ErrConnectionLost,
// os.ErrDeadlineExceeded, net.ErrClosed after our own Close.
func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.quic.Read(b)
	return n, s.failure(err)
}

// Write writes to the peer. Errors as with Read.
func (s *Stream) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	n, err := s.quic.Write(b)
	return n, s.failure(err)
}

// failure is err in our own words.
func (s *Stream) failure(err error) error {
	switch {
	case err == nil:
		return nil
	case s.closed.Load() && s.conn.alive():
		return net.ErrClosed
	}
	return translate(err, s.conn.peer.ID)
}

// CloseWrite tells the peer that nothing more will be written; reading goes on. It waits for a Write in progress.
func (s *Stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.failure(s.quic.Close())
}

// Close ends the stream: nothing more is read, and the peer reads to the end of what was written. A Write that is blocked
// meanwhile fails, and then so does the peer's Read.
func (s *Stream) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.quic.CancelRead(streamClosed)
	if s.writing.TryLock() {
		_ = s.quic.Close() // an error means it is closed or broken off already
		s.writing.Unlock()
	} else {
		s.quic.CancelWrite(streamReset)
	}
	s.cancel()
	return nil
}

// Reset breaks the stream off in both directions: the peer's Read fails with ErrReset, what is on the way may be lost.
func (s *Stream) Reset() {
	s.closed.Store(true)
	abort(s.quic, streamReset)
	s.cancel()
}

// Exporter returns 32 bytes of TLS keying material of the stream's connection (RFC 8446 §7.5): the same at both ends for the same
// label and context, different for every connection, known to nobody else.
func (s *Stream) Exporter(label string, context []byte) (out [32]byte, err error) {
	state := s.conn.quic.ConnectionState().TLS
	b, err := state.ExportKeyingMaterial(label, context, len(out))
	if err != nil {
		return out, fmt.Errorf("control: TLS exporter %q: %w", label, err)
	}
	copy(out[:], b)
	return out, nil
}

// LocalAddr returns our node ID as an [Address].
func (s *Stream) LocalAddr() net.Addr { return Address(s.conn.host.self) }

// RemoteAddr returns the peer's node ID as an [Address].
func (s *Stream) RemoteAddr() net.Addr { return Address(s.conn.peer.ID) }

// SetDeadline sets both deadlines, see net.Conn.
func (s *Stream) SetDeadline(t time.Time) error { return s.failure(s.quic.SetDeadline(t)) }

// SetReadDeadline sets the deadline of Read, see net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.failure(s.quic.SetReadDeadline(t)) }

// SetWriteDeadline sets the deadline of Write, see net.Conn.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.failure(s.quic.SetWriteDeadline(t)) }

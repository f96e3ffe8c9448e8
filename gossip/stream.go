package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

const (
	// streamMax is the most that one stream may bring, in bytes: membersMax records of at most ~800 bytes, with room.
	streamMax = 16 << 20
	// membersMax is the most members that one push/pull may list. Memberlist reserves ~112 bytes for each before it has read one.
	membersMax = 16384
	// headMax bounds the head of a push/pull, which has about 40 bytes.
	headMax = 128
)

var errStreamForm = errors.New("gossip: stream refused")

// stream is a connection of memberlist's that is closed at shutdown and read with care: before memberlist sees a byte, the kind
// of message and the sizes it announces have been checked.
type stream struct {
	net.Conn
	owner   *transport
	with    identity.NodeID
	inbound bool
	closed  chan struct{}
	once    sync.Once

	// Used by the one goroutine that writes: what goes before its first bytes.
	preface []byte

	// Used by the one goroutine that reads.
	in  io.Reader // nil until the head has been checked
	err error
}

func newStream(t *transport, conn net.Conn, with identity.NodeID, inbound bool) *stream {
	s := &stream{Conn: conn, owner: t, with: with, inbound: inbound, closed: make(chan struct{})}
	if !inbound {
		s.preface = t.scope.appendPreface(nil)
	}
	return s
}

// Read implements net.Conn.
func (s *stream) Read(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.in == nil {
		head, entries, err := checkHead(s.Conn, s.inbound)
		if err != nil {
			if errors.Is(err, errStreamForm) {
				s.owner.stats.refuse(refusedStream)
			}
			s.err = err
			return 0, err
		}
		s.in = io.MultiReader(head, newList(s.owner, s.with, entries, io.LimitReader(s.Conn, streamMax)))
	}
	n, err := s.in.Read(b)
	s.owner.stats.streamBytesIn.Add(uint64(n))
	return n, err
}

// Write implements net.Conn.
func (s *stream) Write(b []byte) (int, error) {
	before := len(s.preface)
	if before > 0 {
		b, s.preface = append(s.preface, b...), nil
	}
	n, err := s.Conn.Write(b)
	s.owner.stats.streamBytesOut.Add(uint64(n))
	return max(0, n-before), err
}

// Close implements net.Conn.
func (s *stream) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.owner.untrack(s)
	})
	return s.Conn.Close()
}

// RemoteAddr implements net.Conn: to memberlist, and in its log, the other end is a node.
func (s *stream) RemoteAddr() net.Addr { return nodeAddr(s.with) }

// recorder keeps what was read through it.
type recorder struct {
	from io.Reader
	kept []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	r.kept = append(r.kept, b[:n]...)
	return n, err
}

// checkHead reads the beginning of a message and returns it to be read again. Who called may send a ping or a push/pull and gets
// an acknowledgement, a push/pull or an error; nothing else passes. entries is how many a push/pull announces.
func checkHead(conn io.Reader, inbound bool) (again io.Reader, entries int, err error) {
	rec := &recorder{from: io.LimitReader(conn, headMax)}
	var kind [1]byte
	if _, err := io.ReadFull(rec, kind[:]); err != nil {
		return nil, 0, err
	}
	switch kind[0] {
	case typePushPull:
		if entries, err = checkPushPull(rec); err != nil {
			return nil, 0, err
		}
	case typePing:
		if !inbound {
			return nil, 0, fmt.Errorf("%w: a ping for an answer", errStreamForm)
		}
	case typeAck, typeError:
		if inbound {
			return nil, 0, fmt.Errorf("%w: an answer to nothing", errStreamForm)
		}
	default:
		return nil, 0, fmt.Errorf("%w: message of type %d", errStreamForm, kind[0])
	}
	return bytes.NewReader(rec.kept), entries, nil
}

// checkPushPull reads the head of a push/pull and checks what memberlist would reserve memory for.
func checkPushPull(r io.Reader) (entries int, err error) {
	var head struct {
		Nodes        int
		UserStateLen int
		Join         bool
	}
	var handle codec.MsgpackHandle
	if err := codec.NewDecoder(r, &handle).Decode(&head); err != nil {
		return 0, fmt.Errorf("%w: head of a push/pull: %w", errStreamForm, err)
	}
	if head.Nodes < 0 || head.Nodes > membersMax || head.UserStateLen < 0 || head.UserStateLen > SharedMax {
		return 0, fmt.Errorf("%w: push/pull of %d members and %d bytes", errStreamForm, head.Nodes, head.UserStateLen)
	}
	return head.Nodes, nil
}

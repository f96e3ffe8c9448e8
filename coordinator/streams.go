package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// The protocols this package speaks. All but enroll are for members only.
const (
	ProtocolEnroll = "enroll"
	ProtocolDecide = "decide"
	ProtocolState  = "state"
	ProtocolRaft   = "raft"
	ProtocolRegion = "region"
)

// Peer is who is at the other end of a stream, as control has authenticated it.
type Peer struct {
	ID     identity.NodeID
	Member *certificate.Member // nil: a stranger
}

// Stream is one stream of a protocol.
type Stream interface {
	net.Conn
	Peer() Peer
	CloseWrite() error
}

// Streams opens and serves streams by protocol name. OverControl makes one of a control.Host; tests use pipes.
type Streams interface {
	Open(ctx context.Context, id identity.NodeID, protocol string) (Stream, error)
	// Handle registers what serves a protocol; serve owns its stream. Strangers get in only where allowed.
	Handle(protocol string, strangers bool, serve func(ctx context.Context, s Stream))
}

// raftAddr is a node ID as raft sees it: server ID and server address at once.
type raftAddr identity.NodeID

// Network is part of net.Addr.
func (raftAddr) Network() string { return "phantommesh" }

// String returns the node ID.
func (a raftAddr) String() string { return identity.NodeID(a).String() }

func serverID(id identity.NodeID) raft.ServerID           { return raft.ServerID(id.String()) }
func serverAddress(id identity.NodeID) raft.ServerAddress { return raft.ServerAddress(id.String()) }

// incomingMax: streams that wait for raft's listener, which takes them at once: two a voter are open in normal work.
const incomingMax = 32

var errStreamsClosed = errors.New("coordinator: raft streams are closed")

// raftStreams is raft's network: net.Listener and dialer over control streams. Closing it closes every stream, which is also how
// a fenced replica falls silent.
type raftStreams struct {
	self     identity.NodeID
	lineage  Lineage
	open     func(ctx context.Context, id identity.NodeID) (Stream, error)
	dialled  func(raft.ServerID) // told of every new stream, before anything is sent on it; constant after start
	incoming chan *raftConn
	ctx      context.Context
	cancel   context.CancelFunc

	mu     sync.Mutex
	closed bool
	conns  map[*raftConn]struct{}
}

func newRaftStreams(self identity.NodeID, lineage Lineage, open func(context.Context, identity.NodeID) (Stream, error)) *raftStreams {
	s := &raftStreams{self: self, lineage: lineage, open: open, incoming: make(chan *raftConn, incomingMax), conns: map[*raftConn]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// raftConn is a stream that raft holds.
type raftConn struct {
	Stream
	owner *raftStreams
	in    *deltaReader
	out   *deltaWriter
	once  sync.Once
	done  chan struct{}
}

// Read implements net.Conn for raft, which reads and writes a stream from one goroutine at a time each.
func (c *raftConn) Read(b []byte) (int, error) { return c.in.Read(b) }

// Write implements net.Conn.
func (c *raftConn) Write(b []byte) (int, error) { return c.out.Write(b) }

// RemoteAddr is the peer's node ID, for raft's log.
func (c *raftConn) RemoteAddr() net.Addr { return raftAddr(c.Peer().ID) }

// Close ends the stream for raft and for the handler that waits on done.
func (c *raftConn) Close() error {
	var err error
	c.once.Do(func() {
		err = c.Stream.Close()
		c.owner.forget(c)
		close(c.done)
	})
	return err
}

func (s *raftStreams) track(stream Stream) (*raftConn, error) {
	c := &raftConn{Stream: stream, owner: s, in: newDeltaReader(stream), out: &deltaWriter{to: stream}, done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errStreamsClosed
	}
	s.conns[c] = struct{}{}
	return c, nil
}

func (s *raftStreams) forget(c *raftConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// drop closes the streams with nodes that match: those that are no longer members.
func (s *raftStreams) drop(match func(identity.NodeID) bool) {
	s.mu.Lock()
	var out []*raftConn
	for c := range s.conns {
		if match(c.Peer().ID) {
			out = append(out, c)
		}
	}
	s.mu.Unlock()
	for _, c := range out {
		c.Close()
	}
}

// serve hands an incoming stream to raft and returns when raft is done with it.
func (s *raftStreams) serve(ctx context.Context, stream Stream) error {
	c, err := s.track(stream)
	if err != nil {
		return err
	}
	defer c.Close()
	select {
	case s.incoming <- c:
	case <-s.ctx.Done():
		return errStreamsClosed
	default:
		return fmt.Errorf("coordinator: %d raft streams wait already", incomingMax)
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	return nil
}

// Accept implements net.Listener.
func (s *raftStreams) Accept() (net.Conn, error) {
	select {
	case c := <-s.incoming:
		return c, nil
	case <-s.ctx.Done():
		return nil, errStreamsClosed
	}
}

// Addr implements net.Listener.
func (s *raftStreams) Addr() net.Addr { return raftAddr(s.self) }

// Dial implements raft.StreamLayer.
func (s *raftStreams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, err := identity.ParseNodeID(string(address))
	if err != nil {
		return nil, fmt.Errorf("coordinator: raft server address: %w", err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	stream, err := s.open(ctx, id)
	if err != nil {
		return nil, err
	}
	c, err := s.track(stream)
	if err != nil {
		stream.Close()
		return nil, err
	}
	s.dialled(raft.ServerID(address))
	stream.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := stream.Write(s.lineage.preamble()); err != nil {
		c.Close()
		return nil, err
	}
	stream.SetWriteDeadline(time.Time{})
	return c, nil
}

// A raft stream begins with the lineage of the dialer's log, generation (2 bytes, big-endian) and node ID, so that logs of different
// lineages, whose entries may bear the same index and term, never meet.
const preambleBytes = 2 + len(identity.NodeID{})

func (l Lineage) preamble() []byte {
	return append(binary.BigEndian.AppendUint16(nil, l.Generation), l.By[:]...)
}

func readPreamble(r io.Reader) (l Lineage, err error) {
	var b [preambleBytes]byte
	if _, err = io.ReadFull(r, b[:]); err == nil {
		l.Generation = binary.BigEndian.Uint16(b[:])
		copy(l.By[:], b[2:])
	}
	return l, err
}

// Close ends every stream and dial. It returns when no byte can leave any more.
func (s *raftStreams) Close() error {
	s.mu.Lock()
	s.closed = true
	open := make([]*raftConn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	s.cancel()
	for _, c := range open {
		c.Close()
	}
	return nil
}

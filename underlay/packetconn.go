package underlay

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// packetConn is the socket as QUIC sees it.
type packetConn struct {
	socket *Socket
	read   deadline
	closed chan struct{}
	once   sync.Once
}

var _ net.PacketConn = (*packetConn)(nil)

// PacketConn returns a net.PacketConn for QUIC. Its addresses are of type [Addr]. Packets come only from validated paths; a packet
// to a node without a path is lost, as UDP packets may be, and a path is looked for. Paths may be as narrow as 1280 bytes: configure
// QUIC with InitialPacketSize 1200. Closing it does not close the socket.
func (s *Socket) PacketConn() net.PacketConn {
	return &packetConn{socket: s, read: newDeadline(), closed: make(chan struct{})}
}

// ReadFrom reads a packet. It returns [net.ErrClosed] or [os.ErrDeadlineExceeded].
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	expired := c.read.wait()
	select {
	case <-c.closed:
		return 0, nil, net.ErrClosed
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	default:
	}
	select {
	case p := <-c.socket.quic:
		n := copy(b, p.buf[:p.size])
		addr := p.node.addr
		quicBuffers.Put(p.buf)
		return n, addr, nil
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded
	case <-c.closed:
		return 0, nil, net.ErrClosed
	case <-c.socket.done:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo sends a packet to a node. Like UDP it reports only what the caller can do something about.
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	s := c.socket
	if !s.open() {
		return 0, net.ErrClosed
	}
	addr, ok := to.(Addr)
	if !ok {
		return 0, fmt.Errorf("underlay: send to %T %s: not an underlay.Addr", to, to)
	}
	if len(b) == 0 || b[0]&quicBit == 0 {
		return 0, fmt.Errorf("underlay: packet of %d bytes is not QUIC", len(b))
	}
	n := s.nodes.get(addr.Key)
	if n == nil {
		if n = s.memberByKey(addr.Key); n == nil {
			s.stats.drop(dropNoPath, 1)
			return len(b), nil
		}
	}
	_ = n.send([][]byte{b}, questions) // counted; QUIC finds out by itself
	return len(b), nil
}

// memberByKey returns the node of the member with the key.
func (s *Socket) memberByKey(key identity.WireGuardKey) *node {
	if e, ok := s.peers.ByKey(key); ok {
		return s.memberNode(e.ID)
	}
	return nil
}

// Close makes reads return net.ErrClosed.
func (c *packetConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// LocalAddr returns our own Addr.
func (c *packetConn) LocalAddr() net.Addr { return Addr{c.socket.public} }

// SetDeadline sets the read deadline: writes never wait.
func (c *packetConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline sets the time from which reads return [os.ErrDeadlineExceeded]; zero: never.
func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.read.set(t)
	return nil
}

// SetWriteDeadline does nothing: writes never wait.
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer and SetWriteBuffer do nothing: the queue is of fixed size and the system's buffers are set by the Bind. They are here
// because quic-go complains where they are not.
func (c *packetConn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing, like SetReadBuffer.
func (c *packetConn) SetWriteBuffer(int) error { return nil }

// deadline is a channel that closes at a time that can be moved (the pattern of net.Pipe).
type deadline struct {
	mu      *sync.Mutex
	timer   *time.Timer
	expired chan struct{}
}

func newDeadline() deadline { return deadline{mu: &sync.Mutex{}, expired: make(chan struct{})} }

// set moves the deadline. Reads under way notice.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.expired // the timer's function closes it at any moment
	}
	d.timer = nil
	past := false
	select {
	case <-d.expired:
		past = true
	default:
	}
	if t.IsZero() {
		if past {
			d.expired = make(chan struct{})
		}
		return
	}
	if wait := time.Until(t); wait > 0 {
		if past {
			d.expired = make(chan struct{})
		}
		c := d.expired
		d.timer = time.AfterFunc(wait, func() { close(c) })
		return
	}
	if !past {
		close(d.expired)
	}
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

// SendGossip sends a sealed gossip packet to a member; asks says whether it is to answer, so that its silence means something. Errors:
// [ErrUnknownNode], [ErrTooLarge], [ErrNoPath] (one is looked for), or the system's.
func (s *Socket) SendGossip(id identity.NodeID, b []byte, asks bool) error {
	if len(b) > gossipLimit {
		return fmt.Errorf("underlay: gossip packet of %d bytes, at most %d: %w", len(b), gossipLimit, ErrTooLarge)
	}
	n := s.memberNode(id)
	if n == nil {
		return fmt.Errorf("underlay: gossip to %s: %w", id.Short(), ErrUnknownNode)
	}
	packet := append(make([]byte, 0, len(b)+1), gossipByte)
	what := news
	if asks {
		what = questions
	}
	return n.send([][]byte{append(packet, b...)}, what)
}

// Gossip returns the channel of gossip packets that arrived. It is not closed. Who does not read loses packets, which are counted.
func (s *Socket) Gossip() <-chan GossipPacket { return s.gossip }

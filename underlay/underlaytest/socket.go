package underlaytest

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

const (
	// batchSize is what a ReceiveFunc returns at most; small, so that batches are split in tests too.
	batchSize = 8
	// queueSize is the packets a process's bound socket holds before it drops, as a kernel does; spareQueueSize those of another.
	queueSize      = 4096
	spareQueueSize = 64
)

// socket is one open UDP port. Its queue has a lock of its own, so that readers don't hold up the network.
type socket struct {
	process *Process
	port    uint16
	done    chan struct{}
	ready   chan struct{} // 1: there is something in the queue
	max     int

	mu    sync.Mutex // guards what follows; taken after network.mu
	queue []datagram // from first on
	first int
}

type datagram struct {
	from netip.AddrPort
	to   netip.Addr
	data []byte
}

func newSocket(p *Process, port uint16, size int) *socket {
	return &socket{process: p, port: port, done: make(chan struct{}), ready: make(chan struct{}, 1), max: size}
}

// put queues a packet; false: there is no room.
func (s *socket) put(d datagram) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue)-s.first >= s.max {
		return false
	}
	if s.first > 64 && 2*s.first > len(s.queue) { // move the rest to the front rather than grow
		n := copy(s.queue, s.queue[s.first:])
		clear(s.queue[n:])
		s.queue, s.first = s.queue[:n], 0
	}
	s.queue = append(s.queue, d)
	s.signal()
	return true
}

func (s *socket) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// take calls f with what is queued, at most max packets, and returns their number.
func (s *socket) take(max int, f func(int, datagram)) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; n < max && s.first < len(s.queue); n++ {
		f(n, s.queue[s.first])
		s.queue[s.first] = datagram{}
		s.first++
	}
	if s.first == len(s.queue) {
		s.queue, s.first = s.queue[:0], 0
	} else {
		s.signal() // another reader may be waiting
	}
	return n
}

// receive is a conn.ReceiveFunc.
func (s *socket) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	for {
		select {
		case <-s.done:
			return 0, net.ErrClosed
		case <-s.ready:
		}
		n := s.take(len(bufs), func(i int, d datagram) {
			sizes[i] = copy(bufs[i], d.data)
			eps[i] = &Endpoint{AddrPort: d.from, Src: d.to}
		})
		if n > 0 {
			return n, nil
		}
	}
}

// packetConn is a spare socket as a net.PacketConn.
type packetConn struct {
	socket *socket
	local  netip.AddrPort
	remote netip.AddrPort // of a connected one; else invalid

	mu      sync.Mutex
	readBy  time.Time
	changed chan struct{} // closed and replaced when readBy changes
}

func newPacketConn(s *socket, local netip.AddrPort) *packetConn {
	return &packetConn{socket: s, local: local, changed: make(chan struct{})}
}

func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		c.mu.Lock()
		by, changed := c.readBy, c.changed
		c.mu.Unlock()
		var expired <-chan time.Time
		var timer *time.Timer
		if !by.IsZero() {
			timer = time.NewTimer(time.Until(by))
			expired = timer.C
		}
		n, from, err, again := c.readOnce(b, expired, changed)
		if timer != nil {
			timer.Stop()
		}
		if !again {
			return n, from, err
		}
	}
}

// readOnce waits for a packet, the deadline or another deadline.
func (c *packetConn) readOnce(b []byte, expired <-chan time.Time, changed <-chan struct{}) (n int, from net.Addr, err error, again bool) {
	select {
	case <-c.socket.done:
		return 0, nil, net.ErrClosed, false
	case <-expired:
		return 0, nil, os.ErrDeadlineExceeded, false
	case <-changed:
		return 0, nil, nil, true
	case <-c.socket.ready:
	}
	taken := c.socket.take(1, func(_ int, d datagram) {
		if !c.remote.IsValid() || c.remote == d.from {
			n, from = copy(b, d.data), net.UDPAddrFromAddrPort(d.from)
		}
	})
	return n, from, nil, taken == 0 || from == nil
}

func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	a, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, conn.ErrWrongEndpointType
	}
	ap := a.AddrPort()
	return c.write(b, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
}

func (c *packetConn) write(b []byte, to netip.AddrPort) (int, error) {
	select {
	case <-c.socket.done:
		return 0, net.ErrClosed
	default:
	}
	src := c.local.Addr()
	if src.IsUnspecified() {
		src = netip.Addr{}
	}
	if err := c.socket.process.send([][]byte{b}, c.socket.port, &Endpoint{AddrPort: to, Src: src}, true); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read and Write are those of a connected socket.
func (c *packetConn) Read(b []byte) (int, error) {
	n, _, err := c.ReadFrom(b)
	return n, err
}

func (c *packetConn) Write(b []byte) (int, error) { return c.write(b, c.remote) }

func (c *packetConn) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(c.remote) }

func (c *packetConn) Close() error {
	n := c.socket.process.host.network
	n.mu.Lock()
	defer n.mu.Unlock()
	c.socket.closeLocked()
	return nil
}

func (c *packetConn) LocalAddr() net.Addr {
	if c.local.IsValid() {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.local.Addr(), c.socket.port))
	}
	return &net.UDPAddr{Port: int(c.socket.port)}
}

func (c *packetConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = t
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// SetWriteDeadline does nothing: writing never waits.
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

package underlaytest

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const (
	// backlogSize is how many connections wait to be accepted; more are refused.
	backlogSize = 128
	// windowSize is how much one side may write before the other reads.
	windowSize = 64 << 10
	// segmentMax is what one segment holds: an Ethernet frame's payload less the headers of IPv6 and TCP with its usual options.
	segmentMax = 1428
	// retryFirst is when a lost segment is sent again, later and later up to retryMax apart; what Linux does (TCP_RTO_MIN, TCP_RTO_MAX). There is
	// no faster repair, and no congestion control.
	retryFirst = 200 * time.Millisecond
	retryMax   = 2 * time.Minute
	// connectRetry is the same for opening.
	connectRetry = time.Second
	// giveUp is when a connection over which nothing gets breaks: tcp_retries2 of Linux.
	giveUp = 15 * time.Minute
)

// listener is a TCP port in memory.
type listener struct {
	process *Process
	addr    netip.AddrPort
	backlog chan *stream
	done    chan struct{}
}

// ListenTCP listens on an address of the host, or on all with the unspecified address; what underlay.Config.ListenTCP wants.
// EADDRINUSE if the port is taken.
func (p *Process) ListenTCP(addr netip.AddrPort) (net.Listener, error) {
	h := p.host
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	if p.dead {
		return nil, net.ErrClosed
	}
	if h.listeners[addr] != nil {
		return nil, syscall.EADDRINUSE
	}
	l := &listener{process: p, addr: addr, backlog: make(chan *stream, backlogSize), done: make(chan struct{})}
	h.listeners[addr] = l
	return l, nil
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	case c := <-l.backlog:
		return c, nil
	}
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

func (l *listener) Close() error {
	n := l.process.host.network
	n.mu.Lock()
	defer n.mu.Unlock()
	l.closeLocked()
	return nil
}

func (l *listener) closeLocked() {
	if l.process.host.listeners[l.addr] == l {
		delete(l.process.host.listeners, l.addr)
		close(l.done)
	}
}

// listeningLocked returns who listens at an address of the host.
func (h *Host) listeningLocked(to netip.AddrPort) *listener {
	for _, a := range []netip.Addr{to.Addr(), netip.IPv6Unspecified(), netip.IPv4Unspecified()} {
		if l := h.listeners[netip.AddrPortFrom(a, to.Port())]; l != nil && (a == to.Addr() || a.Is6() || to.Addr().Is4()) {
			return l
		}
	}
	return nil
}

// segmentKind is what a segment is for.
type segmentKind uint8

const (
	synSegment    segmentKind = iota // open
	acceptSegment                    // opened
	dataSegment
	endSegment   // closed, in both directions
	resetSegment // no such connection
)

// segment is TCP's part of a packet. Lost ones are sent again, as the network knows at once what is lost: there are no acknowledgements.
type segment struct {
	kind     segmentKind
	from, to *stream // to is nil in the first of a connection
	sequence uint64
	first    time.Duration // when it was sent first
	wait     time.Duration // before it is sent the next time
}

// stream is one end of a connection.
type stream struct {
	process       *Process
	in, out       *half
	local, remote netip.AddrPort

	// Guarded by network.mu.
	peer     *stream // nil before the connection is open
	closed   bool    // Close was called
	dead     bool    // broken, or its process is dead
	opening  chan error
	sent     uint64              // segments
	expected uint64              // the next segment
	early    map[uint64]*segment // and those after it that are there
	earlier  map[uint64][]byte   // what they hold
}

// DialTCP opens a connection; what underlay.Config.DialTCP wants. NATs let it out and nothing in that they were not told to. A port where nobody
// listens refuses, an address that nobody has lets it wait for the context's end.
func (p *Process) DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	s, err := p.connect(to)
	if err != nil {
		return nil, err
	}
	select {
	case err = <-s.opening:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		n := p.host.network
		n.mu.Lock()
		defer n.mu.Unlock()
		s.dieLocked(true)
		return nil, err
	}
	return s, nil
}

func (p *Process) connect(to netip.AddrPort) (*stream, error) {
	h, n := p.host, p.host.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.dead {
		return nil, net.ErrClosed
	}
	src := to.Addr()
	if !src.IsLoopback() {
		var err error
		if _, src, err = h.wayOutLocked(to.Addr(), netip.Addr{}); err != nil {
			return nil, err
		}
	}
	local := netip.AddrPortFrom(src, firstPort+h.ports%(1<<16-1-firstPort))
	h.ports++
	s := newStream(p, local, to)
	s.in, s.out = newHalf(), newHalf()
	s.opening = make(chan error, 1)
	n.sendSegmentLocked(&segment{kind: synSegment, from: s, wait: connectRetry}, nil)
	return s, nil
}

func newStream(p *Process, local, remote netip.AddrPort) *stream {
	s := &stream{process: p, local: local, remote: remote, expected: 1}
	if p.streams == nil {
		p.streams = map[*stream]bool{}
	}
	p.streams[s] = true
	return s
}

// sendSegmentLocked sends a segment from one end to the other.
func (n *Network) sendSegmentLocked(g *segment, data []byte) {
	s := g.from
	g.first = n.nowLocked()
	if g.kind == dataSegment || g.kind == endSegment {
		s.sent++
		g.sequence = s.sent
	}
	n.againLocked(&packet{from: s.local, to: s.remote, data: data, segment: g})
}

// againLocked sends a segment for the first time or once more.
func (n *Network) againLocked(p *packet) {
	s := p.segment.from
	h := s.process.host
	if p.to.Addr().IsLoopback() {
		h.network.segmentLocked(h, p)
		return
	}
	p.from, p.to, p.dst, p.box = s.local, s.remote, nil, nil
	i, _ := h.sourceLocked(p.to.Addr(), s.local.Addr())
	if i == nil { // the address is gone
		p.segment.lostLocked(n, p, NoRoute)
		return
	}
	n.sendLocked(i, p)
}

// lostLocked sends a lost segment again after a while.
func (g *segment) lostLocked(n *Network, p *packet, why Reason) {
	s := g.from
	now := n.nowLocked()
	switch {
	case s.dead, s.process.dead, g.kind == resetSegment, g.kind == synSegment && s.closed, why == Broken:
		return
	case now-g.first > giveUp:
		s.breakLocked(syscall.ETIMEDOUT)
		return
	}
	if g.wait == 0 {
		g.wait = retryFirst
	}
	wait := g.wait
	g.wait = min(2*wait, retryMax)
	p.next = resending
	n.laterLocked(wait, p)
}

// segmentLocked takes a segment in at the host that it was sent to.
func (n *Network) segmentLocked(h *Host, p *packet) Reason {
	g := p.segment
	if g.kind == synSegment {
		n.acceptLocked(h, p)
		return ""
	}
	s := g.to
	switch {
	case s.closed:
		return Broken // the other end will hear of it
	case s.dead, s.process.host != h:
		if g.kind != resetSegment {
			n.resetLocked(h, p)
		}
		return Broken
	}
	switch g.kind {
	case acceptSegment:
		s.openedLocked(nil)
	case resetSegment:
		s.openedLocked(syscall.ECONNREFUSED)
		s.breakLocked(syscall.ECONNRESET)
	default:
		s.inOrderLocked(g, p.data)
	}
	return ""
}

// acceptLocked answers who opens a connection.
func (n *Network) acceptLocked(h *Host, p *packet) {
	theirs := p.segment.from
	if theirs.dead || theirs.closed || theirs.peer != nil {
		return // gave up meanwhile
	}
	l := h.listeningLocked(p.to)
	if l == nil {
		n.resetLocked(h, p)
		return
	}
	s := newStream(l.process, p.to, p.from)
	s.in, s.out, s.peer = theirs.out, theirs.in, theirs
	select {
	case l.backlog <- s:
	default:
		delete(l.process.streams, s)
		n.resetLocked(h, p)
		return
	}
	theirs.peer = s
	n.sendSegmentLocked(&segment{kind: acceptSegment, from: s, to: theirs}, nil)
}

// resetLocked tells who sent p that there is no such connection.
func (n *Network) resetLocked(h *Host, p *packet) {
	s := &stream{process: h.main, local: p.to, remote: p.from}
	n.sendSegmentLocked(&segment{kind: resetSegment, from: s, to: p.segment.from}, nil)
}

// openedLocked ends a dial.
func (s *stream) openedLocked(err error) {
	if s.opening != nil {
		select {
		case s.opening <- err:
		default:
		}
	}
}

// inOrderLocked takes segments in, in the order in which they were sent.
func (s *stream) inOrderLocked(g *segment, data []byte) {
	if g.sequence != s.expected {
		if s.early == nil {
			s.early, s.earlier = map[uint64]*segment{}, map[uint64][]byte{}
		}
		s.early[g.sequence], s.earlier[g.sequence] = g, data
		return
	}
	for g != nil {
		if g.kind == endSegment {
			s.in.change(func(h *half) { h.ended = true })
			s.out.change(func(h *half) { h.unread = true })
		} else {
			s.in.change(func(h *half) { h.chunks = append(h.chunks, data) })
		}
		s.expected++
		g, data = s.early[s.expected], s.earlier[s.expected]
		delete(s.early, s.expected)
		delete(s.earlier, s.expected)
	}
}

// breakLocked ends a connection with an error.
func (s *stream) breakLocked(err error) {
	s.openedLocked(err)
	for _, h := range []*half{s.in, s.out} {
		if h != nil {
			h.change(func(h *half) { h.broken = err })
		}
	}
	s.dead = true
	delete(s.process.streams, s)
}

// dieLocked ends a connection whose process is no more. tell: the other end hears of it.
func (s *stream) dieLocked(tell bool) {
	if s.dead || s.closed {
		return
	}
	s.dead = true
	delete(s.process.streams, s)
	s.openedLocked(net.ErrClosed)
	s.in.change(func(h *half) { h.readerClosed = true })
	s.out.change(func(h *half) { h.writerClosed = true })
	if tell && s.peer != nil {
		n := s.process.host.network
		last := &stream{process: s.process.host.main, local: s.local, remote: s.remote} // of the system, which lives on
		n.sendSegmentLocked(&segment{kind: resetSegment, from: last, to: s.peer}, nil)
	}
}

func (s *stream) Read(b []byte) (int, error) { return s.in.read(b) }

func (s *stream) Write(b []byte) (written int, err error) {
	n := s.process.host.network
	for written < len(b) {
		k, err := s.out.reserve(len(b) - written)
		if err != nil {
			return written, err
		}
		data := append([]byte(nil), b[written:written+k]...)
		n.mu.Lock()
		if s.dead || s.closed {
			n.mu.Unlock()
			return written, net.ErrClosed
		}
		n.sendSegmentLocked(&segment{kind: dataSegment, from: s, to: s.peer}, data)
		n.mu.Unlock()
		written += k
	}
	return written, nil
}

func (s *stream) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(s.local) }
func (s *stream) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }

// Close ends both directions. The other end reads what was written before; what it writes is an error.
func (s *stream) Close() error {
	n := s.process.host.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.dead || s.closed {
		return nil
	}
	s.closed = true
	delete(s.process.streams, s)
	s.in.change(func(h *half) { h.readerClosed = true })
	s.out.change(func(h *half) { h.writerClosed = true })
	n.sendSegmentLocked(&segment{kind: endSegment, from: s, to: s.peer}, nil)
	return nil
}

func (s *stream) SetDeadline(t time.Time) error {
	_ = s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

func (s *stream) SetReadDeadline(t time.Time) error {
	s.in.change(func(h *half) { h.readBy = t })
	return nil
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	s.out.change(func(h *half) { h.writeBy = t })
	return nil
}

package underlay

import (
	"errors"
	"net"
	"net/netip"
	"time"
)

// Bounds on pipes from outside. One costs about 60 KB of memory, and 256 KB more while its other end is slow.
const (
	// pipesMax bounds the pipes that others have opened.
	pipesMax = 256
	// pipesStrangeMax bounds those among them that no member has proven to be its own, pipesPrefixMax those of one address, or /64 of
	// IPv6: as many machines of a mesh as may stand behind one router and come at once.
	pipesStrangeMax = 96
	pipesPrefixMax  = 16
	// handshakesMax bounds the handshakes under way, handshakesPrefixMax those of one prefix.
	handshakesMax       = 64
	handshakesPrefixMax = 4
	// pipeUnprovenLife is how long a pipe may live without a path of any node, from its opening or from the loss of the path: the
	// longest search and twice that.
	pipeUnprovenLife = 10 * time.Second
)

// A handshake costs 0.5 ms (X25519, ML-KEM-768 and a signature), so that the most that strangers can make us do is some 3 % of a core.
var (
	pipeAccepts      = rate{perSecond: 4, burst: 16} // of one source prefix
	pipeAcceptsOfAll = rate{perSecond: 50, burst: 100}
)

// systemListenTCP listens on an address; with the unspecified IPv6 address, on both families.
func systemListenTCP(addr netip.AddrPort) (net.Listener, error) {
	network := "tcp"
	if !addr.Addr().IsUnspecified() || addr.Addr().Is4() {
		network = "tcp4"
		if addr.Addr().Is6() {
			network = "tcp6"
		}
	}
	l, err := net.Listen(network, addr.String())
	if err != nil {
		return nil, err
	}
	return l, nil
}

// pipeAddresses are the addresses to listen on, those of Listen.
func (s *Socket) pipeAddresses() (out []netip.AddrPort) {
	if s.listen == nil {
		return []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), s.port)}
	}
	for _, a := range s.cfg.Listen {
		out = append(out, netip.AddrPortFrom(a.Unmap(), s.port))
	}
	return out
}

// listenPipes opens the TCP port of the same number as the UDP port. That it is taken is no reason not to run.
func (s *Socket) listenPipes() {
	for _, addr := range s.pipeAddresses() {
		l, err := s.pipes.listenTCP(addr)
		if err != nil && addr.Addr() == netip.IPv6Unspecified() && s.listen == nil { // a machine without IPv6
			addr = netip.AddrPortFrom(netip.IPv4Unspecified(), s.port)
			l, err = s.pipes.listenTCP(addr)
		}
		if err != nil {
			s.log.Warn("TCP port not opened: nodes whose UDP is blocked cannot reach this one", "addr", addr, "err", err)
			continue
		}
		s.pipes.listeners = append(s.pipes.listeners, l)
	}
	for _, l := range s.pipes.listeners {
		s.goRun(func() { s.acceptPipes(l) })
	}
}

// PipesListening reports whether others can open pipes to this node.
func (s *Socket) PipesListening() bool { return len(s.pipes.listeners) > 0 }

// acceptPipes takes connections until the listener closes.
func (s *Socket) acceptPipes(l net.Listener) {
	wait := readRetryMin
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			wait = readRetryMin
			s.acceptPipe(c)
			continue
		case errors.Is(err, net.ErrClosed) || !s.open():
			return
		}
		s.log.Warn("accepting TCP connections failed, trying again", "err", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-s.done:
			return
		}
		wait = min(2*wait, readRetryMax)
	}
}

// acceptPipe decides whether a connection gets a handshake, and has it done.
func (s *Socket) acceptPipe(c net.Conn) {
	from := tcpAddr(c.RemoteAddr())
	if !s.pipes.admit(from.Addr(), s.now()) {
		s.stats.drop(dropLimited, 1)
		c.Close()
		return
	}
	if !s.pipes.goRun(func() { s.servePipe(c, from) }) {
		s.pipes.handshakeDone(from.Addr())
		c.Close()
	}
}

// servePipe does the handshake and starts the pipe.
func (s *Socket) servePipe(c net.Conn, from netip.AddrPort) {
	p, err := s.handshake(s.pipes.ctx, c, false)
	if err == nil {
		if err = p.start(); err != nil {
			c.Close()
		}
	}
	s.pipes.handshakeDone(from.Addr())
	if err != nil {
		s.log.Debug("pipe not accepted", "addr", from, "err", err)
	}
}

// admit counts a handshake that begins, unless there are too many, or too many pipes, or they come too fast.
func (t *pipes) admit(from netip.Addr, now instant) bool {
	if !t.accepts.allow(from, now) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.acceptsOfAll.take(pipeAcceptsOfAll, now) {
		return false
	}
	if t.shut || t.handshakes >= handshakesMax || t.greeting[pipePrefix(from)] >= handshakesPrefixMax && !from.IsLoopback() {
		return false
	}
	if !t.roomLocked(from) {
		return false
	}
	t.handshakes++
	t.greeting[pipePrefix(from)]++
	return true
}

// roomLocked reports whether there is room for another pipe from an address.
func (t *pipes) roomLocked(from netip.Addr) bool {
	prefix := pipePrefix(from)
	accepted, strange, here := t.handshakes, t.handshakes, t.greeting[prefix]
	for p := range t.open {
		if p.dialed {
			continue
		}
		accepted++
		if p.member.Load() {
			continue
		}
		strange++
		if pipePrefix(p.remote.Addr()) == prefix {
			here++
		}
	}
	// All nodes of one machine share the loopback address, which nobody else has.
	return accepted < pipesMax && strange < pipesStrangeMax && (here < pipesPrefixMax || from.IsLoopback())
}

// handshakeDone counts a handshake that has ended, in whatever way.
func (t *pipes) handshakeDone(from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handshakes--
	prefix := pipePrefix(from)
	if t.greeting[prefix]--; t.greeting[prefix] <= 0 {
		delete(t.greeting, prefix)
	}
}

// pipePrefix is what pipes are counted by: an IPv4 address, or a /64.
func pipePrefix(a netip.Addr) netip.Prefix {
	bits := 64
	if a = a.WithZone(""); a.Is4() {
		bits = 32
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

package underlay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// pipesDialedMax bounds the pipes that we have opened, dials under way among them.
	pipesDialedMax = 64
	// pipeKeepInterval is how often the keeper looks at the pipes, while there are any.
	pipeKeepInterval = time.Second
	// pipeIdleLife is how long a pipe is kept whose node has a path over UDP again.
	pipeIdleLife = time.Minute
	// While a pipe carries a node's packets, UDP is tried again after udpRetryMin, and then with gaps that double to udpRetryMax: a
	// firewall that drops UDP seldom changes its mind, and the network's own changes are seen at once (refreshAndRecheck).
	udpRetryMin = 30 * time.Second
	udpRetryMax = 5 * time.Minute
	// A dial that failed is repeated after pipeRetryMin at the earliest, and then with gaps that double to pipeRetryMax.
	pipeRetryMin = time.Second
	pipeRetryMax = time.Minute
	// pipeRetriesMax bounds the addresses whose failures are remembered.
	pipeRetriesMax = 256
)

var (
	// ErrNoPipes: this socket has no way to open TCP connections, or has too many already.
	ErrNoPipes  = errors.New("underlay: no TCP connection can be opened")
	errUnproven = errors.New("underlay: no node has proven to be at the other end")
	errReplaced = errors.New("underlay: UDP works")
)

// pipes are the socket's TCP connections.
type pipes struct {
	// Constant after Open.
	socket    *Socket
	tls       *tls.Config
	listenTCP func(netip.AddrPort) (net.Listener, error)
	dialTCP   func(context.Context, netip.AddrPort) (net.Conn, error) // nil: none can be opened
	listeners []net.Listener
	accepts   *limiter
	ctx       context.Context // done when the socket closes
	cancel    context.CancelFunc
	kick      chan struct{} // capacity 1: a pipe was opened

	mu           sync.Mutex
	shut         bool
	open         map[*pipe]bool
	dials        map[netip.AddrPort]*pipeDial
	retries      map[netip.AddrPort]pipeRetry
	handshakes   int                  // of pipes that others open
	greeting     map[netip.Prefix]int // the same, by prefix
	acceptsOfAll bucket
}

// pipeRetry is what is remembered of a dial that failed.
type pipeRetry struct {
	gap   time.Duration
	until instant
}

// openPipes makes the socket ready for pipes, and opens the TCP port if it is wanted.
func (s *Socket) openPipes() error {
	t := &s.pipes
	t.socket, t.accepts, t.kick = s, newLimiter(pipeAccepts), make(chan struct{}, 1)
	t.open, t.dials, t.retries = map[*pipe]bool{}, map[netip.AddrPort]*pipeDial{}, map[netip.AddrPort]pipeRetry{}
	t.greeting, t.acceptsOfAll.tokens = map[netip.Prefix]int{}, pipeAcceptsOfAll.burst
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.listenTCP, t.dialTCP = s.cfg.ListenTCP, s.cfg.DialTCP
	switch b := s.bind.(type) {
	case tcpBind:
		if t.listenTCP == nil {
			t.listenTCP = b.ListenTCP
		}
		if t.dialTCP == nil {
			t.dialTCP = b.DialTCP
		}
	case *udpBind:
		if t.listenTCP == nil {
			t.listenTCP = systemListenTCP
		}
		if t.dialTCP == nil {
			t.dialTCP = systemDialTCP
		}
	}
	var err error
	if t.tls, err = s.pipeTLS(); err != nil {
		return err
	}
	s.goRun(t.keep)
	if s.cfg.Pipes && t.listenTCP != nil {
		s.listenPipes()
	}
	return nil
}

// tcpBind is a Bind that has TCP of its own, as that of a network in memory.
type tcpBind interface {
	ListenTCP(netip.AddrPort) (net.Listener, error)
	DialTCP(context.Context, netip.AddrPort) (net.Conn, error)
}

// goRun starts a goroutine of the socket's, unless the socket is closing.
func (t *pipes) goRun(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shut {
		return false
	}
	t.socket.goRun(f)
	return true
}

// close ends all pipes, dials and handshakes.
func (t *pipes) close() {
	t.mu.Lock()
	t.shut = true
	var all []*pipe
	for p := range t.open {
		all = append(all, p)
	}
	t.mu.Unlock()
	t.cancel()
	for _, l := range t.listeners {
		l.Close()
	}
	for _, p := range all {
		p.close(ErrClosed)
	}
}

// enter takes a pipe in and starts its goroutines.
func (t *pipes) enter(p *pipe) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shut {
		return false
	}
	t.open[p] = true
	t.socket.goRun(p.read)
	t.socket.goRun(p.write)
	select {
	case t.kick <- struct{}{}:
	default:
	}
	return true
}

func (t *pipes) leave(p *pipe) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, p)
}

// keep looks after the pipes until the socket closes. No timer runs while there are none.
func (t *pipes) keep() {
	for {
		select {
		case <-t.kick:
		case <-t.socket.done:
			return
		}
		for t.keepAll() {
			select {
			case <-time.After(pipeKeepInterval):
			case <-t.socket.done:
				return
			}
		}
	}
}

// keepAll looks at every pipe once, and reports whether there are any.
func (t *pipes) keepAll() bool {
	t.mu.Lock()
	var all []*pipe
	for p := range t.open {
		all = append(all, p)
	}
	t.mu.Unlock()
	now := t.socket.now()
	for _, p := range all {
		if err := p.judge(now); err != nil {
			p.close(err)
		}
	}
	return len(all) > 0
}

// judge says why the pipe is to be closed; nil: it is not. It has UDP tried again for a node that needs the pipe.
func (p *pipe) judge(now instant) error {
	s := p.socket
	src := s.sources.get(p.link)
	if src == nil {
		p.member.Store(false)
		if now-max(p.proven, p.born) < pipeUnprovenLife {
			return nil
		}
		if p.dialed && p.proven == 0 {
			s.pipes.failed(p.remote, now)
		}
		return errUnproven
	}
	p.proven = now
	p.member.Store(src.node.member.Load() != nil)
	if !p.dialed {
		return nil
	}
	switch r := src.node.active.Load(); {
	case r == nil:
	case r.source == src:
		p.idle = 0
		p.retryUDP(src.node, now)
	case r.link == nil || r.link.link.Kind() == LinkSpare:
		if p.idle == 0 {
			p.idle = now
		}
		p.recheck = 0
		if now-p.idle >= pipeIdleLife {
			return errReplaced
		}
	}
	return nil
}

// retryUDP has the node's addresses checked over UDP when it is time.
func (p *pipe) retryUDP(n *node, now instant) {
	switch {
	case p.recheck == 0:
		p.gap = udpRetryMin
	case now < p.recheck:
		return
	default:
		_ = p.socket.command(func(o *owner) { o.retryUDP(n) }) // fails only when the socket closes
		p.gap = min(2*p.gap, udpRetryMax)
	}
	p.recheck = now + p.gap
}

// retryUDP checks the node's addresses of UDP, if anybody uses the node.
func (o *owner) retryUDP(n *node) {
	if !o.nodes.has(n) || n.attempt != nil || n.paths.asleep(o.now()) {
		return
	}
	addrs := []netip.AddrPort{}
	for _, a := range o.candidates(n) {
		if !isLinkAddr(a.Addr()) {
			addrs = append(addrs, a)
		}
	}
	o.connect(n, addrs, nil)
}

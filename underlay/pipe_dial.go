package underlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/peer"
)

const (
	// pipeAfter is how long UDP gets to answer before a pipe is tried beside it: two transmissions of a check and a long round trip.
	pipeAfter = 700 * time.Millisecond
	// contactTimeout bounds a first contact in both ways.
	contactTimeout = 6 * time.Second
	// pipesPerSearch bounds the addresses to which one search for a node opens pipes.
	pipesPerSearch = 2
)

// pipeDial is an attempt to open a pipe, for all who want one to that address.
type pipeDial struct {
	done chan struct{}
	pipe *pipe
	err  error
}

func systemDialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to.String())
}

// DialPipe opens a TCP connection to a node that may be at an address, and returns the link's address, for [Socket.Try]. One to that
// address that is open already is returned as it is. Who sits there is not known until a check was answered; a pipe that no node proves
// to be its own within ten seconds is closed. It takes eight seconds at most. Errors: [ErrNoCandidates] for an address that no other
// node can have, [ErrNoPipes], [ErrTooManyLinks], [ErrClosed], the network's, TLS's, the context's.
func (s *Socket) DialPipe(ctx context.Context, to netip.AddrPort) (netip.AddrPort, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if !s.mayTry(to) {
		return netip.AddrPort{}, fmt.Errorf("underlay: open a pipe to %s: %w", to, ErrNoCandidates)
	}
	d, err := s.pipes.dial(to)
	if err == nil {
		select {
		case <-d.done:
			err = d.err
		case <-ctx.Done():
			err = ctx.Err()
		case <-s.done:
			err = ErrClosed
		}
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("underlay: open a pipe to %s: %w", to, err)
	}
	return d.pipe.link, nil
}

// dial returns the pipe to an address, or the attempt at one, and begins that if need be.
func (t *pipes) dial(to netip.AddrPort) (*pipeDial, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shut {
		return nil, ErrClosed
	}
	if d := t.dials[to]; d != nil {
		return d, nil
	}
	ours := len(t.dials)
	for p := range t.open {
		if !p.dialed {
			continue
		}
		if p.remote == to {
			d := &pipeDial{done: make(chan struct{}), pipe: p}
			close(d.done)
			return d, nil
		}
		ours++
	}
	if t.dialTCP == nil || ours >= pipesDialedMax {
		return nil, ErrNoPipes
	}
	d := &pipeDial{done: make(chan struct{})}
	t.dials[to] = d
	t.socket.goRun(func() { t.carryOut(d, to) })
	return d, nil
}

// carryOut dials.
func (t *pipes) carryOut(d *pipeDial, to netip.AddrPort) {
	d.pipe, d.err = t.connect(to)
	t.mu.Lock()
	delete(t.dials, to)
	if d.err == nil {
		delete(t.retries, to)
	}
	t.mu.Unlock()
	if d.err != nil {
		t.failed(to, t.socket.now())
		t.socket.log.Debug("pipe not opened", "addr", to, "err", d.err)
		if t.ctx.Err() != nil {
			d.err = ErrClosed
		}
	}
	close(d.done)
}

func (t *pipes) connect(to netip.AddrPort) (*pipe, error) {
	ctx, cancel := context.WithTimeout(t.ctx, pipeDialTimeout)
	defer cancel()
	c, err := t.dialTCP(ctx, to)
	if err != nil {
		return nil, err
	}
	p, err := t.socket.handshake(ctx, c, true)
	if err != nil {
		return nil, err
	}
	p.remote = to
	if err := p.start(); err != nil {
		c.Close()
		return nil, err
	}
	return p, nil
}

// failed remembers that a pipe to an address came to nothing.
func (t *pipes) failed(to netip.AddrPort, now instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, again := t.retries[to]
	if !again && len(t.retries) >= pipeRetriesMax {
		for a := range t.retries { // any: forgetting one costs a dial too many
			delete(t.retries, a)
			break
		}
	}
	r.gap = min(max(2*r.gap, pipeRetryMin), pipeRetryMax)
	r.until = now + r.gap
	t.retries[to] = r
}

// mayDial reports whether it is time to dial an address (again).
func (t *pipes) mayDial(to netip.AddrPort, now instant) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dialTCP != nil && t.dials[to] == nil && now >= t.retries[to].until
}

// considerPipes opens pipes to a member whose search has found nothing for a while, and again while that lasts and it fails. What has
// a working path, though it be relayed, is not worth two connections: who wants a better one knows how to ask (DialPipe, Try).
func (o *owner) considerPipes(n *node, now instant) {
	a, id := n.attempt, n.member.Load()
	if id == nil || o.pipes.dialTCP == nil {
		return
	}
	if now < a.pipeAt {
		o.wakeFor(n, a.pipeAt)
		return
	}
	if p := n.paths.find(n.paths.active); p != nil && p.missed < silentAfter {
		return
	}
	a.pipeAt = now + pipeRetryMin
	o.wakeFor(n, a.pipeAt)
	if a.pipeTo == nil {
		a.pipeTo = o.pipeCandidates(n)
	}
	for _, to := range a.pipeTo {
		if o.pipes.mayDial(to, now) {
			o.pipes.goRun(func() { o.tryPipe(n, to) })
		}
	}
}

// pipeCandidates are the addresses at which the member may listen: those of its own machine and those forwarded to it, not what a
// NAT made of a UDP port; and those that somebody has named as a way in. Public ones first.
func (o *owner) pipeCandidates(n *node) []netip.AddrPort {
	var out []netip.AddrPort
	add := func(a netip.AddrPort) {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		if o.mayTry(a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, a := range n.hints {
		add(a)
	}
	if e, ok := o.peers.Get(*n.member.Load()); ok && e.HasRecord {
		for _, ep := range e.Record.Endpoints {
			if ep.Kind != peer.Mapped {
				add(ep.Addr)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int { return privacy(a.Addr()) - privacy(b.Addr()) })
	return out[:min(len(out), pipesPerSearch)]
}

// privacy orders addresses by how few can reach them.
func privacy(a netip.Addr) int {
	switch {
	case a.IsLoopback():
		return 2
	case a.IsPrivate():
		return 1
	}
	return 0
}

// tryPipe opens a pipe and has the member looked for there. It is a goroutine of its own.
func (s *Socket) tryPipe(n *node, to netip.AddrPort) {
	link, err := s.DialPipe(s.pipes.ctx, to)
	if err != nil {
		return // dial has noted it
	}
	_ = s.command(func(o *owner) {
		if o.nodes.has(n) {
			o.try(n, []netip.AddrPort{link})
		}
	})
}

// redial opens another pipe to a node that has lost one that we had opened, if it has no other path and somebody uses it.
func (o *owner) redial(n *node) {
	o.dropRemovedLinks()
	now := o.now()
	if !o.nodes.has(n) || n.member.Load() == nil || n.paths.active.IsValid() || n.paths.asleep(now) {
		return
	}
	o.connect(n, nil, nil)
	if n.attempt != nil {
		n.attempt.pipeAt = now
		o.advance(n, now)
	}
}

// Contact makes first contact with whoever sits at an address: it learns their key and validates the path both ways. Who they are
// is then to be proven over QUIC at the address it returns. Where UDP does not answer for a while, TCP at the same port is tried beside
// it. It tries for at most six seconds. Errors: [ErrUnreachable], [ErrNoCandidates] (our own address, or none that a node can have),
// [ErrClosed], the context's.
func (s *Socket) Contact(ctx context.Context, to netip.AddrPort) (Addr, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if !s.mayTry(to) {
		return Addr{}, fmt.Errorf("underlay: contact %s: %w: it is our own address, or none that a node can have", to, ErrNoCandidates)
	}
	addr, err := s.contactAnyhow(ctx, to)
	if err != nil {
		return Addr{}, fmt.Errorf("underlay: contact %s: %w", to, err)
	}
	return addr, nil
}

// contacted is how one way of making contact ended.
type contacted struct {
	addr Addr
	err  error
}

// contactAnyhow begins with UDP and adds TCP when that takes long; the first that succeeds wins.
func (s *Socket) contactAnyhow(caller context.Context, to netip.AddrPort) (Addr, error) {
	ctx, cancel := context.WithTimeout(caller, contactTimeout)
	defer cancel()
	results := make(chan contacted, 2)
	begin := func(f func(context.Context, netip.AddrPort) (Addr, error)) int {
		run := func() { addr, err := f(ctx, to); results <- contacted{addr, err} }
		if !s.pipes.goRun(run) {
			results <- contacted{err: ErrClosed}
		}
		return 1
	}
	running := begin(s.contact)
	timer := time.NewTimer(pipeAfter)
	defer timer.Stop()
	later := timer.C // nil: TCP was tried, or there is none
	if s.pipes.dialTCP == nil {
		later = nil
	}
	var errs []error
	for running > 0 {
		select {
		case <-later:
			later = nil
			running += begin(s.contactPipe)
		case r := <-results:
			running--
			switch {
			case r.err == nil:
				return r.addr, nil
			case errors.Is(r.err, context.DeadlineExceeded) && caller.Err() == nil: // our own deadline
				r.err = ErrUnreachable
			}
			errs = append(errs, r.err)
			if later != nil && caller.Err() == nil { // UDP fails at once on a machine without a route: no reason to wait
				later = nil
				running += begin(s.contactPipe)
			}
		}
	}
	if !slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, ErrUnreachable) }) {
		return Addr{}, ErrUnreachable // both ways: said once
	}
	return Addr{}, errors.Join(errs...)
}

// contact makes contact over UDP, or over a link.
func (s *Socket) contact(ctx context.Context, to netip.AddrPort) (Addr, error) {
	n, err := s.learnKey(ctx, to)
	if err == nil {
		err = s.await(ctx, n, []netip.AddrPort{to})
	}
	if err != nil {
		return Addr{}, err
	}
	return Addr{n.key}, nil
}

// contactPipe makes contact over a pipe.
func (s *Socket) contactPipe(ctx context.Context, to netip.AddrPort) (Addr, error) {
	link, err := s.DialPipe(ctx, to)
	if err != nil {
		return Addr{}, err
	}
	return s.contact(ctx, link)
}

package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/underlay"
)

// target is whom a caller wants to reach.
type target struct {
	addr underlay.Addr
	want identity.NodeID // zero: whoever is there
	find bool            // let the underlay find a path first
}

// dial is one attempt to connect, shared by everybody who wants to reach the address meanwhile. It runs in a goroutine of its own
// and goes on, within its bounds, when those who wait for it give up: the next to ask finds it further ahead.
type dial struct {
	ready chan struct{} // closed when conn or err is set: TLS is up and our hello sent, or it failed
	conn  *connection
	err   error
}

// connect returns a connection with the target, from the pool or by dialing. fresh tells that this call began the dial. The
// connection may still be in its hello: see connection.verified.
func (h *Host) connect(ctx context.Context, t target) (c *connection, fresh bool, err error) {
	creds := h.credentials()
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, false, ErrClosed
	}
	l := h.linkLocked(t.addr.Key)
	if c := l.best(h.self, creds); c != nil {
		h.mu.Unlock()
		return c, false, nil
	}
	d := l.dial
	if d == nil {
		d = &dial{ready: make(chan struct{})}
		l.dial, fresh = d, true
		h.running.Go(func() { h.run(d, t) })
	}
	h.mu.Unlock()
	select {
	case <-d.ready:
		return d.conn, fresh, d.err
	case <-ctx.Done():
		return nil, fresh, fmt.Errorf("control: connect to %s: %w", t.name(), context.Cause(ctx))
	}
}

// name is how errors call the target.
func (t target) name() string {
	if t.want.IsZero() {
		return "the node with key " + t.addr.Key.String()
	}
	return t.want.Short()
}

// run takes a dial from finding the path to the end of the connection.
func (h *Host) run(d *dial, t target) {
	ctx, cancel := context.WithTimeout(h.ctx, dialTimeout)
	h.counters.dials.Add(1)
	g, err := h.reach(ctx, t)
	if err != nil {
		d.err = err
		h.abandon(d, t)
		close(d.ready)
		cancel()
		return
	}
	c := g.conn
	defer h.closeWithHost(c.quic)()
	d.conn = c
	close(d.ready)
	v, err := g.finish()
	if err == nil {
		c.adopt(v)
		err = h.register(c, d)
	} else {
		h.abandon(d, t)
		h.tellRefused(err, g.theirs.tlsKey)
	}
	c.settle(err)
	cancel()
	if err != nil {
		h.turnAway(c.quic, err)
		return
	}
	c.serve()
}

// abandon takes a failed dial out of the pool.
func (h *Host) abandon(d *dial, t target) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.links[t.addr.Key]; l != nil && l.dial == d {
		l.dial = nil
		h.tidyLocked(t.addr.Key, t.want)
	}
}

// reach finds a path, completes the QUIC handshake and sends our hello.
func (h *Host) reach(ctx context.Context, t target) (*greeting, error) {
	if t.find {
		if err := h.cfg.Network.Connect(ctx, t.want); err != nil {
			return nil, errNoPath(t.want, err)
		}
	}
	qc, err := h.transport.Dial(ctx, t.addr, tlsConfig(h.cert, h.cfg.Rand), quicConfig(h.cfg.KeepAlive))
	if err != nil {
		return nil, h.dialError(t, err)
	}
	g, err := h.greet(ctx, qc, t.want)
	if err != nil {
		h.turnAway(qc, err)
		return nil, err
	}
	return g, nil
}

// dialError says why a handshake failed.
func (h *Host) dialError(t target, err error) error {
	var timeout *quic.HandshakeTimeoutError
	var idle *quic.IdleTimeoutError
	switch {
	case h.ctx.Err() != nil:
		return ErrClosed
	case errors.As(err, &timeout), errors.As(err, &idle), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %s: no QUIC handshake: %v", ErrUnresponsive, t.name(), err)
	}
	return translate(err, t.want)
}

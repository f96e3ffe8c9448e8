package dataplane

import (
	"context"
	"fmt"
	"slices"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// waitersMax bounds those who wait for one tunnel.
const waitersMax = 256

// Ensure returns once there is a tunnel to the member, with a key and a WireGuard session. Its errors match ErrNotMember, ErrRevoked,
// ErrRefused, ErrUnreachable, ErrDropped or ErrClosed, or ctx's. It gives up at the first attempt that fails; the attempts go on for a
// while in the background, so that calling again soon is cheap.
func (p *Plane) Ensure(ctx context.Context, id identity.NodeID) error {
	if err := p.member(id); err != nil {
		return fmt.Errorf("tunnel to %s: %w", id.Short(), err)
	}
	if p.ctx.Err() != nil {
		return ErrClosed
	}
	e, ok := p.cfg.Peers.Get(id)
	if !ok {
		return fmt.Errorf("tunnel to %s: %w", id.Short(), ErrNotMember)
	}
	t := p.tunnels.enter(e)
	ready, err := t.wait()
	if err != nil {
		return err
	}
	defer t.leave(ready)
	if v := t.view.Load(); v.session && v.phase == open {
		return nil
	}
	p.post(t, flagWanted)
	select {
	case err := <-ready:
		if err != nil {
			return fmt.Errorf("tunnel to %s: %w", id.Short(), err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("tunnel to %s: %w", id.Short(), ctx.Err())
	case <-p.ctx.Done():
		return ErrClosed
	}
}

// wait registers somebody who waits for the tunnel. It precedes the look at the tunnel's state, so that no news is missed.
func (t *tunnel) wait() (chan error, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended != nil {
		return nil, fmt.Errorf("tunnel to %s: %w", t.id.Short(), t.ended)
	}
	if len(t.waiters) >= waitersMax {
		return nil, fmt.Errorf("tunnel to %s: %d callers wait for it already", t.id.Short(), waitersMax)
	}
	c := make(chan error, 1)
	t.waiters = append(t.waiters, c)
	return c, nil
}

func (t *tunnel) leave(c chan error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiters, c); i >= 0 {
		t.waiters = slices.Delete(t.waiters, i, i+1)
	}
}

// tell ends the wait of all who wait.
func (t *tunnel) tell(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.waiters {
		select {
		case c <- err:
		default: // told before
		}
	}
	t.waiters = nil
}

// end tells all who wait, and who comes later, that the tunnel is no more.
func (t *tunnel) end(why error) {
	t.mu.Lock()
	t.ended = why
	t.mu.Unlock()
	t.tell(why)
}

// Drop takes the tunnel to a member down at once and wipes its key; it returns when that is done. A member that has been revoked
// does not get another; with any other the next packet makes one.
func (p *Plane) Drop(id identity.NodeID) {
	d := dropRequest{id: id, done: make(chan struct{})}
	c := p.conductor
	c.mu.Lock()
	c.drops = append(c.drops, d)
	c.mu.Unlock()
	c.rouse()
	select {
	case <-d.done:
	case <-p.ctx.Done():
	}
}

package dataplane

import (
	"errors"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/exchange"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// The conductor is the one goroutine that owns the state of all tunnels: it feeds the policy of tunnel.go and carries out its
// actions. It alone configures the device, so a peer is never half made.
type conductor struct {
	results chan result // from exchanges

	mu    sync.Mutex
	dirty []*tunnel // tunnels with flags set since the last look; each at most once
	drops []dropRequest
	wake  chan struct{} // capacity 1
}

// result is what an exchange led to.
type result struct {
	t     *tunnel
	event event
	psk   exchange.PSK // agreed
	err   error        // failed, refused
	done  chan outcome // agreed: told when the key is in place; capacity 1
}

// outcome says how a key was put in place.
type outcome struct {
	created bool // the peer was made anew: there is no session from before
	err     error
}

type dropRequest struct {
	id   identity.NodeID
	done chan struct{}
}

func newConductor() *conductor {
	return &conductor{results: make(chan result), wake: make(chan struct{}, 1)}
}

// post tells the conductor news of a tunnel. It never blocks and may be called from the packet path.
func (p *Plane) post(t *tunnel, f flag) {
	if t.flags.Or(f) != 0 {
		return // still on the list
	}
	c := p.conductor
	c.mu.Lock()
	c.dirty = append(c.dirty, t)
	c.mu.Unlock()
	c.rouse()
}

func (c *conductor) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take returns what has been posted.
func (c *conductor) take() ([]*tunnel, []dropRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dirty, drops := c.dirty, c.drops
	c.dirty, c.drops = nil, nil
	return dirty, drops
}

// conduct runs until the plane closes.
func (p *Plane) conduct() {
	changed, cancel := p.cfg.Peers.Watch()
	defer cancel()
	var paths <-chan struct{}
	if p.cfg.Paths != nil {
		changed, cancel := p.cfg.Paths()
		defer cancel()
		paths = changed
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p.rearm(timer)
		select {
		case <-p.ctx.Done():
			p.abandon()
			return
		case <-p.conductor.wake:
			p.hear()
		case r := <-p.conductor.results:
			p.conclude(r)
		case <-changed:
			p.reviewMembers()
		case <-paths:
			p.followPaths(p.tunnels.each)
		case now := <-timer.C:
			p.tickDue(now)
		}
	}
}

// rearm sets the timer to the first tunnel that is due. Looking at all of them costs nanoseconds each.
func (p *Plane) rearm(timer *time.Timer) {
	var first time.Time
	p.tunnels.each(func(t *tunnel) { first = earliest(first, t.due, t.waiting.next()) })
	if first.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(max(time.Until(first), 0))
}

func (p *Plane) tickDue(now time.Time) {
	p.tunnels.each(func(t *tunnel) {
		for _, packet := range t.waiting.expired(now) {
			p.drops.waitedTooLong.Add(1)
			p.sendUnreachable(packet)
		}
		if !t.due.IsZero() && !now.Before(t.due) {
			p.step(t, t.sample(), result{})
		}
	})
}

// sample makes a tick of what has passed since the last one.
func (t *tunnel) sample() event {
	return event{kind: tick, sent: t.sent.Swap(false), heard: t.received.Swap(false)}
}

// hear handles the flags that were set and the drops that were asked for.
func (p *Plane) hear() {
	dirty, drops := p.conductor.take()
	for _, d := range drops {
		if t := p.tunnels.get(d.id); t != nil {
			p.dropTunnel(t, ErrDropped)
		}
		close(d.done)
	}
	for _, t := range dirty {
		flags := t.flags.Swap(0)
		if p.tunnels.get(t.id) != t {
			continue // dropped since
		}
		// In the order in which they can be true together.
		for _, n := range []struct {
			f flag
			k happening
		}{{flagAnswered, answered}, {flagCarried, carried}, {flagLost, lost}, {flagOrphaned, orphaned}, {flagWanted, wanted}} {
			if flags&n.f == 0 {
				continue
			}
			if n.k == lost {
				p.step(t, t.sample(), result{}) // what is heard from here on counts
			}
			p.step(t, event{kind: n.k}, result{})
		}
	}
}

// conclude handles the result of an exchange.
func (p *Plane) conclude(r result) {
	defer clear(r.psk[:])
	if p.tunnels.get(r.t.id) != r.t {
		if r.done != nil {
			r.done <- outcome{err: ErrDropped}
		}
		return
	}
	if r.event.kind == agreed {
		if err := p.member(r.t.id); err != nil {
			p.dropTunnel(r.t, err)
			r.done <- outcome{err: err}
			return
		}
	}
	had := r.t.peer
	err := p.step(r.t, r.event, r)
	if r.done != nil {
		r.done <- outcome{created: had != r.t.peer, err: err}
	}
}

// step applies an event to a tunnel and carries out the actions. The error is that of putting a key in place.
func (p *Plane) step(t *tunnel, e event, r result) error {
	now := time.Now()
	before := t.state.phase
	var failure error
	var news []action
	for _, a := range t.state.step(e, now, p.timing) {
		if a == tellUp || a == tellDown {
			news = append(news, a)
			continue
		}
		if err := p.act(t, a, r); err != nil {
			failure = errors.Join(failure, err)
		}
	}
	t.due = t.state.next(now, p.timing)
	t.publish()
	// Last: who begins to wait after the news has been told must see in the view what it was.
	for _, a := range news {
		_ = p.act(t, a, r) // these do not fail
	}
	if s := &t.state; s.phase != before {
		p.log.Debug("tunnel changed", "peer", t.id.Short(), "from", before.String(), "to", s.phase.String(), "epoch", s.epoch)
	}
	return failure
}

func (t *tunnel) publish() {
	s := &t.state
	t.view.Store(&view{phase: s.phase, running: s.running, session: s.session, epoch: s.epoch, keyAt: s.keyAt, key: t.key, before: t.before})
}

// act carries out one action.
func (p *Plane) act(t *tunnel, a action, r result) error {
	switch a {
	case begin:
		p.beginExchange(t)
	case install:
		return p.installPeer(t, &r.psk)
	case renew:
		return p.renewKey(t, &r.psk)
	case release:
		p.release(t)
	case hold:
		t.waiting.hold()
		t.open.Store(false)
	case handshake:
		p.handshake(t)
	case kick:
		if t.peer != nil {
			t.peer.ExpireCurrentKeypairs()
			p.handshake(t)
		}
	case keepalive:
		if t.peer != nil {
			t.peer.SendKeepalive()
		}
	case verify:
		p.verifySession(t)
	case watch:
		t.watched.Store(true)
	case remove:
		t.before = t.before.add(p.countersOf(t))
		p.removePeer(t)
	case reject:
		p.reject(t.waiting.drain())
	case tellUp:
		t.tell(nil)
	case tellDown:
		err := r.err
		if err == nil {
			err = ErrUnreachable
		}
		t.tell(err)
	case forget:
		p.dropTunnel(t, ErrDropped)
	}
	return nil
}

// release opens the gate. The packets that waited go first; the device finds them at its next read.
func (p *Plane) release(t *tunnel) {
	if t.peer == nil {
		return
	}
	p.followPaths(func(f func(*tunnel)) { f(t) })
	n, limit := 0, int(t.mtu.Load())
	t.waiting.open(func(packet []byte) {
		n++
		if limit > 0 && len(packet) > limit {
			p.tooLarge(packet, limit)
			return
		}
		p.host.resume(packet)
	})
	t.open.Store(true)
	if n > 0 {
		p.host.inner.Interrupt()
	}
}

// reject answers packets that found no way.
func (p *Plane) reject(packets [][]byte) {
	for _, packet := range packets {
		p.drops.noTunnel.Add(1)
		p.sendUnreachable(packet)
	}
}

// dropTunnel removes a tunnel and all that belongs to it.
func (p *Plane) dropTunnel(t *tunnel, why error) {
	t.open.Store(false)
	p.tunnels.remove(t)
	p.reject(t.waiting.close())
	p.removePeer(t)
	p.out.settle(&t.account)
	t.end(why)
	t.mu.Lock()
	if t.machine != nil {
		t.machine.Wipe()
	}
	t.machine = nil
	t.mu.Unlock()
}

// abandon drops everything when the plane closes.
func (p *Plane) abandon() {
	p.tunnels.each(func(t *tunnel) { p.dropTunnel(t, ErrClosed) })
	_, drops := p.conductor.take()
	for _, d := range drops {
		close(d.done)
	}
}

// reviewMembers drops the tunnels of those who are members no longer and follows changed addresses.
func (p *Plane) reviewMembers() {
	p.tunnels.each(func(t *tunnel) {
		if err := p.member(t.id); err != nil {
			p.log.Info("tunnel dropped", "peer", t.id.Short(), "err", err)
			p.dropTunnel(t, err)
			return
		}
		e, _ := p.cfg.Peers.Get(t.id)
		if !sameAddresses(t.addresses, e.Member.Addresses()) {
			// Rare: a new lease. A new tunnel is made by the next packet, in one piece.
			p.dropTunnel(t, ErrDropped)
		}
	})
}

package reach

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

const (
	// probeInterval is the gap between rounds of measuring relays. A round is at most eight checks of 484 bytes with their answers: 1.1 MB a day at
	// worst, for a node behind a NAT in a mesh with many relays.
	probeInterval = 5 * time.Minute
	// probeTimeout bounds one measurement, the search for a path included.
	probeTimeout = 3 * time.Second
	// attendInterval is how often the relays at hand are looked at without news.
	attendInterval = 30 * time.Second
	// attendAfter is how long a node that has just started finds out first how the world sees it: two rounds of questions on a bad line. Who returns after
	// a power cut would otherwise tell everybody of relays that it does without a second later, and all would open channels there.
	attendAfter = 2 * time.Second
	// attendPause is the least time between two looks: a burst of news is one.
	attendPause = 200 * time.Millisecond
	// relayNotesMax bounds what is remembered of relays; beyond it those asked longest ago are forgotten.
	relayNotesMax = 256
)

// relayNote is what we know of a member that offers to relay.
type relayNote struct {
	rtt    time.Duration // zero: it did not answer
	load   uint8
	asked  time.Time // last probe
	failed time.Time // last refusal or loss
	reason string    // of the failure
}

// handhold is a relay that we are registered at, or registering.
type handhold struct {
	id    identity.NodeID
	since time.Time
	lease *lease // nil while registering
}

// attend keeps two relays at hand as long as this node needs them.
func (r *Reach) attend() {
	news, cancel := r.table.Watch()
	defer cancel()
	defer r.dropHand(func(identity.NodeID) bool { return true })
	var probed time.Time
	begun := time.Now()
	for r.ctx.Err() == nil {
		wait := attendInterval
		if e := r.evidence(); e.NAT == peer.NATUnknown && time.Since(begun) < attendAfter {
			wait = attendAfter - time.Since(begun)
		} else if e.needsRelays() {
			r.keepAtHand(&probed)
		} else {
			r.dropHand(func(identity.NodeID) bool { return true })
		}
		pause := time.NewTimer(attendPause)
		select {
		case <-r.ctx.Done():
		case <-pause.C:
		}
		tick := time.NewTimer(wait)
		select {
		case <-r.ctx.Done():
		case <-news:
		case <-r.wakeAttend:
		case <-tick.C:
		}
		tick.Stop()
		pause.Stop()
	}
}

// keepAtHand measures what is due, then registers where it is best.
func (r *Reach) keepAtHand(probed *time.Time) {
	offering := r.offering()
	r.dropHand(func(id identity.NodeID) bool { return !slices.Contains(offering, id) })
	if due := r.dueProbes(offering, *probed); len(due) > 0 {
		*probed = time.Now()
		r.probeAll(r.ctx, due)
	}
	wanted := chooseRelays(r.candidates(offering), r.held(), time.Now())
	var wg sync.WaitGroup
	for _, id := range wanted {
		if !r.isAtHand(id) {
			wg.Go(func() { r.register(id) })
		}
	}
	wg.Wait()
	// What is given up is given up when its successor is there.
	if len(wanted) == relaysAtHand && !slices.ContainsFunc(wanted, func(id identity.NodeID) bool { return !r.isAtHand(id) }) {
		r.dropHand(func(id identity.NodeID) bool { return !slices.Contains(wanted, id) })
	}
}

// dueProbes is whom to measure now: everybody's turn comes every probeInterval, at once while there are too few to choose from.
func (r *Reach) dueProbes(offering []identity.NodeID, probed time.Time) []identity.NodeID {
	r.mu.Lock()
	asked := map[identity.NodeID]time.Time{}
	usable, unasked := 0, false
	var sound []identity.NodeID
	for _, id := range offering {
		n := r.relays[id]
		asked[id] = n.asked
		unasked = unasked || n.asked.IsZero()
		if !n.failed.IsZero() && time.Since(n.failed) < failedFor {
			continue
		}
		sound = append(sound, id)
		if n.rtt > 0 {
			usable++
		}
	}
	r.mu.Unlock()
	short := usable < relaysAtHand && (unasked || time.Since(probed) >= attendInterval)
	if !short && time.Since(probed) < probeInterval {
		return nil
	}
	if short && len(sound) > len(r.held()) {
		// One was lost just now and another is wanted at once: who is gone would not answer before probeTimeout.
		return toProbe(sound, r.held(), asked, r.cfg.Appointed)
	}
	return toProbe(offering, r.held(), asked, r.cfg.Appointed)
}

// offering are the members that are alive and say they relay.
func (r *Reach) offering() []identity.NodeID {
	var out []identity.NodeID
	for _, e := range r.table.All() {
		if e.State == peer.Alive && e.HasRecord && e.Record.Relay && !e.Revoked && e.ID != r.self {
			out = append(out, e.ID)
		}
	}
	return out
}

func (r *Reach) candidates(offering []identity.NodeID) []candidate {
	var out []candidate
	led := slices.ContainsFunc(offering, r.cfg.Appointed)
	for _, id := range offering {
		e, _ := r.table.Get(id)
		c := candidate{ID: id, Network: e.Record.Network(), Busy: e.Record.Busy, Unappointed: led && !r.cfg.Appointed(id)}
		r.mu.Lock()
		n := r.relays[id]
		c.RTT, c.Load, c.Failed = n.rtt, n.load, n.failed
		if h := r.hand[id]; h != nil && h.lease != nil {
			c.Load = uint8(h.lease.load.Load())
		}
		r.mu.Unlock()
		out = append(out, c)
	}
	return out
}

func (r *Reach) held() []atHand {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []atHand
	for _, h := range r.hand {
		if h.lease != nil {
			out = append(out, atHand{ID: h.id, Since: h.since})
		}
	}
	return out
}

func (r *Reach) isAtHand(id identity.NodeID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hand[id] != nil
}

// probeAll measures the round trips to relays, all at once.
func (r *Reach) probeAll(ctx context.Context, ids []identity.NodeID) {
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			rtt := time.Duration(0)
			err := r.direct(ctx, id)
			if err == nil {
				rtt, err = r.net.Probe(ctx, id)
			}
			r.note(id, func(n *relayNote) {
				n.asked = time.Now()
				if n.rtt = max(rtt, time.Microsecond); err != nil { // zero says that there was no answer
					n.rtt, n.reason = 0, err.Error()
				}
			})
		})
	}
	wg.Wait()
}

// note changes what is known of a relay.
func (r *Reach) note(id identity.NodeID, change func(*relayNote)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.relays[id]; !known && len(r.relays) >= relayNotesMax {
		oldest, when := identity.NodeID{}, time.Time{}
		for old, n := range r.relays {
			if oldest.IsZero() || n.asked.Before(when) {
				oldest, when = old, n.asked
			}
		}
		delete(r.relays, oldest)
	}
	n := r.relays[id]
	change(&n)
	r.relays[id] = n
}

// noteRelay records how an attempt to open a channel went.
func (r *Reach) noteRelay(k channelKey, c *channel, err error) {
	var refused *RefusedError
	switch {
	case err == nil:
		r.count.channels.Add(1)
		r.note(k.relay, func(n *relayNote) { n.load = uint8(c.lease.load.Load()) })
	case errors.As(err, &refused) && (refused.Code == RefusedFull || refused.Code == RefusedNoRelay):
		r.note(k.relay, func(n *relayNote) { n.failed, n.reason = time.Now(), refused.Code.String() })
	}
	r.recordChannel(k, err)
}

// register makes one relay ours to be reached through.
func (r *Reach) register(id identity.NodeID) {
	h := &handhold{id: id, since: time.Now()}
	r.mu.Lock()
	r.hand[id] = h
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.ctx, probeTimeout+answerTimeout)
	defer cancel()
	r.net.AcceptChannels(id, true)
	l, err := r.ask(ctx, id, relayRequest{Op: opRegister})
	if err == nil {
		r.keep(id, +1)
		if !r.spawn(func() { r.mourn(h, l) }) {
			r.keep(id, -1)
			l.end()
			err = errClosed
		}
	}
	r.mu.Lock()
	if err != nil {
		delete(r.hand, id)
	} else {
		h.lease, h.since = l, time.Now()
	}
	r.mu.Unlock()
	if err != nil {
		r.net.AcceptChannels(id, false)
		r.note(id, func(n *relayNote) { n.failed, n.reason = time.Now(), err.Error() })
		r.log.Debug("relay not at hand", "peer", id, "err", err)
		return
	}
	r.log.Info("relay at hand", "peer", id)
	r.cfg.Changed()
}

// mourn waits for the end of a registration and has it replaced.
func (r *Reach) mourn(h *handhold, l *lease) {
	<-l.ended
	r.net.AcceptChannels(h.id, false)
	r.mu.Lock()
	lost := r.hand[h.id] == h // else we gave it back ourselves
	if lost {
		delete(r.hand, h.id)
	}
	r.mu.Unlock()
	r.keep(h.id, -1)
	if lost && r.ctx.Err() == nil {
		r.note(h.id, func(n *relayNote) { n.failed, n.reason = time.Now(), "the connection was lost" })
		r.log.Info("relay lost", "peer", h.id)
	}
	r.changed()
}

// dropHand gives registrations back.
func (r *Reach) dropHand(drop func(identity.NodeID) bool) {
	var leases []*lease
	r.mu.Lock()
	for id, h := range r.hand {
		if h.lease != nil && drop(id) {
			leases = append(leases, h.lease)
			delete(r.hand, id)
		}
	}
	r.mu.Unlock()
	for _, l := range leases {
		l.end()
	}
}

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
	// assistsMax bounds the members being helped at once.
	assistsMax = 16
	// assistTimeout bounds the help in one search: finding the relay, asking it, its search for the target.
	assistTimeout = 8 * time.Second
	// channelsPerPeer is how many relays are asked for a channel to one member, side by side: its two and ours.
	channelsPerPeer = 4
	// channelsEnough: with as many relays of theirs and ours to ask, no other is.
	channelsEnough = 2
)

// Assist is told by the underlay that it searches for a member without a working direct path. It returns at once.
func (r *Reach) Assist(id identity.NodeID) {
	select {
	case r.assists <- id:
	default: // the underlay will say so again
	}
}

// assist helps the members in the queue, a bounded number at once.
func (r *Reach) assist() {
	places := make(chan struct{}, assistsMax)
	for {
		select {
		case <-r.ctx.Done():
			return
		case id := <-r.assists:
			if !r.beginAssist(id) {
				continue
			}
			select {
			case places <- struct{}{}:
			case <-r.ctx.Done():
				return
			}
			if !r.spawn(func() { r.help(id); <-places }) {
				return
			}
		}
	}
}

// beginAssist reports whether the member is to be helped: not while it is, and not in a search that is for a direct path only.
func (r *Reach) beginAssist(id identity.NodeID) bool {
	if !r.isMember(id) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alone[id] > 0 {
		return false
	}
	if _, under := r.assisted[id]; under {
		r.assisted[id] = true // a new search has begun before the help in the last one ended
		return false
	}
	r.assisted[id] = false
	r.historyLocked(id).wanted = time.Now()
	return true
}

// help opens channels to the member through the relays that may lead to it, side by side.
func (r *Reach) help(id identity.NodeID) {
	defer func() {
		r.mu.Lock()
		again := r.assisted[id]
		delete(r.assisted, id)
		r.mu.Unlock()
		wake(r.wakeUpkeep)
		if again && !r.hasPath(id) {
			r.Assist(id)
		}
	}()
	ctx, cancel := context.WithTimeout(r.ctx, assistTimeout)
	defer cancel()
	r.count.assists.Add(1)
	var wg sync.WaitGroup
	for _, relay := range r.relaysTo(id) {
		wg.Go(func() {
			if err := r.openChannel(ctx, channelKey{relay: relay, peer: id}); err != nil {
				r.log.Debug("no channel", "peer", id, "relay", relay, "err", err)
			}
		})
	}
	wg.Wait()
}

// relaysTo are the relays through which a member may be reached: those it names, those we have at hand, and where these are too few the nearest
// of all others.
func (r *Reach) relaysTo(id identity.NodeID) []identity.NodeID {
	var theirs []identity.NodeID
	if e, ok := r.table.Get(id); ok && e.HasRecord {
		theirs = e.Record.Relays
	}
	var out []identity.NodeID
	add := func(relay identity.NodeID) {
		e, ok := r.table.Get(relay)
		if ok && !e.Revoked && e.State != peer.Dead && e.State != peer.Left && relay != r.self && relay != id &&
			!slices.Contains(out, relay) && len(out) < channelsPerPeer {
			out = append(out, relay)
		}
	}
	for _, relay := range theirs[:min(len(theirs), peer.RelaysMax)] {
		add(relay)
	}
	for _, relay := range r.Relays() {
		add(relay)
	}
	others := r.candidates(r.offering())
	slices.SortFunc(others, func(a, b candidate) int { return int(unknownLast(a) - unknownLast(b)) })
	for _, c := range others {
		if len(out) >= channelsEnough {
			break
		}
		add(c.ID)
	}
	return out
}

// unknownLast orders relays by round trip, those not measured behind.
func unknownLast(c candidate) time.Duration {
	if c.RTT == 0 {
		return time.Hour
	}
	return c.cost()
}

// recordChannel keeps for people how an attempt to reach a member through a relay ended.
func (r *Reach) recordChannel(k channelKey, err error) {
	result := "channel opened"
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		result = refused.Code.String()
	case errors.Is(err, errIndirect):
		result = "we do not reach it directly"
	case err != nil:
		result = "it did not answer"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.historyLocked(k.peer)
	h.relays[k.relay] = RelayTried{ID: k.relay, Result: result, At: time.Now()}
	if len(h.relays) > 2*channelsPerPeer {
		for id, t := range h.relays {
			if time.Since(t.At) > time.Hour || len(h.relays) > 4*channelsPerPeer {
				delete(h.relays, id)
			}
		}
	}
}

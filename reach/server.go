package reach

import (
	"context"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

const (
	// requestTimeout is how long who opened a stream may take to say what it wants.
	requestTimeout = 5 * time.Second
	// targetTimeout bounds a relay's search for a direct path to the target of a channel: five transmissions of its checks.
	targetTimeout = time.Second
	// offerTimeout is how long a target may take to answer an offer: a round trip and some retransmissions.
	offerTimeout = 1500 * time.Millisecond
	// offersMax bounds the channels that relays at which we are not registered have opened to us, and those of one relay.
	offersMax      = 64
	offersPerRelay = 16
)

// serveRelay answers one request and holds what it granted until the stream ends.
func (r *Reach) serveRelay(ctx context.Context, s Stream) {
	defer s.Close()
	ctx, done := r.within(ctx)
	defer done()
	if s.SetDeadline(time.Now().Add(requestTimeout)) != nil {
		return
	}
	var q relayRequest
	if err := wire.ReadMessage(s, &q, relayMessageMax); err != nil {
		return
	}
	if s.SetDeadline(time.Time{}) != nil {
		return
	}
	channel, release, code := r.grant(ctx, s.Peer(), q)
	if code != 0 {
		r.count.refused.Add(1)
		r.log.Debug("relay request refused", "peer", s.Peer(), "reason", code.String())
		_ = r.say(s, relayAnswer{Code: code})
		return
	}
	defer func() { release(); r.noteLoad() }()
	if err := r.say(s, relayAnswer{Channel: channel, Load: r.noteLoad()}); err != nil {
		return
	}
	r.hold(ctx, s)
}

// grant decides on a request. release undoes what it granted.
func (r *Reach) grant(ctx context.Context, from identity.NodeID, q relayRequest) (channel uint32, release func(), code RefusalCode) {
	switch {
	case !q.valid() || q.Node == r.self || q.Node == from:
		return 0, nil, RefusedRequest
	case q.Op == opOffer:
		release, code = r.takeOffer(from, q)
		return 0, release, code
	case r.cfg.NoRelay:
		return 0, nil, RefusedNoRelay
	case !r.isDirect(from):
		return 0, nil, RefusedIndirect
	case q.Op == opOpen:
		return r.grantChannel(ctx, from, q.Node)
	}
	if code := r.grants.register(from); code != 0 {
		return 0, nil, code
	}
	r.keep(from, +1)
	return 0, func() { r.grants.unregister(from); r.keep(from, -1) }, 0
}

// grantChannel joins two members, if both are reached directly.
func (r *Reach) grantChannel(ctx context.Context, from, to identity.NodeID) (uint32, func(), RefusalCode) {
	if code := r.grants.open(from); code != 0 {
		return 0, nil, code
	}
	ok := false
	defer func() {
		if !ok {
			r.grants.close(from)
		}
	}()
	find, cancel := context.WithTimeout(ctx, targetTimeout)
	defer cancel()
	if !r.isMember(to) || r.direct(find, to) != nil {
		return 0, nil, RefusedUnreachable
	}
	g, err := r.pairUp(from, to)
	if err != nil {
		return 0, nil, RefusedFull
	}
	withdraw := func() {}
	if !r.grants.isRegistered(to) {
		if withdraw, err = r.offer(ctx, to, relayRequest{Op: opOffer, Node: from, Channel: g.ForB}); err != nil {
			r.partUp(from, to, g)
			return 0, nil, RefusedUnreachable
		}
	}
	ok = true
	return g.ForA, func() { r.partUp(from, to, g); withdraw(); r.grants.close(from) }, 0
}

// pairUp joins two members, or counts one more grant for two that are joined: each may have asked for the other.
func (r *Reach) pairUp(from, to identity.NodeID) (Grant, error) {
	r.pairing.Lock()
	defer r.pairing.Unlock()
	g, err := r.net.RelayPair(from, to)
	if err == nil {
		r.pairs[pairOf(from, to)]++
	}
	return g, err
}

// partUp gives one grant back; the last parts the two.
func (r *Reach) partUp(from, to identity.NodeID, g Grant) {
	r.pairing.Lock()
	defer r.pairing.Unlock()
	k := pairOf(from, to)
	if r.pairs[k]--; r.pairs[k] == 0 {
		delete(r.pairs, k)
		r.net.RelayEnd(g)
	}
}

func pairOf(a, b identity.NodeID) [2]identity.NodeID {
	if a.Compare(b) > 0 {
		a, b = b, a
	}
	return [2]identity.NodeID{a, b}
}

// offer asks a member that is not registered here to take a channel's frames.
func (r *Reach) offer(ctx context.Context, to identity.NodeID, q relayRequest) (withdraw func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	l, err := r.ask(ctx, to, q)
	if err != nil {
		return nil, err
	}
	return l.end, nil
}

// takeOffer decides on a channel that a relay wants to lead to us. Carrying nothing for others does not forbid it.
func (r *Reach) takeOffer(relay identity.NodeID, q relayRequest) (release func(), code RefusalCode) {
	if !r.isMember(q.Node) {
		return nil, RefusedUnreachable
	}
	if !r.isDirect(relay) {
		return nil, RefusedIndirect
	}
	r.mu.Lock()
	full := r.offersTotal >= offersMax || r.offers[relay] >= offersPerRelay
	if !full {
		r.offersTotal++
		r.offers[relay]++
	}
	r.mu.Unlock()
	if full {
		return nil, RefusedFull
	}
	free := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.offersTotal--
		if r.offers[relay]--; r.offers[relay] == 0 {
			delete(r.offers, relay)
		}
	}
	link, err := r.openLink(relay, q.Channel)
	if err != nil {
		free()
		return nil, RefusedFull
	}
	r.try(q.Node, link)
	return func() { r.closeLink(link); free() }, 0
}

// hold keeps a grant until the stream ends at either side, telling the other of our load meanwhile.
func (r *Reach) hold(ctx context.Context, s Stream) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { // ends when the caller closes the stream, below
		defer close(ended)
		defer cancel()
		var b [1]byte
		_, _ = s.Read(b[:]) // whatever comes, an end or a byte that nobody has to send here, it is over
	}()
	defer func() { s.Close(); <-ended }()
	defer cancel()
	beat := time.NewTicker(beatInterval)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			if r.say(s, relayBeat{Load: r.noteLoad()}) != nil {
				return
			}
		}
	}
}

// say writes one message in time.
func (r *Reach) say(s Stream, v any) error {
	if err := s.SetWriteDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	return wire.WriteMessage(s, v, relayMessageMax)
}

// load is how busy this relay is, in percent.
func (r *Reach) load() uint8 { return r.grants.load(r.net.RelayLoad()) }

const (
	// busyFrom is the load in percent from which a relay calls itself busy, busyUntil that from which it no longer does.
	busyFrom  = 80
	busyUntil = 50
)

// noteLoad returns the load, and has the record say when it has become high, or low again.
func (r *Reach) noteLoad() uint8 {
	load, was := r.load(), r.busy.Load()
	is := load >= busyFrom || was && load > busyUntil
	if is != was && r.busy.CompareAndSwap(was, is) {
		r.log.Info("relay load", "percent", load, "busy", is)
		r.cfg.Changed()
	}
	return load
}

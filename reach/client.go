package reach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// answerTimeout is how long a relay may take to answer: its own search for the target, its offer to it, and our round trips.
const answerTimeout = targetTimeout + offerTimeout + 2*time.Second

var (
	errIndirect = errors.New("reach: there is no direct path")
	errAnswer   = errors.New("reach: the answer makes no sense")
	errClosed   = errors.New("reach: closed")
)

// lease is what a relay granted us, or a member took from us. It lives as long as its stream.
type lease struct {
	relay   identity.NodeID
	stream  Stream
	channel uint32
	load    atomic.Uint32
	ended   chan struct{} // closed when it is over
	once    sync.Once
}

// end gives the lease back; it does not wait.
func (l *lease) end() { l.once.Do(func() { l.stream.Close() }) }

// ask puts a request to a member that is reached directly and returns what it granted, or [*RefusedError].
func (r *Reach) ask(ctx context.Context, id identity.NodeID, q relayRequest) (*lease, error) {
	if err := r.direct(ctx, id); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s, err := r.cfg.Streams.Open(ctx, id, ProtocolRelay)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	var a relayAnswer
	if err = exchange(s, q, &a, relayMessageMax, answerTimeout); err == nil && !a.valid(q) {
		err = errAnswer
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil && a.Code != 0 {
		err = &RefusedError{Relay: id, Code: a.Code}
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	l := &lease{relay: id, stream: s, channel: a.Channel, ended: make(chan struct{})}
	l.load.Store(uint32(a.Load))
	if !r.spawn(func() { r.follow(l) }) {
		s.Close()
		return nil, errClosed
	}
	return l, nil
}

// follow listens to a lease until it ends.
func (r *Reach) follow(l *lease) {
	defer close(l.ended)
	defer l.end()
	defer context.AfterFunc(r.ctx, l.end)()
	for {
		if l.stream.SetReadDeadline(time.Now().Add(beatLost)) != nil {
			return
		}
		var b relayBeat
		if err := wire.ReadMessage(l.stream, &b, relayMessageMax); err != nil || b.Load > 100 {
			return
		}
		l.load.Store(uint32(b.Load))
	}
}

// direct returns nil if there is a path to the member with nobody in between. It looks for one if there is none at all, and asks nobody's help
// for it: that a relay is only ever reached directly is what keeps relays from leading to each other.
func (r *Reach) direct(ctx context.Context, id identity.NodeID) error {
	r.searchAlone(id, +1)
	defer r.searchAlone(id, -1)
	if err := r.net.Connect(ctx, id); err != nil {
		return err
	}
	if !r.isDirect(id) {
		return fmt.Errorf("%w to %s", errIndirect, id.Short())
	}
	return nil
}

func (r *Reach) searchAlone(id identity.NodeID, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alone[id] += n; r.alone[id] == 0 {
		delete(r.alone, id)
	}
}

func (r *Reach) isDirect(id identity.NodeID) bool {
	p, ok := r.net.Path(id)
	return ok && (p.Kind == Direct || p.Kind == Pipe)
}

// isMember reports whether the node is a member now, and another than us.
func (r *Reach) isMember(id identity.NodeID) bool {
	e, ok := r.table.Get(id)
	return ok && !e.Revoked && id != r.self
}

// channelKey names a channel that we opened.
type channelKey struct{ relay, peer identity.NodeID }

// channel is one that we opened, or are opening.
type channel struct {
	lease *lease         // nil while it is being opened
	link  netip.AddrPort // of the underlay
	idle  time.Time      // since when nobody needs it; zero: somebody does
}

// channelsMax bounds the channels we hold open at relays: four for each of 64 peers that nothing else reaches.
const channelsMax = 256

// openChannel has a channel to the peer through the relay, the one that is open or a new one, and tries it.
func (r *Reach) openChannel(ctx context.Context, k channelKey) error {
	r.mu.Lock()
	c := r.channels[k]
	switch {
	case c != nil && c.lease == nil:
		r.mu.Unlock()
		return nil // being opened by another
	case c != nil:
		r.mu.Unlock()
		r.try(k.peer, c.link)
		return nil
	case len(r.channels) >= channelsMax:
		r.mu.Unlock()
		return fmt.Errorf("reach: %d channels are open", channelsMax)
	}
	r.channels[k] = &channel{}
	r.mu.Unlock()
	c, err := r.beginChannel(ctx, k)
	r.noteRelay(k, c, err)
	r.mu.Lock()
	if err != nil {
		delete(r.channels, k)
		r.mu.Unlock()
		return err
	}
	r.channels[k] = c
	select {
	case <-c.lease.ended:
		delete(r.channels, k) // it did not live long
	default:
	}
	r.mu.Unlock()
	r.try(k.peer, c.link)
	return nil
}

func (r *Reach) beginChannel(ctx context.Context, k channelKey) (*channel, error) {
	l, err := r.ask(ctx, k.relay, relayRequest{Op: opOpen, Node: k.peer})
	if err != nil {
		return nil, err
	}
	link, err := r.net.OpenChannel(k.relay, l.channel)
	if err != nil {
		l.end()
		return nil, err
	}
	c := &channel{lease: l, link: link}
	if !r.spawn(func() { r.closeAfter(k, c) }) {
		l.end()
		return nil, errClosed
	}
	return c, nil
}

// closeAfter takes the channel out of use when its lease is over.
func (r *Reach) closeAfter(k channelKey, c *channel) {
	<-c.lease.ended
	r.net.CloseChannel(c.link)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.channels[k] == c {
		delete(r.channels, k)
	}
}

// try has the underlay check an address of a member.
func (r *Reach) try(id identity.NodeID, addrs ...netip.AddrPort) {
	if err := r.net.Try(id, addrs); err != nil && r.ctx.Err() == nil {
		r.log.Debug("address not tried", "peer", id, "err", err)
	}
}

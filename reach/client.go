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
	if r.isDirect(id) {
		return nil
	}
	// The path in use leads through somebody. Perhaps nobody has looked since its record came.
	if e, ok := r.table.Get(id); ok && e.HasRecord {
		var addrs []netip.AddrPort
		for _, p := range e.Record.Endpoints {
			addrs = append(addrs, p.Addr)
		}
		r.try(id, addrs...)
		if r.pathWithin(ctx, targetTimeout, func() bool { return r.isDirect(id) }) {
			return nil
		}
	}
	return fmt.Errorf("%w to %s", errIndirect, id.Short())
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

// staleAfter is how long a channel that was there already gets to lead to its member in a new search.
const staleAfter = 2 * time.Second

// pathWithin waits for a path, of the kind that found looks for.
func (r *Reach) pathWithin(ctx context.Context, limit time.Duration, found func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	changed, stop := r.net.Watch()
	defer stop()
	for !found() {
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
	return true
}

func (r *Reach) hasPath(id identity.NodeID) bool {
	p, ok := r.net.Path(id)
	return ok && p.Kind != NoPath
}

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
		if r.pathWithin(ctx, staleAfter, func() bool { return r.hasPath(k.peer) }) {
			return nil
		}
		c.lease.end() // the relay may have forgotten the channel, or the member
		<-c.lease.ended
		r.forgetChannel(k, c)
		return r.openChannel(ctx, k)
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
	link, err := r.openLink(k.relay, l.channel)
	if err != nil {
		l.end()
		return nil, err
	}
	c := &channel{lease: l, link: link}
	if !r.spawn(func() { r.closeAfter(k, c) }) {
		l.end()
		r.closeLink(link)
		return nil, errClosed
	}
	return c, nil
}

// closeAfter takes the channel out of use when its lease is over.
func (r *Reach) closeAfter(k channelKey, c *channel) {
	<-c.lease.ended
	r.closeLink(c.link)
	r.forgetChannel(k, c)
}

func (r *Reach) forgetChannel(k channelKey, c *channel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.channels[k] == c {
		delete(r.channels, k)
	}
}

// openLink opens our end of a channel, or counts one more user: the two ends of a channel may both have asked for it.
func (r *Reach) openLink(relay identity.NodeID, number uint32) (netip.AddrPort, error) {
	r.pairing.Lock()
	defer r.pairing.Unlock()
	link, err := r.net.OpenChannel(relay, number)
	if err == nil {
		r.links[link]++
	}
	return link, err
}

func (r *Reach) closeLink(link netip.AddrPort) {
	r.pairing.Lock()
	defer r.pairing.Unlock()
	if r.links[link]--; r.links[link] == 0 {
		delete(r.links, link)
		r.net.CloseChannel(link)
	}
}

// try has the underlay check an address of a member.
func (r *Reach) try(id identity.NodeID, addrs ...netip.AddrPort) {
	if err := r.net.Try(id, addrs); err != nil && r.ctx.Err() == nil {
		r.log.Debug("address not tried", "peer", id, "err", err)
	}
}

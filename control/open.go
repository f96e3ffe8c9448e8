package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/underlay"
)

// The header of a stream and its answer:
//
//	opener   1     N, length of the protocol's name, 0–32; 0 asks only whether anybody is there
//	         N     name
//	         47-N  zeros
//	server   1     status
//
// What follows is the protocol's own. The padding makes the packet large enough that a peer which has been restarted, and knows
// nothing of the connection, can answer with a stateless reset (RFC 9000 §10.3): the restart is noticed in one round trip.
const headerSize = 48

// The statuses.
const (
	statusOK        = 0
	statusUnknown   = 1 // no such protocol
	statusForbidden = 2 // not for strangers, and to the server the opener is one
	statusRenew     = 3 // the server's knowledge of the opener is out of date: connect again
	statusClosing   = 4 // the server is shutting down
)

// Error codes of streams that are broken off (RFC 9000 §19.4, §19.5).
const (
	streamClosed quic.StreamErrorCode = 0 // the reader has read enough
	streamReset  quic.StreamErrorCode = 1 // broken off
	streamBusy   quic.StreamErrorCode = 2 // too many streams
)

// attemptsMax is how many connections an Open may try: the pooled one, one that somebody else was dialing, its own.
const attemptsMax = 3

// Open opens a stream of a protocol to a node, over the connection with it or a new one. It returns when the peer has accepted the
// protocol. Errors: *Refused, ErrUnknownPeer, ErrUnknownProtocol, ErrUnresponsive, ErrBusy, ErrPostQuantum, ErrConnectionLost,
// ErrClosed, what the underlay says when there is no path, and the context's own.
func (h *Host) Open(ctx context.Context, id identity.NodeID, protocol string) (*Stream, error) {
	t, err := h.targetOf(id)
	if err != nil {
		return nil, err
	}
	return h.openTo(ctx, t, protocol)
}

// OpenTo opens a stream to the node at an underlay address to which there is a path already, before its ID can be looked up: the
// first contact of a joiner. want is the ID it must prove, or zero for whoever is there; then look at Stream.Peer.
func (h *Host) OpenTo(ctx context.Context, addr underlay.Addr, want identity.NodeID, protocol string) (*Stream, error) {
	return h.openTo(ctx, target{addr: addr, want: want}, protocol)
}

// targetOf finds the address of a node.
func (h *Host) targetOf(id identity.NodeID) (target, error) {
	if id == h.self {
		return target{}, fmt.Errorf("%w: %s is this node itself", ErrUnknownPeer, id.Short())
	}
	if addr, ok := h.cfg.Network.AddrOf(id); ok {
		return target{addr: addr, want: id, find: true}, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if key, ok := h.keys[id]; ok {
		return target{addr: underlay.Addr{Key: key}, want: id}, nil
	}
	return target{}, fmt.Errorf("%w: %s is neither in the table of members nor connected", ErrUnknownPeer, id.Short())
}

func (h *Host) openTo(ctx context.Context, t target, protocol string) (*Stream, error) {
	if !validProtocol(protocol) {
		return nil, fmt.Errorf("control: invalid protocol name %q", protocol)
	}
	for attempt := 1; ; attempt++ {
		c, fresh, err := h.connect(ctx, t)
		if err == nil {
			var s *Stream
			if s, err = h.openOn(ctx, c, t, protocol); err == nil {
				return s, nil
			}
			if again(err) {
				c.retired.Store(true)
			}
		}
		if fresh || attempt == attemptsMax || ctx.Err() != nil || !again(err) {
			return nil, err
		}
		h.log.Debug("control stream is tried again on a new connection", "peer", t.want, "protocol", protocol, "err", err)
	}
}

// again reports whether an error of a connection that this call did not make itself may be the connection's fault alone: it died,
// or its other end judged us by what we were when it was made.
func again(err error) bool {
	var refused *Refused
	return errors.Is(err, ErrConnectionLost) || errors.Is(err, ErrUnresponsive) || errors.As(err, &refused)
}

// openOn opens a stream on one connection.
func (h *Host) openOn(ctx context.Context, c *connection, t target, protocol string) (*Stream, error) {
	qs, err := c.begin(ctx, protocol)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.verified:
	case <-ctx.Done():
		abort(qs, streamReset)
		return nil, fmt.Errorf("control: connect to %s: %w", t.name(), context.Cause(ctx))
	}
	if err := h.permit(c, t, protocol); err != nil {
		abort(qs, streamReset)
		return nil, err
	}
	if err := c.await(ctx, qs, openTimeout); err != nil {
		abort(qs, streamReset)
		return nil, err
	}
	return newStream(c, qs, protocol), nil
}

// permit reports whether we may speak the protocol with who is at the other end of a verified connection.
func (h *Host) permit(c *connection, t target, protocol string) error {
	switch {
	case c.err != nil:
		return c.err
	case !t.want.IsZero() && c.peer.ID != t.want:
		return refuse(c.peer.ID, ReasonWrongNode, fmt.Sprintf("wanted %s, %s answered", t.want.Short(), c.peer.ID.Short()))
	case c.peer.Member != nil || !c.trusted:
		return nil
	}
	if p, ok := h.handlerOf(protocol); ok && p.access == Anyone {
		return nil
	}
	return refuse(c.peer.ID, ReasonNotMember, "it showed no certificate")
}

// begin opens a QUIC stream and sends its header.
func (c *connection) begin(ctx context.Context, protocol string) (*quic.Stream, error) {
	bounded, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	qs, err := c.quic.OpenStreamSync(bounded)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, fmt.Errorf("control: open %s stream: %w", protocol, context.Cause(ctx))
	case bounded.Err() != nil:
		return nil, fmt.Errorf("%w: all %d streams are in use", ErrBusy, streamsMax)
	default:
		return nil, translate(err, c.peerID())
	}
	var header [headerSize]byte
	header[0] = byte(len(protocol))
	copy(header[1:], protocol)
	if _, err := qs.Write(header[:]); err != nil {
		abort(qs, streamReset)
		return nil, translate(err, c.peerID())
	}
	return qs, nil
}

// await reads the server's status. When the peer does not answer within limit the connection is dropped: the peer answers before
// it looks at its handlers, so there is nobody there any more.
func (c *connection) await(ctx context.Context, qs *quic.Stream, limit time.Duration) error {
	if err := qs.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return translate(err, c.peer.ID)
	}
	stop := context.AfterFunc(ctx, func() { _ = qs.SetReadDeadline(time.Unix(1, 0)) })
	var status [1]byte
	n, err := qs.Read(status[:])
	if n == len(status) {
		err = nil // the end of the stream may come along with its last byte
	}
	if !stop() {
		// The caller gave up first. Whether the peer is still there is found out without it.
		c.suspect()
		return fmt.Errorf("control: wait for %s: %w", c.peer.ID.Short(), context.Cause(ctx))
	}
	if err != nil {
		return c.statusError(err, limit)
	}
	if err := qs.SetReadDeadline(time.Time{}); err != nil {
		return translate(err, c.peer.ID)
	}
	return c.judgeStatus(status[0])
}

// statusError says why no status came, and drops a connection on which nobody answers.
func (c *connection) statusError(err error, limit time.Duration) error {
	var broken *quic.StreamError
	switch {
	case !c.alive():
		return translate(context.Cause(c.quic.Context()), c.peer.ID)
	case errors.As(err, &broken) && broken.ErrorCode == streamBusy:
		return fmt.Errorf("%w: %s serves no more streams for now", ErrBusy, c.peer.ID.Short())
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.host.counters.unresponsive.Add(1)
		c.host.log.Info("control connection dropped", "peer", c.peer.ID, "err", ErrUnresponsive)
		closeQUIC(c.quic, ReasonUnresponsive, "")
		return fmt.Errorf("%w: %s: no answer within %v", ErrUnresponsive, c.peer.ID.Short(), limit)
	}
	return translate(err, c.peer.ID)
}

func (c *connection) judgeStatus(status byte) error {
	switch status {
	case statusOK:
		return nil
	case statusUnknown:
		return fmt.Errorf("%w: %s", ErrUnknownProtocol, c.peer.ID.Short())
	case statusForbidden:
		return &Refused{Code: uint64(ReasonNotMember), Reason: ReasonNotMember.String(), Peer: c.peer.ID}
	case statusRenew:
		return fmt.Errorf("%w: %s: %s", ErrConnectionLost, c.peer.ID.Short(), ReasonRenew)
	case statusClosing:
		return fmt.Errorf("%w: %s: %s", ErrConnectionLost, c.peer.ID.Short(), ReasonClosing)
	}
	return fmt.Errorf("control: %s answered with unknown status %d", c.peer.ID.Short(), status)
}

// peerID is the peer's ID, or zero while the hello runs.
func (c *connection) peerID() identity.NodeID {
	select {
	case <-c.verified:
		return c.peer.ID
	default:
		return identity.NodeID{}
	}
}

// Suspect says that the node may have been restarted or lost (gossip's word). Connections with it are asked for a sign of life and
// dropped, with their streams, when none comes within 1.5 s, so that the next Open does not have to find out. It returns at once.
func (h *Host) Suspect(id identity.NodeID) {
	for _, c := range h.connsOf(id) {
		c.suspect()
	}
}

// suspect asks the other end for a sign of life, in the background, once at a time.
func (c *connection) suspect() {
	if !c.probing.CompareAndSwap(false, true) {
		return
	}
	started := c.host.spawn(func() {
		defer c.probing.Store(false)
		ctx, cancel := context.WithTimeout(c.quic.Context(), openTimeout)
		defer cancel()
		qs, err := c.begin(ctx, "")
		if err != nil {
			return
		}
		_ = c.await(c.quic.Context(), qs, suspectTimeout)
		abort(qs, streamClosed)
	})
	if !started {
		c.probing.Store(false)
	}
}

// abort breaks a stream off in both directions.
func abort(qs *quic.Stream, code quic.StreamErrorCode) {
	qs.CancelRead(code)
	qs.CancelWrite(code)
}

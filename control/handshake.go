package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// The hello runs on the connection's first stream, which the dialer opens: dialer's hello, listener's hello, end. The dialer may
// open its first protocol streams behind its hello without waiting; the listener looks at them when it has judged the hello, so a
// cold connection costs two round trips until the first answer.

// newConnection wraps a QUIC connection whose TLS handshake is complete, after looking at how it was made. ours is our role.
func (h *Host) newConnection(qc *quic.Conn, ours role) (*connection, binding, error) {
	c := &connection{
		host: h, quic: qc, key: addrKey(qc.RemoteAddr()), dialed: ours == dialer, verified: make(chan struct{}),
	}
	state := qc.ConnectionState().TLS
	theirs := binding{role: ours.other(), address: c.key}
	var err error
	if theirs.tlsKey, err = peerKey(state); err != nil {
		return nil, binding{}, err
	}
	theirs.exporter, err = exporter(state)
	return c, theirs, err
}

// ours turns what binds the peer's hello to a connection into what binds ours.
func (b binding) ours() binding { return binding{role: b.role.other(), exporter: b.exporter} }

// greeting is a dialer's hello under way.
type greeting struct {
	conn   *connection
	stream *quic.Stream
	theirs binding
	creds  credentials
	want   identity.NodeID
}

// greet sends the dialer's hello.
func (h *Host) greet(ctx context.Context, qc *quic.Conn, want identity.NodeID) (*greeting, error) {
	c, theirs, err := h.newConnection(qc, dialer)
	if err != nil {
		return nil, err
	}
	if key, known := h.cfg.TLSKey(want); known && key != theirs.tlsKey {
		return nil, refuse(want, ReasonWrongNode, "the TLS key is not that member's")
	}
	g := &greeting{conn: c, theirs: theirs, creds: h.credentials(), want: want}
	if want.IsZero() {
		g.creds.chain = nil // what our mesh says about us is not for whoever may be there
	}
	c.enrolled, c.trusted = g.creds.chain != nil, g.creds.trust != nil
	ours, err := newHello(h.cfg.Key, h.instance, g.creds.chain, theirs.ours())
	if err != nil {
		return nil, err
	}
	if g.stream, err = qc.OpenStreamSync(ctx); err != nil {
		return nil, translate(err, want)
	}
	if err := g.stream.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, translate(err, want)
	}
	if err := wire.WriteMessage(g.stream, ours, helloMax); err != nil {
		return nil, translate(err, want)
	}
	return g, translate(g.stream.Close(), want)
}

// finish reads and judges the listener's hello.
func (g *greeting) finish() (verdict, error) {
	h := g.conn.host
	var theirs hello
	if err := readHello(g.stream, &theirs, g.want); err != nil {
		return verdict{}, err
	}
	return judge{self: h.self, want: g.want, trust: g.creds.trust, now: h.cfg.Now()}.decide(theirs, g.theirs)
}

// receive takes the dialer's hello on an incoming connection and answers with ours.
func (h *Host) receive(qc *quic.Conn) (*connection, error) {
	ctx, cancel := context.WithTimeout(qc.Context(), helloTimeout)
	defer cancel()
	c, theirs, err := h.newConnection(qc, listener)
	if err != nil {
		return nil, err
	}
	stream, err := qc.AcceptStream(ctx)
	if err != nil {
		return nil, translate(err, identity.NodeID{})
	}
	deadline, _ := ctx.Deadline()
	if err := stream.SetDeadline(deadline); err != nil {
		return nil, translate(err, identity.NodeID{})
	}
	var their hello
	if err := readHello(stream, &their, identity.NodeID{}); err != nil {
		return nil, err
	}
	creds := h.credentials()
	v, err := judge{self: h.self, trust: creds.trust, now: creds.now}.decide(their, theirs)
	if err != nil {
		return nil, err
	}
	c.adopt(v)
	c.enrolled, c.trusted = creds.chain != nil, creds.trust != nil
	// A stranger is shown who we are, which it must be able to check, but not what our mesh says about us. Who has proven to be a member that we
	// know is none, though it shows no certificate: it does not know yet whom it has found.
	if v.peer.Member == nil && !h.cfg.Member(v.peer.ID) {
		creds.chain = nil
	}
	ours, err := newHello(h.cfg.Key, h.instance, creds.chain, theirs.ours())
	if err != nil {
		return nil, err
	}
	if err := wire.WriteMessage(stream, ours, helloMax); err != nil {
		return nil, translate(err, v.peer.ID)
	}
	return c, translate(stream.Close(), v.peer.ID)
}

// readHello reads one hello; bytes that are none are the peer's fault, anything else the connection's.
func readHello(s *quic.Stream, to *hello, peer identity.NodeID) error {
	err := wire.ReadMessage(s, to, helloMax)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, wire.ErrForm), errors.Is(err, wire.ErrNotCanonical), errors.Is(err, wire.ErrTooLarge):
		return refuse(peer, ReasonBadHello, "malformed")
	}
	return translate(err, peer)
}

// adopt takes over what the hello proved and lets the node know of the member.
func (c *connection) adopt(v verdict) {
	c.peer, c.instance = v.peer, v.instance
	if v.peer.Member != nil {
		c.host.cfg.Admit(v.peer.Member, v.raw)
	}
}

// turnAway closes a connection whose hello failed, with the reason as its code.
func (h *Host) turnAway(qc *quic.Conn, err error) {
	var refused *Refused
	reason, text := ReasonBadHello, "no hello in time"
	switch {
	case errors.As(err, &refused) && refused.Ours:
		reason, text = Reason(refused.Code), refused.Reason
		h.counters.refused.Add(1)
		h.log.Info("control connection refused", "peer", refused.Peer, "addr", qc.RemoteAddr(), "err", refused.Reason)
	case errors.Is(err, ErrPostQuantum):
		text = ErrPostQuantum.Error()
	case errors.Is(err, ErrClosed):
		reason, text = ReasonClosing, ""
	}
	closeQUIC(qc, reason, text)
}

// closeWithHost ends a connection when the Host closes, for as long as nobody serves it who would: until stop is called.
func (h *Host) closeWithHost(qc *quic.Conn) (stop func() bool) {
	return context.AfterFunc(h.ctx, func() { closeQUIC(qc, ReasonClosing, "") })
}

// welcome takes an incoming connection from its hello to its end.
func (h *Host) welcome(qc *quic.Conn) {
	defer h.closeWithHost(qc)()
	c, err := h.receive(qc)
	if err != nil {
		h.turnAway(qc, err)
		return
	}
	if c.peer.Member != nil {
		if t := ticketOf(qc.Context()); t != nil {
			t.prove()
		}
	}
	c.settle(nil)
	if err := h.register(c, nil); err != nil {
		closeQUIC(qc, ReasonClosing, "")
		return
	}
	c.serve()
}

// errNoPath wraps what the underlay says when it finds no path.
func errNoPath(id identity.NodeID, err error) error {
	return fmt.Errorf("control: no path to %s: %w", id.Short(), err)
}

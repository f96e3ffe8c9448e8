package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// service serves whole connections of another application protocol (the DHT's).
type service func(ctx context.Context, qc *quic.Conn, p Peer)

// HandleALPN registers what serves connections with another ALPN over the same port and transport. They pass the same TLS, hello
// and limits as our own, so f gets them only from proven members, with the streams after the hello untouched. f owns the
// connection; when it returns, the connection is closed. Close waits for f. As with Handle, a bad name is a panic.
func (h *Host) HandleALPN(alpn string, f func(ctx context.Context, qc *quic.Conn, p Peer)) {
	if !validProtocol(alpn) || alpn == ALPN {
		panic(fmt.Sprintf("control: invalid ALPN %q", alpn))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.services) >= protocolsMax {
		panic("control: too many ALPNs")
	}
	h.services[alpn] = f
	names := []string{ALPN}
	for name := range h.services {
		names = append(names, name)
	}
	slices.Sort(names)
	h.serverTLS.Store(tlsConfig(h.cert, names, h.cfg.Rand))
}

// serveALPN takes an incoming connection of another ALPN from the hello to its end.
func (h *Host) serveALPN(c *connection, alpn string) {
	h.mu.Lock()
	f := h.services[alpn]
	h.mu.Unlock()
	if f == nil || c.peer.Member == nil {
		h.turnAway(c.quic, refuse(c.peer.ID, ReasonNotMember, ""))
		return
	}
	f(c.quic.Context(), c.quic, c.peer)
	closeQUIC(c.quic, ReasonClosing, "")
}

// DialALPN makes a connection of another ALPN to a member. The caller owns it: it is not pooled, but ends with the Host.
func (h *Host) DialALPN(ctx context.Context, id identity.NodeID, alpn string) (*quic.Conn, Peer, error) {
	t, err := h.targetOf(id)
	if err != nil {
		return nil, Peer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	g, err := h.reach(ctx, t, alpn)
	if err != nil {
		return nil, Peer{}, err
	}
	if err = g.finish(); err == nil && g.conn.peer.Member == nil {
		err = refuse(id, ReasonNotMember, "it showed no certificate")
	}
	if err != nil {
		h.turnAway(g.conn.quic, err)
		return nil, Peer{}, err
	}
	qc := g.conn.quic
	if !h.spawn(func() { h.endWithHost(qc) }) {
		closeQUIC(qc, ReasonClosing, "")
		return nil, Peer{}, ErrClosed
	}
	return qc, g.conn.peer, nil
}

// endWithHost ends a connection that is its caller's own when the Host closes.
func (h *Host) endWithHost(qc *quic.Conn) {
	select {
	case <-qc.Context().Done():
	case <-h.ctx.Done():
		closeQUIC(qc, ReasonClosing, "")
	}
}

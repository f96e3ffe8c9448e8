package control

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/quic-go/quic-go"
)

// serve accepts the peer's streams until the connection ends, and then takes it out of the pool.
func (c *connection) serve() {
	h := c.host
	defer h.unregister(c)
	for {
		qs, err := c.quic.AcceptStream(h.ctx)
		if err != nil {
			// Either the connection has ended or the Host is closing; then nobody else may know of this connection.
			closeQUIC(c.quic, ReasonClosing, "")
			err = translate(err, c.peer.ID)
			h.log.Debug("control connection ended", "peer", c.peer.ID, "err", err)
			h.tellRefused(err, c.peer.Public.Ed25519)
			return
		}
		if c.serving.Add(1) > c.streamsMax() {
			c.serving.Add(-1)
			h.counters.streamsRefused.Add(1)
			abort(qs, streamBusy)
			continue
		}
		if !h.spawn(func() { c.serveStream(qs) }) {
			c.serving.Add(-1)
			abort(qs, streamReset)
		}
	}
}

// streamsMax is how many of the peer's streams may be served at once. QUIC's own limit frees a place when the stream has ended;
// this one when the handler has.
func (c *connection) streamsMax() int32 {
	if c.peer.Member == nil {
		return strangerStreamsMax
	}
	return streamsMax
}

// serveStream reads a stream's header, answers it and runs the handler.
func (c *connection) serveStream(qs *quic.Stream) {
	defer c.serving.Add(-1)
	protocol, err := readHeader(qs)
	if err != nil {
		abort(qs, streamReset)
		return
	}
	p, status := c.route(protocol)
	if _, err := qs.Write([]byte{status}); err != nil || status != statusOK || protocol == "" {
		qs.CancelRead(streamClosed)
		_ = qs.Close()
		return
	}
	c.host.counters.served.Add(1)
	s := newStream(c, qs, protocol)
	p.serve(s.ctx, s)
}

// readHeader reads the name of the protocol the peer wants; empty if it only asks for a sign of life.
func readHeader(qs *quic.Stream) (string, error) {
	if err := qs.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
		return "", err
	}
	var header [headerSize]byte
	if _, err := io.ReadFull(qs, header[:]); err != nil {
		return "", err
	}
	protocol, err := parseHeader(header)
	if err != nil {
		return "", err
	}
	return protocol, qs.SetReadDeadline(time.Time{})
}

// errHeader is a stream header that no version of ours has sent.
var errHeader = errors.New("control: malformed stream header")

// parseHeader returns the protocol's name in a stream header.
func parseHeader(b [headerSize]byte) (string, error) {
	n := int(b[0])
	if n > protocolMax || len(bytes.Trim(b[1+n:], "\x00")) > 0 {
		return "", errHeader
	}
	protocol := string(b[1 : 1+n])
	if n > 0 && !validProtocol(protocol) {
		return "", errHeader
	}
	return protocol, nil
}

// route decides what serves a stream. A member is looked at anew with every stream: its certificate may have expired, or its
// membership been revoked, in the life of the connection.
func (c *connection) route(protocol string) (handler, byte) {
	h := c.host
	creds := h.credentials()
	if creds.trust != nil && creds.trust.Revoked(c.peer.ID) {
		r := refuse(c.peer.ID, ReasonRevoked, "")
		closeQUIC(c.quic, ReasonRevoked, r.Reason)
		return handler{}, statusForbidden
	}
	if protocol == "" {
		return handler{}, statusOK
	}
	p, ok := h.handlerOf(protocol)
	switch {
	case h.ctx.Err() != nil:
		return handler{}, statusClosing
	case !ok:
		return handler{}, statusUnknown
	case p.access == Anyone:
		return p, statusOK
	case !creds.current(c):
		return handler{}, statusRenew
	case c.peer.Member == nil:
		return handler{}, statusForbidden
	}
	return p, statusOK
}

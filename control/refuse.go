package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"unicode"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Reason is why a connection was ended or a peer refused. It travels as the application error code of QUIC's CONNECTION_CLOSE
// (RFC 9000 §19.19); the numbers are part of the protocol.
type Reason uint64

// The reasons.
const (
	ReasonClosing      Reason = 0x100 // the node stops
	ReasonBusy         Reason = 0x101 // a limit is reached
	ReasonUnresponsive Reason = 0x102 // streams were not answered
	ReasonSuperseded   Reason = 0x103 // a newer connection with the peer took over
	ReasonRenew        Reason = 0x104 // shown credentials are out of date: connect again

	ReasonRevoked     Reason = 0x110 // the node's membership was revoked
	ReasonExpired     Reason = 0x111 // the certificate has expired
	ReasonNotYetValid Reason = 0x112 // the certificate is not valid yet: a clock is wrong
	ReasonWrongMesh   Reason = 0x113 // the certificate is of another mesh
	ReasonNotMember   Reason = 0x114 // the certificate does not verify, or none was shown where one is needed
	ReasonWrongNode   Reason = 0x115 // proven identity is not the one wanted, or not that of the address
	ReasonBadHello    Reason = 0x116 // malformed, or a signature that does not verify
)

var reasonTexts = map[Reason]string{
	ReasonClosing:      "the node is shutting down",
	ReasonBusy:         "the node is busy",
	ReasonUnresponsive: "the connection stopped answering",
	ReasonSuperseded:   "a newer connection took over",
	ReasonRenew:        "credentials have changed",
	ReasonRevoked:      "this node's membership was revoked",
	ReasonExpired:      "the member certificate has expired",
	ReasonNotYetValid:  "the member certificate is not valid yet",
	ReasonWrongMesh:    "the member certificate is of another mesh",
	ReasonNotMember:    "not a member of the mesh",
	ReasonWrongNode:    "another node answered",
	ReasonBadHello:     "the hello does not verify",
}

// String returns the reason in words.
func (r Reason) String() string {
	if s, ok := reasonTexts[r]; ok {
		return s
	}
	return fmt.Sprintf("reason %#x", uint64(r))
}

// isRefusal reports whether the reason says something about who may speak to whom, not about the connection.
func (r Reason) isRefusal() bool { return r >= ReasonRevoked && r <= ReasonBadHello }

// Refused is the error of who was turned away, or, with Ours, of who turned the other away. Connecting again does not help until
// something has changed: a certificate, a clock, a revocation.
type Refused struct {
	Code   uint64 // a [Reason]
	Reason string // in words, possibly with detail such as a date
	Peer   identity.NodeID
	Ours   bool // we refused the peer, not the peer us
}

// Error says who refused whom and why.
func (e *Refused) Error() string {
	peer := "the peer"
	if !e.Peer.IsZero() {
		peer = e.Peer.Short()
	}
	if e.Ours {
		return fmt.Sprintf("control: refused %s: %s", peer, e.Reason)
	}
	return fmt.Sprintf("control: %s refused us: %s", peer, e.Reason)
}

// Is makes errors.Is(err, &Refused{Code: …}) compare codes, whoever the peer.
func (e *Refused) Is(target error) bool {
	t, ok := target.(*Refused)
	return ok && t.Code == e.Code
}

// Errors that mean the connection or the stream, not the peer's standing. All but the first three are worth another try.
var (
	// ErrUnknownProtocol: the peer serves no such protocol; it may run an older version.
	ErrUnknownProtocol = errors.New("control: the peer does not serve this protocol")
	// ErrUnknownPeer: the node ID leads to no address: it is not a member we know of.
	ErrUnknownPeer = errors.New("control: unknown peer")
	// ErrPostQuantum: no post-quantum key exchange in common (the peer offers only classical groups).
	ErrPostQuantum = errors.New("control: the peer offers no post-quantum key exchange (X25519MLKEM768)")
	// ErrBusy: a limit on streams or connections is reached, here or there.
	ErrBusy = errors.New("control: too many streams or connections")
	// ErrUnresponsive: the peer did not answer in time.
	ErrUnresponsive = errors.New("control: the peer does not answer")
	// ErrConnectionLost: the connection under a stream has ended.
	ErrConnectionLost = errors.New("control: connection lost")
	// ErrReset: the peer has broken the stream off.
	ErrReset = errors.New("control: stream reset by the peer")
	// ErrClosed: the Host is closed.
	ErrClosed = fmt.Errorf("control: host is closed: %w", net.ErrClosed)
)

// alertHandshakeFailure is the QUIC error code of the TLS alert that ends a handshake with no group in common
// (RFC 9001 §4.8, RFC 8446 §6.2).
const alertHandshakeFailure = 0x100 + 40

// translate turns what quic-go says about a connection or stream with peer into our own errors.
func translate(err error, peer identity.NodeID) error {
	var app *quic.ApplicationError
	var transport *quic.TransportError
	var stream *quic.StreamError
	switch {
	case err == nil, err == io.EOF, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &app):
		return fromClose(Reason(app.ErrorCode), app.ErrorMessage, peer, !app.Remote)
	case errors.As(err, &transport):
		switch transport.ErrorCode {
		case alertHandshakeFailure:
			return fmt.Errorf("%w: %v", ErrPostQuantum, transport)
		case quic.ConnectionRefused:
			return fmt.Errorf("%w: %s accepts no more connections for now", ErrBusy, peer.Short())
		}
	case errors.As(err, &stream):
		return fmt.Errorf("%w: %s", ErrReset, peer.Short())
	case errors.Is(err, quic.ErrTransportClosed):
		return ErrClosed
	}
	return fmt.Errorf("%w: %s: %v", ErrConnectionLost, peer.Short(), err)
}

// tellRefused lets the node know if err is that a node has turned us away.
func (h *Host) tellRefused(err error, tlsKey [32]byte) {
	var refused *Refused
	if errors.As(err, &refused) && !refused.Ours && !refused.Peer.IsZero() {
		h.cfg.Refused(refused, tlsKey)
	}
}

// fromClose is the error for a connection that was closed with a reason.
func fromClose(r Reason, text string, peer identity.NodeID, ours bool) error {
	if text = showable(text); text == "" {
		text = r.String()
	}
	switch {
	case r.isRefusal():
		return &Refused{Code: uint64(r), Reason: text, Peer: peer, Ours: ours}
	case r == ReasonBusy:
		return fmt.Errorf("%w: %s", ErrBusy, peer.Short())
	case r == ReasonUnresponsive:
		return fmt.Errorf("%w: %s", ErrUnresponsive, peer.Short())
	case ours && r == ReasonClosing:
		return ErrClosed
	}
	return fmt.Errorf("%w: %s: %s", ErrConnectionLost, peer.Short(), text)
}

// showable returns a reason that came over the network so that it may be printed: short, and nothing a terminal would obey.
func showable(s string) string {
	if len(s) > reasonMax {
		s = s[:reasonMax]
	}
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) && c != unicode.ReplacementChar {
			return c
		}
		return -1
	}, s)
}

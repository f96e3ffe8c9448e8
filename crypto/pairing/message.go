package pairing

import (
	"errors"
	"fmt"
	"io"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// The messages, each a length and a CBOR array (package wire), in this order:
//
//	joiner  Hello   [version, commitment]
//	member  Offer   [refusal, mesh ID, mesh name, nonce]
//	joiner  Reveal  [nonce, enrolment request]
//	member  Notice  [kind, reason, body], any number of NoticeWaiting, then one of the others
const version = 1

// Bounds of a message in bytes.
const (
	helloMax  = 64
	offerMax  = 512
	revealMax = invitation.RequestMax + 64
	noticeMax = 1 << 20 // the answer to an enrolment
	reasonMax = 300
)

// ErrMessage: bytes that are no message of this protocol.
var ErrMessage = errors.New("pairing: malformed message")

// Hello opens the exchange.
type Hello struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Commitment [32]byte
}

// Offer says which mesh the joiner has found. With a refusal, in words for people, everything else is empty.
type Offer struct {
	_       struct{} `cbor:",toarray"`
	Refusal string
	Mesh    identity.MeshID
	Name    string
	Nonce   Nonce
}

// Reveal opens the commitment. Request is a signed invitation.Request without an invitation.
type Reveal struct {
	_       struct{} `cbor:",toarray"`
	Nonce   Nonce
	Request []byte
}

// NoticeKind is what became of a request.
type NoticeKind uint8

// The kinds of notice.
const (
	NoticeWaiting  NoticeKind = 1 // the request is there to be approved; repeated as a sign of life
	NoticeAdmitted NoticeKind = 2 // Body is the answer to the enrolment
	NoticeRefused  NoticeKind = 3 // by a person, or by the mesh
	NoticeExpired  NoticeKind = 4 // nobody approved in time
)

// Notice tells the joiner how its request stands.
type Notice struct {
	_      struct{} `cbor:",toarray"`
	Kind   NoticeKind
	Reason string
	Body   []byte
}

// WriteHello sends the joiner's first message.
func WriteHello(w io.Writer, commitment [32]byte) error {
	return wire.WriteMessage(w, Hello{Version: version, Commitment: commitment}, helloMax)
}

// ReadHello reads it.
func ReadHello(r io.Reader) (h Hello, err error) {
	if err = wire.ReadMessage(r, &h, helloMax); err != nil {
		return Hello{}, err
	}
	if h.Version != version {
		return Hello{}, fmt.Errorf("%w: version %d, this program speaks %d", ErrMessage, h.Version, version)
	}
	return h, nil
}

// WriteOffer sends the member's answer.
func WriteOffer(w io.Writer, o Offer) error { return wire.WriteMessage(w, o, offerMax) }

// ReadOffer reads it.
func ReadOffer(r io.Reader) (o Offer, err error) {
	if err = wire.ReadMessage(r, &o, offerMax); err != nil {
		return Offer{}, err
	}
	if o.Refusal != "" {
		if len(o.Refusal) > reasonMax {
			return Offer{}, fmt.Errorf("%w: a refusal of %d bytes", ErrMessage, len(o.Refusal))
		}
		return o, nil
	}
	if o.Mesh.IsZero() || certificate.CheckLabel(o.Name) != nil {
		return Offer{}, fmt.Errorf("%w: an offer without a mesh", ErrMessage)
	}
	return o, nil
}

// WriteReveal sends the joiner's second message.
func WriteReveal(w io.Writer, v Reveal) error { return wire.WriteMessage(w, v, revealMax) }

// ReadReveal reads it. The request in it is still to be verified.
func ReadReveal(r io.Reader) (v Reveal, err error) {
	err = wire.ReadMessage(r, &v, revealMax)
	return v, err
}

// WriteNotice tells how the request stands.
func WriteNotice(w io.Writer, n Notice) error {
	if len(n.Reason) > reasonMax {
		n.Reason = n.Reason[:reasonMax]
	}
	return wire.WriteMessage(w, n, noticeMax)
}

// ReadNotice reads it. The body is still to be verified.
func ReadNotice(r io.Reader) (n Notice, err error) {
	if err = wire.ReadMessage(r, &n, noticeMax); err != nil {
		return Notice{}, err
	}
	if n.Kind < NoticeWaiting || n.Kind > NoticeExpired || len(n.Reason) > reasonMax || (n.Kind == NoticeAdmitted) != (len(n.Body) > 0) {
		return Notice{}, fmt.Errorf("%w: a notice of kind %d", ErrMessage, n.Kind)
	}
	return n, nil
}

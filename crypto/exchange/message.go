package exchange

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/kem/xwing"
)

// The messages, with integers big-endian:
//
//	offer   = epoch 8 | flags 1 (bit 0: fresh) | X-Wing public key 1216
//	accept  = epoch 8 | X-Wing ciphertext 1120
//	confirm = epoch 8 | HMAC-SHA256 32
const (
	PublicKeySize  = xwing.PublicKeySize
	CiphertextSize = xwing.CiphertextSize

	epochSize   = 8
	OfferSize   = epochSize + 1 + PublicKeySize
	AcceptSize  = epochSize + CiphertextSize
	ConfirmSize = epochSize + sha256.Size
)

const flagFresh = 1

// ErrMessage: bytes that are no message of the wanted kind.
var ErrMessage = errors.New("exchange: malformed message")

// Offer begins an epoch.
type Offer struct {
	Epoch     uint64
	Fresh     bool // the sender holds no key of an earlier epoch
	PublicKey [PublicKeySize]byte
}

// Marshal gives the [OfferSize] bytes of the message.
func (o Offer) Marshal() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, OfferSize), o.Epoch)
	var flags byte
	if o.Fresh {
		flags |= flagFresh
	}
	return append(append(b, flags), o.PublicKey[:]...)
}

// ParseOffer reads an offer.
func ParseOffer(b []byte) (Offer, error) {
	if len(b) != OfferSize {
		return Offer{}, fmt.Errorf("%w: offer of %d bytes, want %d", ErrMessage, len(b), OfferSize)
	}
	o := Offer{Epoch: binary.BigEndian.Uint64(b), Fresh: b[epochSize]&flagFresh != 0}
	if b[epochSize]&^flagFresh != 0 || o.Epoch == 0 || o.Epoch > EpochMax {
		return Offer{}, fmt.Errorf("%w: offer with flags %#x of epoch %d", ErrMessage, b[epochSize], o.Epoch)
	}
	copy(o.PublicKey[:], b[epochSize+1:])
	return o, nil
}

// Accept answers an offer.
type Accept struct {
	Epoch      uint64
	Ciphertext [CiphertextSize]byte
}

// Marshal gives the [AcceptSize] bytes of the message.
func (a Accept) Marshal() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, AcceptSize), a.Epoch)
	return append(b, a.Ciphertext[:]...)
}

// ParseAccept reads an accept.
func ParseAccept(b []byte) (Accept, error) {
	if len(b) != AcceptSize {
		return Accept{}, fmt.Errorf("%w: accept of %d bytes, want %d", ErrMessage, len(b), AcceptSize)
	}
	a := Accept{Epoch: binary.BigEndian.Uint64(b)}
	if a.Epoch == 0 || a.Epoch > EpochMax {
		return Accept{}, fmt.Errorf("%w: accept of epoch %d", ErrMessage, a.Epoch)
	}
	copy(a.Ciphertext[:], b[epochSize:])
	return a, nil
}

// Confirm shows that its sender derived the key of the epoch.
type Confirm struct {
	Epoch uint64
	MAC   [sha256.Size]byte
}

// Marshal gives the [ConfirmSize] bytes of the message.
func (c Confirm) Marshal() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, ConfirmSize), c.Epoch)
	return append(b, c.MAC[:]...)
}

// ParseConfirm reads a confirm.
func ParseConfirm(b []byte) (Confirm, error) {
	if len(b) != ConfirmSize {
		return Confirm{}, fmt.Errorf("%w: confirm of %d bytes, want %d", ErrMessage, len(b), ConfirmSize)
	}
	c := Confirm{Epoch: binary.BigEndian.Uint64(b)}
	if c.Epoch == 0 || c.Epoch > EpochMax {
		return Confirm{}, fmt.Errorf("%w: confirm of epoch %d", ErrMessage, c.Epoch)
	}
	copy(c.MAC[:], b[epochSize:])
	return c, nil
}

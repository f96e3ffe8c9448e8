package exchange

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/kem/xwing"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// pskLabel and confirmLabel separate what is derived here from all else, and from each other.
const (
	pskLabel     = "phantommesh psk v1"
	confirmLabel = "phantommesh psk confirm v1"
)

// Why a message was not taken. The machine is unchanged after any of them but [ErrConfirm].
var (
	// ErrYield: both sides have offered, and the offer that is here goes on. Who sent the other waits for it.
	ErrYield = errors.New("exchange: crossing offers, the other one goes on")
	// ErrStale: for an epoch that has passed, or a message seen before.
	ErrStale = errors.New("exchange: epoch has passed")
	// ErrUnexpected: an answer to nothing that was asked.
	ErrUnexpected = errors.New("exchange: unexpected message")
	// ErrConfirm: the peer derived another key: its messages were tampered with, or it is another version. The epoch is given up.
	ErrConfirm = errors.New("exchange: the peer holds another key")
)

// EpochMax is the highest epoch. At one in 120 s nobody gets there honestly; a peer that offers it gets a series that begins again at 1.
const EpochMax = 1 << 62

// unprovenMax is how many epochs a proven previous key outlives keys that we took up but never saw the peer use. Two failed rotations are 4 minutes,
// longer than any WireGuard session lives (180 s), so nothing can need the key after that.
const unprovenMax = 2

// key is a PSK and its epoch; the zero value is none.
type key struct {
	psk    PSK
	epoch  uint64
	proven bool // the peer has shown that it holds the key
}

// Machine agrees on keys with one peer.
type Machine struct {
	our, their identity.NodeID
	rand       io.Reader

	current, previous key

	// highest is the highest epoch of any offer, ours or theirs: the next of ours is above it.
	highest uint64
	// answered is the epoch that offers of the peer must be above, unless they are fresh.
	answered uint64
	// lastKey hashes the public key of the offer answered last: a fresh offer is not held to its epoch, so this tells a repetition.
	lastKey [sha256.Size]byte

	// Ours that waits for an Accept; offered is 0 if there is none.
	offered uint64
	private [xwing.PrivateKeySize]byte
	refused bool // a crossing offer has been refused for it already

	// Theirs that waits for a Confirm.
	pending key
	stalled bool // our own start has already given way to it
}

// New gives the machine for the pair of nodes, with no key yet. It reads 32 bytes of rand for an offer and 64 for an answer.
func New(our, their identity.NodeID, rand io.Reader) *Machine {
	return &Machine{our: our, their: their, rand: rand}
}

// Start begins the epoch after the highest that is known here and gives the offer to send. An offer of ours that still waits is given up. It returns
// [ErrYield], once, while an offer of the peer that was answered waits for its Confirm: two keys a moment apart would leave the ends with
// different ones just when the first handshake needs them. If the Confirm never comes, the next Start goes on.
func (m *Machine) Start() (Offer, error) {
	if m.pending.epoch != 0 && !m.stalled {
		m.stalled = true
		return Offer{}, ErrYield
	}
	private, public, err := xwing.GenerateKeyPairPacked(m.rand)
	if err != nil {
		return Offer{}, fmt.Errorf("exchange: randomness: %w", err)
	}
	defer clear(private)
	o := Offer{Epoch: max(m.highest, m.current.epoch) + 1, Fresh: m.current.epoch == 0}
	if o.Epoch > EpochMax {
		o.Epoch, o.Fresh = 1, true
	}
	copy(o.PublicKey[:], public)
	copy(m.private[:], private)
	m.offered, m.refused = o.Epoch, false
	m.highest = max(m.highest, o.Epoch)
	return o, nil
}

// Abandon gives up an offer of ours that waits, after its stream has failed, so that it does not stand in the way of the peer's.
func (m *Machine) Abandon() {
	m.offered, m.refused = 0, false
	clear(m.private[:])
}

// HandleOffer answers an offer of the peer. The key it makes is pending: it becomes current with the Confirm, or with [Machine.Proven]. It returns
// [ErrYield] when our own offer goes on instead, and [ErrStale] for an epoch that has passed (unless the peer says that it begins afresh) and for
// an offer that was answered before.
func (m *Machine) HandleOffer(o Offer, exporter [32]byte) (Accept, error) {
	hash := sha256.Sum256(o.PublicKey[:])
	switch {
	case o.Epoch == 0 || o.Epoch > EpochMax:
		return Accept{}, fmt.Errorf("%w: offer of epoch %d", ErrMessage, o.Epoch)
	case !o.Fresh && o.Epoch <= m.answered:
		return Accept{}, fmt.Errorf("%w: offer of %d, %d was answered", ErrStale, o.Epoch, m.answered)
	case hash == m.lastKey:
		return Accept{}, fmt.Errorf("%w: offer of %d repeats a key", ErrStale, o.Epoch)
	case m.offered != 0 && m.our.Compare(m.their) < 0 && !m.refused:
		// Refused once: a peer that offers again has waited for ours in vain, so ours is lost.
		m.refused = true
		return Accept{}, ErrYield
	}
	var seed [xwing.EncapsulationSeedSize]byte
	if _, err := io.ReadFull(m.rand, seed[:]); err != nil {
		return Accept{}, fmt.Errorf("exchange: randomness: %w", err)
	}
	defer clear(seed[:])
	secret, ciphertext, err := xwing.Encapsulate(o.PublicKey[:], seed[:])
	if err != nil {
		return Accept{}, fmt.Errorf("%w: public key: %w", ErrMessage, err)
	}
	defer clear(secret)
	m.Abandon()
	m.answered, m.lastKey = o.Epoch, hash
	m.highest = max(m.highest, o.Epoch)
	m.pending, m.stalled = key{psk: m.derive(secret, exporter, o.Epoch), epoch: o.Epoch}, false
	a := Accept{Epoch: o.Epoch}
	copy(a.Ciphertext[:], ciphertext)
	return a, nil
}

// HandleAccept takes the answer to our offer. The key is current afterwards, and the Confirm is to be sent. A ciphertext that was tampered with gives
// a key that the peer does not have: it shows in the peer's [ErrConfirm].
func (m *Machine) HandleAccept(a Accept, exporter [32]byte) (Confirm, error) {
	if m.offered == 0 || a.Epoch != m.offered {
		return Confirm{}, fmt.Errorf("%w: accept of epoch %d, offered is %d", ErrUnexpected, a.Epoch, m.offered)
	}
	secret := xwing.Decapsulate(a.Ciphertext[:], m.private[:])
	defer clear(secret)
	m.Abandon()
	m.promote(key{psk: m.derive(secret, exporter, a.Epoch), epoch: a.Epoch})
	return Confirm{Epoch: a.Epoch, MAC: m.current.confirm()}, nil
}

// HandleConfirm makes the pending key current. On [ErrConfirm] the pending key is wiped.
func (m *Machine) HandleConfirm(c Confirm) error {
	if m.pending.epoch == 0 || c.Epoch != m.pending.epoch {
		return fmt.Errorf("%w: confirm of epoch %d, pending is %d", ErrUnexpected, c.Epoch, m.pending.epoch)
	}
	want := m.pending.confirm()
	if !hmac.Equal(want[:], c.MAC[:]) {
		m.pending = key{}
		return ErrConfirm
	}
	m.pending.proven = true
	m.promote(m.pending)
	return nil
}

// Proven tells the machine that the peer has shown the key of the epoch to be its own by other means than a Confirm: a WireGuard handshake under it
// has succeeded, or the peer has said on the authenticated stream that the key is in place. A pending key becomes current, so a
// Confirm that was lost strands nobody. It returns [ErrUnexpected] for an epoch that is neither pending nor current.
func (m *Machine) Proven(epoch uint64) error {
	switch {
	case epoch == 0:
	case epoch == m.pending.epoch:
		m.pending.proven = true
		m.promote(m.pending)
		return nil
	case epoch == m.current.epoch:
		m.current.proven = true
		return nil
	}
	return fmt.Errorf("%w: proof of epoch %d, pending is %d, current is %d", ErrUnexpected, epoch, m.pending.epoch, m.current.epoch)
}

// promote makes k current. What waits for an epoch that k has overtaken is wiped. A current key that the peer was never seen to use does not push
// out the proven one before it: that is the one the peer may still be on.
func (m *Machine) promote(k key) {
	lately := m.previous.epoch < k.epoch && k.epoch-m.previous.epoch <= unprovenMax
	if m.current.proven || !m.previous.proven || !lately {
		m.previous = m.current
	}
	m.current, m.pending, m.answered = k, key{}, k.epoch
}

// Current gives the key in force and its epoch; ok is false before the first.
func (m *Machine) Current() (psk PSK, epoch uint64, ok bool) {
	return m.current.psk, m.current.epoch, m.current.epoch != 0
}

// Previous gives the key before the current one: a peer may hold on to it until it has seen the new one at work.
func (m *Machine) Previous() (psk PSK, epoch uint64, ok bool) {
	return m.previous.psk, m.previous.epoch, m.previous.epoch != 0
}

// Pending gives the key that we have answered with and that nothing has proven yet. A driver that can try two keys tries this one as well.
func (m *Machine) Pending() (psk PSK, epoch uint64, ok bool) {
	return m.pending.psk, m.pending.epoch, m.pending.epoch != 0
}

// Wipe forgets every key. The next offer is a fresh one, and any offer of the peer's is taken.
func (m *Machine) Wipe() {
	m.Abandon()
	m.current, m.previous, m.pending = key{}, key{}, key{}
	m.answered = 0
}

// derive gives HKDF-SHA256 (RFC 5869) with
//
//	ikm  = X-Wing secret 32 | TLS exporter 32
//	salt = "phantommesh psk v1"
//	info = lower node ID 32 | higher node ID 32 | epoch 8
func (m *Machine) derive(secret []byte, exporter [32]byte, epoch uint64) PSK {
	ikm := make([]byte, 0, 64)
	ikm = append(append(ikm, secret...), exporter[:]...)
	defer clear(ikm)
	low, high := m.our, m.their
	if low.Compare(high) > 0 {
		low, high = high, low
	}
	info := append(append(make([]byte, 0, 72), low[:]...), high[:]...)
	info = binary.BigEndian.AppendUint64(info, epoch)
	out, err := hkdf.Key(sha256.New, ikm, []byte(pskLabel), string(info), len(PSK{}))
	if err != nil {
		panic("exchange: derive: " + err.Error())
	}
	return PSK(out)
}

// confirm is an HMAC under the key over a label and the epoch. It tells nothing of the key to who does not have it.
func (k key) confirm() [32]byte {
	h := hmac.New(sha256.New, k.psk[:])
	h.Write([]byte(confirmLabel))
	h.Write(binary.BigEndian.AppendUint64(nil, k.epoch))
	return [32]byte(h.Sum(nil))
}

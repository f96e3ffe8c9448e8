package gossip

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// A sealed gossip packet, without the underlay's type byte:
//
//	offset  size  field
//	0       1     tag of the pool (scope.go)
//	1       24    nonce, random
//	25      …     the packet, encrypted
//	        16    tag
//
// The seal is XAES-256-GCM (C2SP, "XAES-256-GCM"): AES-256-GCM under a key derived for every packet from the first half of a
// 192-bit nonce. Every member seals under the same key; with random 96-bit nonces a thousand members would use up one key's
// 2^32 packets (NIST SP 800-38D §8.3) in a few days, with these never. The additional data bind the packet to the mesh, to the pool and to
// its addressee: what was sent to one member says nothing to another, and what was said in one pool nothing in another.
const (
	nonceSize    = 24
	tagSize      = 16
	sealOverhead = 1 + nonceSize + tagSize

	// KeySize is the size of a gossip key in bytes.
	KeySize = 32
	// KeysMax is the number of keys a keyring may hold: one in use, one coming, and the ones going. An unknown packet costs one
	// attempt for each.
	KeysMax = 4
)

const sealContext = "phantommesh gossip v2"

// What may be wrong with a keyring or a packet.
var (
	// ErrKeyring says that a keyring is empty, too large, or has a key of another size.
	ErrKeyring  = errors.New("gossip: unusable keyring")
	errUnsealed = errors.New("gossip: packet does not open")
)

// keyring holds the keys of all pools of a node. They can be replaced at any time while others use them.
type keyring struct{ ring atomic.Pointer[[]sealKey] } // never nil or empty once used; the first seals, all open

// seal seals and opens the packets of one pool.
type seal struct {
	rand  io.Reader
	keys  *keyring
	tag   byte
	self  identity.NodeID
	bound []byte // to what packets are bound beside their addressee
}

// sealKey is a key with what XAES-256-GCM derives from it once.
type sealKey struct {
	raw   []byte
	block cipher.Block
	mask  [aes.BlockSize]byte // K1 of CMAC (NIST SP 800-38B §6.1)
}

func newSeal(rand io.Reader, keys *keyring, mesh identity.MeshID, self identity.NodeID, scope Scope) *seal {
	bound := scope.appendPreface(append([]byte(sealContext), mesh[:]...))
	return &seal{rand: rand, keys: keys, tag: scope.tag(mesh), self: self, bound: bound}
}

// use replaces the keys in one step: from here on the first seals, and all of them open.
func (r *keyring) use(keys [][]byte) error {
	if len(keys) == 0 || len(keys) > KeysMax {
		return fmt.Errorf("%w: %d keys, 1 to %d are possible", ErrKeyring, len(keys), KeysMax)
	}
	var ring []sealKey
	for i, raw := range keys {
		if len(raw) != KeySize {
			return fmt.Errorf("%w: key %d has %d bytes, not %d", ErrKeyring, i+1, len(raw), KeySize)
		}
		k, err := newSealKey(bytes.Clone(raw))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrKeyring, err)
		}
		ring = append(ring, k)
	}
	r.ring.Store(&ring)
	return nil
}

// holds returns the keys that open packets now, the sealing one first. They are shared: read them only.
func (r *keyring) holds() [][]byte {
	var out [][]byte
	for _, k := range *r.ring.Load() {
		out = append(out, k.raw)
	}
	return out
}

func newSealKey(raw []byte) (sealKey, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return sealKey{}, err
	}
	k := sealKey{raw: raw, block: block}
	block.Encrypt(k.mask[:], k.mask[:])
	var carry byte
	for i := len(k.mask) - 1; i >= 0; i-- {
		carry, k.mask[i] = k.mask[i]>>7, k.mask[i]<<1|carry
	}
	k.mask[len(k.mask)-1] ^= carry * 0x87
	return k, nil
}

// packetCipher derives the AES-256-GCM instance of one packet from the first half of its nonce.
func (k *sealKey) packetCipher(nonce []byte) (cipher.AEAD, error) {
	var derived [KeySize]byte
	for i := range 2 {
		half := derived[i*aes.BlockSize:][:aes.BlockSize]
		copy(half, []byte{0, byte(i + 1), 'X', 0})
		copy(half[4:], nonce[:12])
		for j := range half {
			half[j] ^= k.mask[j]
		}
		k.block.Encrypt(half, half)
	}
	block, err := aes.NewCipher(derived[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (k *sealKey) seal(dst, nonce, plain, data []byte) ([]byte, error) {
	aead, err := k.packetCipher(nonce)
	if err != nil {
		return nil, err
	}
	return aead.Seal(dst, nonce[12:], plain, data), nil
}

func (k *sealKey) open(nonce, sealed, data []byte) ([]byte, error) {
	aead, err := k.packetCipher(nonce)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nonce[12:], sealed, data)
}

// data returns what a packet to the node is bound to.
func (s *seal) data(to identity.NodeID) []byte {
	return append(append(make([]byte, 0, len(s.bound)+len(to)), s.bound...), to[:]...)
}

// close seals a packet to the node, sealOverhead bytes longer than plain.
func (s *seal) close(to identity.NodeID, plain []byte) ([]byte, error) {
	out := make([]byte, 1+nonceSize, sealOverhead+len(plain))
	out[0] = s.tag
	if _, err := io.ReadFull(s.rand, out[1:]); err != nil {
		return nil, fmt.Errorf("gossip: nonce: %w", err)
	}
	k := &(*s.keys.ring.Load())[0]
	return k.seal(out, out[1:1+nonceSize], plain, s.data(to))
}

// open returns the packet inside a sealed one addressed to us, or errUnsealed.
func (s *seal) open(sealed []byte) ([]byte, error) {
	if len(sealed) <= sealOverhead || sealed[0] != s.tag {
		return nil, errUnsealed
	}
	nonce, body, data := sealed[1:1+nonceSize], sealed[1+nonceSize:], s.data(s.self)
	ring := *s.keys.ring.Load()
	for i := range ring {
		if plain, err := ring[i].open(nonce, body, data); err == nil {
			return plain, nil
		}
	}
	return nil, errUnsealed
}

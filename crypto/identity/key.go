package identity

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// pathLabel separates path check keys from every other use of the X25519 keys.
const pathLabel = "phantommesh path check v1"

// keySize is that of an encoded private Key in bytes: both signing seeds, then the X25519 key.
const keySize = signSeedSize + 32

// publicSize is that of the canonical Public in bytes: Ed25519, ML-DSA-65, X25519.
const publicSize = 32 + MLDSAPublicSize + 32

var (
	// ErrKey: bytes that are no key.
	ErrKey = errors.New("identity: not a key")
	// ErrLowOrder: an X25519 public key of low order, with which every secret would be the same.
	ErrLowOrder = errors.New("identity: X25519 key of low order")
)

// Public is the public half of a node's identity.
//
//	 0      32                    1984       2016
//	+--------+---------------------+----------+
//	| Ed25519| ML-DSA-65           | X25519   |
//	+--------+---------------------+----------+
type Public struct {
	Ed25519   [32]byte
	MLDSA     []byte // MLDSAPublicSize bytes
	WireGuard WireGuardKey
}

// NodeID hashes the canonical form. A Public of another size than the canonical one names nobody.
func (p *Public) NodeID() NodeID {
	b, err := p.MarshalBinary()
	if err != nil {
		return NodeID{}
	}
	return hashID(b)
}

// MarshalBinary gives the canonical form.
func (p *Public) MarshalBinary() ([]byte, error) {
	if len(p.MLDSA) != MLDSAPublicSize {
		return nil, fmt.Errorf("%w: ML-DSA-65 key of %d bytes", ErrKey, len(p.MLDSA))
	}
	b := make([]byte, 0, publicSize)
	b = append(b, p.Ed25519[:]...)
	b = append(b, p.MLDSA...)
	return append(b, p.WireGuard[:]...), nil
}

// UnmarshalBinary reads the canonical form. It returns [ErrLowOrder] for a WireGuard key with which no secret can be agreed. Whether the signing
// keys are any good shows when something is verified with them.
func (p *Public) UnmarshalBinary(b []byte) error {
	if len(b) != publicSize {
		return fmt.Errorf("%w: %d bytes, want %d", ErrKey, len(b), publicSize)
	}
	wg := WireGuardKey(b[32+MLDSAPublicSize:])
	if wg.lowOrder() {
		return ErrLowOrder
	}
	p.Ed25519 = [32]byte(b)
	p.MLDSA = append([]byte(nil), b[32:32+MLDSAPublicSize]...)
	p.WireGuard = wg
	return nil
}

// Equal reports whether both are the same keys.
func (p *Public) Equal(o *Public) bool {
	return p.Ed25519 == o.Ed25519 && p.WireGuard == o.WireGuard && string(p.MLDSA) == string(o.MLDSA)
}

func (p *Public) signPublic() signPublic { return signPublic{Ed25519: p.Ed25519, MLDSA: p.MLDSA} }

// Verify checks a hybrid signature: both halves must verify, else [ErrSignature].
func (p *Public) Verify(context string, message, signature []byte) error {
	return p.signPublic().verify(context, message, signature)
}

// VerifyEd25519 checks a signature of the classical half alone.
func (p *Public) VerifyEd25519(context string, message, signature []byte) error {
	return p.signPublic().verifyEd25519(context, message, signature)
}

// VerifyMLDSA checks a signature of the post-quantum half alone.
func (p *Public) VerifyMLDSA(context string, message, signature []byte) error {
	return p.signPublic().verifyMLDSA(context, message, signature)
}

// Key is a node's private identity.
type Key struct {
	signer *signer
	x25519 *ecdh.PrivateKey
	public Public
	id     NodeID
}

// Generate makes a new identity from 96 bytes of randomness.
func Generate(rand io.Reader) (*Key, error) {
	var b [keySize]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return nil, fmt.Errorf("identity: randomness: %w", err)
	}
	// Clamped as wg genkey does it, so that the stored key is the one every tool shows (RFC 7748 §5).
	x := b[signSeedSize:]
	x[0] &= 248
	x[31] = x[31]&127 | 64
	return UnmarshalKey(b[:])
}

// UnmarshalKey reads the form that MarshalBinary gives.
func UnmarshalKey(b []byte) (*Key, error) {
	if len(b) != keySize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrKey, len(b), keySize)
	}
	x, err := ecdh.X25519().NewPrivateKey(b[signSeedSize:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	k := &Key{signer: newSigner([signSeedSize]byte(b)), x25519: x}
	k.public = Public{Ed25519: k.signer.pub.Ed25519, MLDSA: k.signer.pub.MLDSA, WireGuard: WireGuardKey(x.PublicKey().Bytes())}
	k.id = k.public.NodeID()
	return k, nil
}

// MarshalBinary gives the private key's bytes, for a sealed file and nothing else.
func (k *Key) MarshalBinary() ([]byte, error) {
	return append(append(make([]byte, 0, keySize), k.signer.seed[:]...), k.x25519.Bytes()...), nil
}

// Public gives the public half. It is shared: do not change it.
func (k *Key) Public() *Public { return &k.public }

// ID gives the node ID.
func (k *Key) ID() NodeID { return k.id }

// Sign makes a hybrid signature of [SignatureSize] bytes. The context is at most 255 bytes.
func (k *Key) Sign(context string, message []byte) ([]byte, error) {
	return k.signer.sign(context, message)
}

// SignEd25519 signs with the classical half alone: for what is short-lived and must be small, such as gossip records.
func (k *Key) SignEd25519(context string, message []byte) []byte {
	return k.signer.signEd25519(context, message)
}

// SignMLDSA signs with the post-quantum half alone: for where the classical half has signed already, such as under TLS.
func (k *Key) SignMLDSA(context string, message []byte) ([]byte, error) {
	return k.signer.signMLDSA(context, message)
}

// Ed25519 gives the classical signing key, for the TLS certificate.
func (k *Key) Ed25519() ed25519.PrivateKey { return k.signer.ed }

// WireGuardPrivate gives the X25519 key, for the WireGuard device.
func (k *Key) WireGuardPrivate() [32]byte { return [32]byte(k.x25519.Bytes()) }

// PathKey derives the key of path checks with the node that holds their: HKDF-SHA256 (RFC 5869) over X25519, the same at both ends.
// It returns [ErrLowOrder] for a key that would make the secret known to everybody (RFC 7748 §6.1).
func (k *Key) PathKey(their WireGuardKey) ([32]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(their[:])
	if err != nil {
		return [32]byte{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	secret, err := k.x25519.ECDH(pub)
	if err != nil {
		return [32]byte{}, fmt.Errorf("%w: %w", ErrLowOrder, err)
	}
	out, err := hkdf.Key(sha256.New, secret, nil, pathLabel, 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("identity: derive path key: %w", err)
	}
	return [32]byte(out), nil
}

// String names the key without showing it.
func (k Key) String() string { return "key of " + k.id.Short() }

// Format names the key under every verb and for a copy too: fmt looks behind pointers when a verb does not suit.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue names the key without showing it.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

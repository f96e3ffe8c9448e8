package identity

import (
	"fmt"
	"io"
	"log/slog"
)

// rootPublicSize is that of the canonical RootPublic in bytes: Ed25519, ML-DSA-65.
const rootPublicSize = 32 + MLDSAPublicSize

// RootPublic is the public half of a mesh's root key: what every member trusts in the end.
type RootPublic struct {
	Ed25519 [32]byte
	MLDSA   []byte // MLDSAPublicSize bytes
}

// MeshID hashes the canonical form. A RootPublic of another size names no mesh.
func (p RootPublic) MeshID() MeshID {
	b, err := p.MarshalBinary()
	if err != nil {
		return MeshID{}
	}
	return hashID(b)
}

// MarshalBinary gives the canonical form.
func (p RootPublic) MarshalBinary() ([]byte, error) {
	if len(p.MLDSA) != MLDSAPublicSize {
		return nil, fmt.Errorf("%w: ML-DSA-65 key of %d bytes", ErrKey, len(p.MLDSA))
	}
	return append(append(make([]byte, 0, rootPublicSize), p.Ed25519[:]...), p.MLDSA...), nil
}

// UnmarshalBinary reads the canonical form.
func (p *RootPublic) UnmarshalBinary(b []byte) error {
	if len(b) != rootPublicSize {
		return fmt.Errorf("%w: %d bytes, want %d", ErrKey, len(b), rootPublicSize)
	}
	p.Ed25519 = [32]byte(b)
	p.MLDSA = append([]byte(nil), b[32:]...)
	return nil
}

// Verify checks a hybrid signature of the root: both halves must verify, else [ErrSignature].
func (p RootPublic) Verify(context string, message, signature []byte) error {
	return signPublic(p).verify(context, message, signature)
}

// RootKey is the hybrid key that a mesh is founded with. It signs issuers and nothing else.
type RootKey struct{ signer *signer }

// GenerateRoot makes a new root from 64 bytes of randomness.
func GenerateRoot(rand io.Reader) (*RootKey, error) {
	s, err := generateSigner(rand)
	if err != nil {
		return nil, err
	}
	return &RootKey{signer: s}, nil
}

// UnmarshalRoot reads the form that MarshalBinary gives.
func UnmarshalRoot(b []byte) (*RootKey, error) {
	if len(b) != signSeedSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrKey, len(b), signSeedSize)
	}
	return &RootKey{signer: newSigner([signSeedSize]byte(b))}, nil
}

// MarshalBinary gives the private key's bytes, for a sealed file and nothing else.
func (k *RootKey) MarshalBinary() ([]byte, error) {
	return append([]byte(nil), k.signer.seed[:]...), nil
}

// Public gives the public half.
func (k *RootKey) Public() RootPublic { return RootPublic(k.signer.pub) }

// ID gives the mesh ID.
func (k *RootKey) ID() MeshID { return k.Public().MeshID() }

// Sign makes a hybrid signature of [SignatureSize] bytes. The context is at most 255 bytes.
func (k *RootKey) Sign(context string, message []byte) ([]byte, error) {
	return k.signer.sign(context, message)
}

// String names the key without showing it.
func (k RootKey) String() string { return "root key of mesh " + k.ID().Short() }

// Format names the key under every verb and for a copy too: fmt looks behind pointers when a verb does not suit.
func (k RootKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue names the key without showing it.
func (k RootKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

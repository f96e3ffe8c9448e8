package identity

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
)

// Sizes in bytes.
const (
	MLDSAPublicSize    = mldsa65.PublicKeySize // 1952, FIPS 204 table 2
	MLDSASignatureSize = mldsa65.SignatureSize // 3309
	// SignatureSize is that of a hybrid signature: Ed25519, then ML-DSA-65.
	SignatureSize = ed25519.SignatureSize + MLDSASignatureSize
	signSeedSize  = ed25519.SeedSize + mldsa65.SeedSize
)

// ErrSignature: a signature that does not verify, in either of its parts.
var ErrSignature = errors.New("identity: signature does not verify")

// signer holds both signing keys, made from seeds of 32 bytes each.
type signer struct {
	seed  [signSeedSize]byte // Ed25519, then ML-DSA-65
	ed    ed25519.PrivateKey
	mldsa *mldsa65.PrivateKey
	pub   signPublic
}

// signPublic is what verifies a signer's signatures.
type signPublic struct {
	Ed25519 [32]byte
	MLDSA   []byte
}

func generateSigner(rand io.Reader) (*signer, error) {
	var seed [signSeedSize]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return nil, fmt.Errorf("identity: randomness: %w", err)
	}
	return newSigner(seed), nil
}

func newSigner(seed [signSeedSize]byte) *signer {
	s := &signer{seed: seed, ed: ed25519.NewKeyFromSeed(seed[:ed25519.SeedSize])}
	pk, sk := mldsa65.NewKeyFromSeed((*[mldsa65.SeedSize]byte)(seed[ed25519.SeedSize:]))
	s.mldsa = sk
	s.pub = signPublic{Ed25519: [32]byte(s.ed.Public().(ed25519.PublicKey)), MLDSA: pk.Bytes()}
	return s
}

func (s *signer) sign(context string, message []byte) ([]byte, error) {
	m, err := s.signMLDSA(context, message)
	if err != nil {
		return nil, err
	}
	return append(s.signEd25519(context, message), m...), nil
}

func (s *signer) signEd25519(context string, message []byte) []byte {
	return ed25519.Sign(s.ed, inContext(context, message))
}

// signMLDSA signs in the deterministic variant (FIPS 204 §3.4): a replay of a run gives the same bytes, and no randomness can fail it.
func (s *signer) signMLDSA(context string, message []byte) ([]byte, error) {
	sig := make([]byte, MLDSASignatureSize)
	if err := mldsa65.SignTo(s.mldsa, message, []byte(context), false, sig); err != nil {
		return nil, fmt.Errorf("identity: sign: %w", err)
	}
	return sig, nil
}

func (p signPublic) verify(context string, message, signature []byte) error {
	if len(signature) != SignatureSize {
		return fmt.Errorf("%w: %d bytes, want %d", ErrSignature, len(signature), SignatureSize)
	}
	// The cheap half first: a forger has to break Ed25519 before it costs us an ML-DSA verification.
	if err := p.verifyEd25519(context, message, signature[:ed25519.SignatureSize]); err != nil {
		return err
	}
	return p.verifyMLDSA(context, message, signature[ed25519.SignatureSize:])
}

func (p signPublic) verifyEd25519(context string, message, signature []byte) error {
	if !ed25519.Verify(p.Ed25519[:], inContext(context, message), signature) {
		return fmt.Errorf("%w: Ed25519", ErrSignature)
	}
	return nil
}

func (p signPublic) verifyMLDSA(context string, message, signature []byte) error {
	var pk mldsa65.PublicKey
	if err := pk.UnmarshalBinary(p.MLDSA); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if !mldsa65.Verify(&pk, message, []byte(context), signature) {
		return fmt.Errorf("%w: ML-DSA-65", ErrSignature)
	}
	return nil
}

// inContext puts the context in front of a message for Ed25519, which has no contexts of its own in its common form: one length byte makes
// the border unambiguous. ML-DSA takes contexts natively (FIPS 204 §5.2), of at most 255 bytes too.
func inContext(context string, message []byte) []byte {
	if len(context) > 255 {
		panic("identity: signing context longer than 255 bytes")
	}
	b := make([]byte, 0, 1+len(context)+len(message))
	b = append(b, byte(len(context)))
	b = append(b, context...)
	return append(b, message...)
}

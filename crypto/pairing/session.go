package pairing

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// ExporterLabel is the label of the TLS exporter that binds a session to its connection.
const ExporterLabel = "phantommesh pairing v1"

const (
	commitLabel = "phantommesh pairing commitment v1"
	codeLabel   = "phantommesh pairing code v1"

	// CodeDigits is how many digits people compare: as many as they do without error, and one guess in a million.
	CodeDigits = 6
	codes      = 1_000_000
)

// Nonce is 32 random bytes.
type Nonce [32]byte

// Session is what both ends of a connection know before they exchange anything.
type Session struct {
	Joiner, Member identity.NodeID
	Exporter       [32]byte // of the TLS connection, under ExporterLabel
}

// Commit gives the joiner's commitment to its nonce.
func (s Session) Commit(n Nonce) [32]byte {
	h := sha256.New()
	h.Write([]byte(commitLabel))
	h.Write(s.transcript())
	h.Write(n[:])
	return [32]byte(h.Sum(nil))
}

// Opens reports whether a nonce is the one that was committed to.
func (s Session) Opens(commitment [32]byte, n Nonce) bool {
	want := s.Commit(n)
	return subtle.ConstantTimeCompare(want[:], commitment[:]) == 1
}

// Code gives the six digits that both sides show.
func (s Session) Code(mesh identity.MeshID, joiner, member Nonce) string {
	secret := append(append([]byte{}, joiner[:]...), member[:]...)
	info := codeLabel + string(s.transcript()) + string(mesh[:])
	b, err := hkdf.Key(sha256.New, secret, nil, info, 8)
	if err != nil {
		panic(fmt.Sprintf("pairing: HKDF: %v", err)) // only for absurd lengths
	}
	// 2^64 is no multiple of a million; the bias is below 10^-13.
	return fmt.Sprintf("%0*d", CodeDigits, binary.BigEndian.Uint64(b)%codes)
}

// transcript is all that the session is bound to; every part has a fixed length.
func (s Session) transcript() []byte {
	out := make([]byte, 0, 96)
	out = append(out, s.Joiner[:]...)
	out = append(out, s.Member[:]...)
	return append(out, s.Exporter[:]...)
}

// IsCode reports whether text has the form of a code.
func IsCode(text string) bool {
	if len(text) != CodeDigits {
		return false
	}
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

package invitation

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Bounds of a token.
const (
	// MembersMax is how many members a token names: one may be down and one may have moved.
	MembersMax = 3
	// AddressesMax is how many addresses a member has in a token: one of each family.
	AddressesMax = 2
	// TextMax is the length that the text form of any token stays below. It fits a QR code of version 12 and most chat lines.
	TextMax = 400
	// SecretSize is that of the secret in bytes: 128 bits, out of reach of guessing even against the ledger's copy of its key.
	SecretSize = 16
	// idSize is that of a token's ID in bytes, and idTextSize that of its text.
	idSize     = 8
	idTextSize = 2 * idSize
	// textReadMax is how much of a text is looked at: a token with blanks and line ends that a terminal put into it.
	textReadMax = 4 * TextMax
)

const (
	prefix       = "pm"
	version      = "1"
	checksumSize = 4
)

// The binary form, in front of a checksum of 4 bytes (SHA-256, cut) over it and the prefix; the text is "pm1" and base64url of both:
//
//	mesh ID 32 | secret 16 | members 1 | member…
//	member  = node ID 32 | addresses 1 | address…
//	address = 4 or 16 (bytes of the IP address) | IP | port 2
//
// The largest is 49 + 3·(33 + 2·19) + 4 = 266 bytes, 355 characters, with "pm1" 358.

// Why a text is no token.
var (
	ErrNotAToken = errors.New("this is no invitation token: it begins with pm1")
	ErrDamaged   = errors.New("the invitation token is damaged: a character is missing or wrong; copy it again as a whole")
	ErrNewer     = errors.New("the invitation token is of a newer version: update phantom on this machine")
)

// Member is a member that a joiner may ask, and where it was when the token was made.
type Member struct {
	ID        identity.NodeID
	Addresses []netip.AddrPort
}

// Token is an invitation. It redacts itself in fmt and slog: use Text for the form that people paste.
type Token struct {
	Mesh    identity.MeshID
	Members []Member
	Secret  [SecretSize]byte
}

// Text gives the form that people paste, shorter than [TextMax].
func (t Token) Text() (string, error) {
	if len(t.Members) == 0 || len(t.Members) > MembersMax {
		return "", fmt.Errorf("invitation: %d members, 1 to %d are possible", len(t.Members), MembersMax)
	}
	b := append(append([]byte(nil), t.Mesh[:]...), t.Secret[:]...)
	b = append(b, byte(len(t.Members)))
	for _, m := range t.Members {
		b = append(b, m.ID[:]...)
		if len(m.Addresses) > AddressesMax {
			return "", fmt.Errorf("invitation: %d addresses of a member, at most %d", len(m.Addresses), AddressesMax)
		}
		b = append(b, byte(len(m.Addresses)))
		for _, a := range m.Addresses {
			if !a.IsValid() || a.Port() == 0 || a.Addr().Zone() != "" {
				return "", fmt.Errorf("invitation: %s is no address that others can reach", a)
			}
			ip := a.Addr().Unmap().AsSlice()
			b = append(append(b, byte(len(ip))), ip...)
			b = append(b, byte(a.Port()>>8), byte(a.Port()))
		}
	}
	return prefix + version + base64.RawURLEncoding.EncodeToString(append(b, checksum(b)...)), nil
}

func checksum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte(prefix+version), b...))
	return sum[:checksumSize]
}

// Parse reads the text form. Blanks and line ends in it are passed over: terminals and mail put them there.
func Parse(text string) (Token, error) {
	if len(text) > textReadMax {
		return Token{}, ErrNotAToken
	}
	text = strings.Join(strings.Fields(text), "")
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok || rest == "" || rest[0] < '0' || rest[0] > '9' {
		return Token{}, ErrNotAToken
	}
	if rest[:1] != version {
		return Token{}, ErrNewer
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest[1:])
	if err != nil || len(b) < checksumSize {
		return Token{}, ErrDamaged
	}
	body := b[:len(b)-checksumSize]
	if !hmac.Equal(checksum(body), b[len(body):]) {
		return Token{}, ErrDamaged
	}
	return decode(body)
}

func decode(b []byte) (Token, error) {
	r := reader{b: b}
	var t Token
	copy(t.Mesh[:], r.take(len(t.Mesh)))
	copy(t.Secret[:], r.take(len(t.Secret)))
	members := int(r.byte())
	if members == 0 || members > MembersMax {
		return Token{}, ErrDamaged
	}
	for range members {
		var m Member
		copy(m.ID[:], r.take(len(m.ID)))
		addresses := int(r.byte())
		if addresses > AddressesMax {
			return Token{}, ErrDamaged
		}
		for range addresses {
			ip, ok := netip.AddrFromSlice(r.take(int(r.byte())))
			port := r.take(2)
			if !ok || ip.Is4In6() || r.short || port[0]|port[1] == 0 {
				return Token{}, ErrDamaged
			}
			m.Addresses = append(m.Addresses, netip.AddrPortFrom(ip, uint16(port[0])<<8|uint16(port[1])))
		}
		t.Members = append(t.Members, m)
	}
	if r.short || len(r.b) > 0 {
		return Token{}, ErrDamaged
	}
	return t, nil
}

// reader hands out bytes; past the end it hands out zeroes and notes it.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.short, r.b = true, nil
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte { return r.take(1)[0] }

// ID names the invitation to people and in the ledger: 16 hexadecimal digits that do not lead back to the secret.
func (t Token) ID() string {
	return hex.EncodeToString(t.derive("phantommesh invitation id v1", idSize))
}

// Key is what the ledger keeps of the secret, to check proofs with.
func (t Token) Key() [32]byte {
	return [32]byte(t.derive("phantommesh invitation key v1", 32))
}

func (t Token) derive(label string, n int) []byte {
	out, err := hkdf.Key(sha256.New, t.Secret[:], t.Mesh[:], label, n)
	if err != nil {
		panic("invitation: derive: " + err.Error())
	}
	return out
}

// Proof shows that the node has the token whose key this is: an HMAC-SHA256 over the mesh and the node's ID, which is over its keys.
func Proof(key [32]byte, mesh identity.MeshID, node identity.NodeID) [32]byte {
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte("phantommesh invitation proof v1"))
	h.Write(mesh[:])
	h.Write(node[:])
	return [32]byte(h.Sum(nil))
}

// VerifyProof checks a proof in constant time.
func VerifyProof(key [32]byte, mesh identity.MeshID, node identity.NodeID, proof [32]byte) bool {
	want := Proof(key, mesh, node)
	return hmac.Equal(want[:], proof[:])
}

// String names the token without its secret.
func (t Token) String() string { return "invitation " + t.ID() }

// Format names the token without its secret, under every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue names the token without its secret.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

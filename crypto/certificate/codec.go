package certificate

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// Every document travels as one envelope, canonical CBOR throughout:
//
//	envelope = [signer: bytes(32), body: bytes, signature: bytes(3373)]
//	member   = [public(2016), mesh(32), name, ipv4: bytes(0|4), [tag…], region, notBefore, notAfter, serial]
//	issuer   = [public(2016), mesh(32), depth, notBefore, notAfter, serial]
//	revoked  = [mesh(32), node(32), at, reason, left]
//
// Times are Unix seconds. The signer is a node ID, or the mesh ID for the root. The signature covers the signer and the body, each under the
// context of its kind of document, so that no kind can be taken for another.

// envelopeMax bounds a document in bytes: the largest, a member with 16 long tags, is 2,016 + 16·65 + 3,373 and some; 8 KiB leaves room.
const envelopeMax = 8 << 10

const (
	memberContext     = "phantommesh member certificate v1"
	issuerContext     = "phantommesh issuer certificate v1"
	revocationContext = "phantommesh revocation v1"
)

// ErrForm: bytes or fields that are no document of the wanted kind.
var ErrForm = errors.New("certificate: malformed")

type envelope struct {
	_         struct{} `cbor:",toarray"`
	Signer    [32]byte
	Body      []byte
	Signature []byte
}

type memberBody struct {
	_                   struct{} `cbor:",toarray"`
	Public              []byte
	Mesh                [32]byte
	Name                string
	IPv4                []byte
	Tags                []string
	Region              string
	NotBefore, NotAfter int64
	Serial              uint64
}

type issuerBody struct {
	_                   struct{} `cbor:",toarray"`
	Public              []byte
	Mesh                [32]byte
	Depth               uint8
	NotBefore, NotAfter int64
	Serial              uint64
}

type revocationBody struct {
	_      struct{} `cbor:",toarray"`
	Mesh   [32]byte
	Node   [32]byte
	At     int64
	Reason string
	Left   bool
}

// signs is who can sign: a node's key or the root.
type signs interface {
	Sign(context string, message []byte) ([]byte, error)
}

// verifies is who can check.
type verifies interface {
	Verify(context string, message, signature []byte) error
}

func seal(signer [32]byte, key signs, context string, body any) ([]byte, error) {
	b, err := wire.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	sig, err := key.Sign(context, append(signer[:], b...))
	if err != nil {
		return nil, err
	}
	return wire.Marshal(envelope{Signer: signer, Body: b, Signature: sig})
}

func openEnvelope(raw []byte) (envelope, error) {
	var e envelope
	if len(raw) > envelopeMax {
		return e, fmt.Errorf("%w: %d bytes", ErrForm, len(raw))
	}
	if err := wire.Unmarshal(raw, &e); err != nil {
		return e, fmt.Errorf("%w: %w", ErrForm, err)
	}
	return e, nil
}

func (e envelope) verify(key verifies, context string) error {
	if err := key.Verify(context, append(e.Signer[:], e.Body...), e.Signature); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil
}

// SignMember signs a member certificate with an issuer's key.
func SignMember(key *identity.Key, m Member) ([]byte, error) {
	m.Tags = SortTags(m.Tags)
	if err := m.check(); err != nil {
		return nil, err
	}
	pub, err := m.Public.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	var v4 []byte
	if m.IPv4.IsValid() {
		v4 = m.IPv4.AsSlice()
	}
	return seal(key.ID(), key, memberContext, memberBody{Public: pub, Mesh: m.Mesh, Name: m.Name, IPv4: v4, Tags: m.Tags, Region: m.Region,
		NotBefore: m.NotBefore.Unix(), NotAfter: m.NotAfter.Unix(), Serial: m.Serial})
}

// ParseMember reads a member certificate without verifying it. It also gives the ID of who claims to have signed it.
func ParseMember(raw []byte) (*Member, identity.NodeID, error) {
	e, err := openEnvelope(raw)
	if err != nil {
		return nil, identity.NodeID{}, err
	}
	m, err := decodeMember(e.Body)
	return m, e.Signer, err
}

func decodeMember(body []byte) (*Member, error) {
	var b memberBody
	if err := wire.Unmarshal(body, &b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	m := &Member{Mesh: b.Mesh, Name: b.Name, Tags: b.Tags, Region: b.Region, NotBefore: unix(b.NotBefore), NotAfter: unix(b.NotAfter), Serial: b.Serial}
	if err := m.Public.UnmarshalBinary(b.Public); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	if len(b.IPv4) > 0 {
		a, ok := netip.AddrFromSlice(b.IPv4)
		if !ok {
			return nil, fmt.Errorf("%w: IPv4 address of %d bytes", ErrForm, len(b.IPv4))
		}
		m.IPv4 = a
	}
	return m, m.check()
}

// SignIssuerByRoot signs an issuer certificate of any depth with the mesh's root key.
func SignIssuerByRoot(root *identity.RootKey, i Issuer) ([]byte, error) {
	return signIssuer([32]byte(root.ID()), root, i)
}

// SignIssuer signs an issuer certificate with a parent issuer's key. It must be a leaf.
func SignIssuer(key *identity.Key, i Issuer) ([]byte, error) {
	if i.Depth != DepthLeaf {
		return nil, fmt.Errorf("%w: only the root makes an issuer of depth %d", ErrForm, i.Depth)
	}
	return signIssuer([32]byte(key.ID()), key, i)
}

func signIssuer(signer [32]byte, key signs, i Issuer) ([]byte, error) {
	if err := i.check(); err != nil {
		return nil, err
	}
	pub, err := i.Public.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	return seal(signer, key, issuerContext, issuerBody{Public: pub, Mesh: i.Mesh, Depth: i.Depth,
		NotBefore: i.NotBefore.Unix(), NotAfter: i.NotAfter.Unix(), Serial: i.Serial})
}

// ParseIssuer reads an issuer certificate without verifying it.
func ParseIssuer(raw []byte) (*Issuer, error) {
	e, err := openEnvelope(raw)
	if err != nil {
		return nil, err
	}
	return decodeIssuer(e.Body)
}

func decodeIssuer(body []byte) (*Issuer, error) {
	var b issuerBody
	if err := wire.Unmarshal(body, &b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	i := &Issuer{Mesh: b.Mesh, Depth: b.Depth, NotBefore: unix(b.NotBefore), NotAfter: unix(b.NotAfter), Serial: b.Serial}
	if err := i.Public.UnmarshalBinary(b.Public); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	return i, i.check()
}

// SignRevocation signs a revocation with an issuer's key.
func SignRevocation(key *identity.Key, r Revocation) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return seal([32]byte(key.ID()), key, revocationContext, revocationBody{Mesh: r.Mesh, Node: r.Node, At: r.At.Unix(), Reason: r.Reason, Left: r.Left})
}

// ParseRevocation reads a revocation without verifying it.
func ParseRevocation(raw []byte) (*Revocation, error) {
	e, err := openEnvelope(raw)
	if err != nil {
		return nil, err
	}
	return decodeRevocation(e.Body)
}

func decodeRevocation(body []byte) (*Revocation, error) {
	var b revocationBody
	if err := wire.Unmarshal(body, &b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	r := &Revocation{Mesh: b.Mesh, Node: b.Node, At: unix(b.At), Reason: b.Reason, Left: b.Left}
	return r, r.check()
}

func unix(s int64) time.Time { return time.Unix(s, 0).UTC() }

package dht

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/peer"
)

// namespace is the first element of the keys.
const namespace = "phantom"

// ValueMax is the largest value in bytes: a record, a chain without its root, and the framing. Usual is 11.4 KB, as there is one issuer
// between the root and a member and each certificate has ML-DSA keys and signatures.
const ValueMax = peer.RecordMax + certificate.ChainMax

// issuersMax is the number of issuers between the root and a member.
const issuersMax = 2

// What is wrong with a value that was refused, besides the errors of packages certificate and peer.
var (
	ErrValue   = errors.New("dht: malformed value")
	ErrKey     = errors.New("dht: not a key of this mesh")
	ErrRevoked = errors.New("dht: not a member any more")
)

// errNotEnrolled: there is no mesh yet to judge by.
var errNotEnrolled = errors.New("dht: not enrolled")

// value is what is stored for a node, in canonical CBOR. The certificates are in it because who asks may know neither the member nor its
// issuer: both may have come while it was away. The mesh's root it knows, or it would be no member.
type value struct {
	_       struct{} `cbor:",toarray"`
	Record  []byte   // as peer.Record.Sign makes it
	Member  []byte   // the member certificate
	Issuers [][]byte // from the root down, at most issuersMax
}

// newValue is what a node says of itself.
func newValue(r peer.Record, key *identity.Key, c *certificate.Chain) ([]byte, error) {
	signed, err := r.Sign(key)
	if err != nil {
		return nil, err
	}
	return wire.Marshal(value{Record: signed, Member: c.Member, Issuers: c.Issuers})
}

// parseValue reads a value. Nothing in it is verified.
func parseValue(b []byte) (v value, err error) {
	if len(b) > ValueMax {
		return v, fmt.Errorf("%w: %d bytes, at most %d", ErrValue, len(b), ValueMax)
	}
	if err := wire.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("%w: %w", ErrValue, err)
	}
	if len(v.Issuers) > issuersMax {
		return v, fmt.Errorf("%w: %d issuers, at most %d", ErrValue, len(v.Issuers), issuersMax)
	}
	return v, nil
}

func keyOf(id identity.NodeID) string { return "/" + namespace + "/" + id.String() }

func nodeOfKey(key string) (identity.NodeID, error) {
	rest, ok := strings.CutPrefix(key, "/"+namespace+"/")
	if !ok {
		return identity.NodeID{}, fmt.Errorf("%w: %.80q", ErrKey, key)
	}
	id, err := identity.ParseNodeID(rest)
	if err != nil {
		return id, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if keyOf(id) != key { // one key for one node
		return id, fmt.Errorf("%w: %.80q", ErrKey, key)
	}
	return id, nil
}

// entry is a value that was found good.
type entry struct {
	record peer.Record
	member *certificate.Member
	raw    []byte // the certificate's bytes
}

// validator judges values: kad-dht's record.Validator.
type validator struct {
	trust   func() *certificate.Trust
	peers   *peer.Table
	now     func() time.Time
	refused func()
	stale   func() // a value was older than another of the same node
}

// Validate returns why a value may not be stored or believed.
func (v validator) Validate(key string, b []byte) error {
	_, err := v.open(key, b)
	if err != nil {
		v.refused()
	}
	return err
}

// Select returns the value with the highest sequence. All have been validated, but time has passed. Of equal ones the first stays, which is
// the one that is stored already or was heard first.
func (v validator) Select(key string, values [][]byte) (int, error) {
	best, at := uint64(0), -1
	for i, b := range values {
		e, err := v.open(key, b)
		if err != nil {
			continue
		}
		if at >= 0 && e.record.Sequence != best {
			v.stale()
		}
		if at < 0 || e.record.Sequence > best {
			best, at = e.record.Sequence, i
		}
	}
	if at < 0 {
		return 0, ErrValue
	}
	return at, nil
}

// open verifies a value: its form, that its node is a member, and that the node itself has signed the record.
func (v validator) open(key string, b []byte) (entry, error) {
	id, err := nodeOfKey(key)
	if err != nil {
		return entry{}, err
	}
	val, err := parseValue(b)
	if err != nil {
		return entry{}, err
	}
	m, err := v.member(id, val)
	if err != nil {
		return entry{}, err
	}
	r, err := peer.VerifyRecord(&m.Public, val.Record)
	if err != nil {
		return entry{}, err
	}
	return entry{record: r, member: m, raw: val.Member}, nil
}

// member returns whose certificate it is. One that is in the peer table was verified when it got there; its time is looked at all the same.
func (v validator) member(id identity.NodeID, val value) (*certificate.Member, error) {
	trust := v.trust()
	if trust == nil {
		return nil, errNotEnrolled
	}
	known, ok := v.peers.Get(id)
	if trust.Revoked(id) || ok && known.Revoked {
		return nil, fmt.Errorf("%w: %s", ErrRevoked, id.Short())
	}
	now := v.now()
	if ok && known.Member != nil && bytes.Equal(known.Raw, val.Member) {
		if now.After(known.Member.NotAfter) {
			return nil, fmt.Errorf("dht: %s: %w", id.Short(), certificate.ErrExpired)
		}
		return known.Member, nil
	}
	m, err := trust.VerifyChain(&certificate.Chain{Root: trust.Root(), Issuers: val.Issuers, Member: val.Member}, now)
	if err != nil {
		return nil, fmt.Errorf("dht: %s: %w", id.Short(), err)
	}
	if m.NodeID() != id {
		return nil, fmt.Errorf("%w: the certificate is another node's", ErrValue)
	}
	return m, nil
}

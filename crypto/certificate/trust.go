package certificate

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// Why a certificate is not accepted.
var (
	ErrSignature       = errors.New("certificate: signature does not verify")
	ErrExpired         = errors.New("certificate: expired")
	ErrNotYetValid     = errors.New("certificate: not yet valid: the clock here or at the issuer is wrong")
	ErrRevoked         = errors.New("certificate: the node is revoked")
	ErrWrongMesh       = errors.New("certificate: of another mesh")
	ErrUntrustedIssuer = errors.New("certificate: signed by a node that may not issue")
)

// Trust is an immutable set of what certificates are verified against. The zero value trusts nobody; make one with NewTrust.
type Trust struct {
	root    identity.RootPublic
	mesh    identity.MeshID
	issuers map[identity.NodeID]issuer
	revoked map[identity.NodeID]Revocation
	adopted map[[32]byte]struct{} // SHA-256 of member certificates taken over while their issuer was good
}

type issuer struct {
	Issuer
	raw    []byte
	parent identity.NodeID // zero: the root
}

// NewTrust gives the trust in a mesh's root alone.
func NewTrust(root identity.RootPublic) *Trust {
	return &Trust{root: root, mesh: root.MeshID()}
}

// Mesh is the mesh that is trusted.
func (t *Trust) Mesh() identity.MeshID { return t.mesh }

// Root is the mesh's root.
func (t *Trust) Root() identity.RootPublic { return t.root }

func (t *Trust) clone() *Trust {
	return &Trust{root: t.root, mesh: t.mesh, issuers: maps.Clone(t.issuers), revoked: maps.Clone(t.revoked), adopted: maps.Clone(t.adopted)}
}

// WithIssuer gives a trust that also holds the issuer, after verifying its certificate at now. Of two certificates of one node the one that
// lasts longer stays.
func (t *Trust) WithIssuer(raw []byte, now time.Time) (*Trust, error) {
	i, err := t.verifyIssuer(raw, now)
	if err != nil {
		return nil, err
	}
	if old, ok := t.issuers[i.NodeID()]; ok && !t.better(*i, old) {
		return t, nil
	}
	return t.holding(*i), nil
}

// WithChosenIssuer gives a trust that holds this certificate in place of any other of the same node, after verifying who signed it. Nobody's
// times are looked at: whoever uses the issuer does that (IssuerDepth, VerifyMember). It is for what the mesh's ledger has chosen, when it
// was valid: its parent may have a newer certificate by now, which begins later.
func (t *Trust) WithChosenIssuer(raw []byte) (*Trust, error) {
	i, err := t.verifyIssuerSignature(raw)
	if err != nil {
		return nil, err
	}
	return t.holding(*i), nil
}

func (t *Trust) holding(i issuer) *Trust {
	n := t.clone()
	if n.issuers == nil {
		n.issuers = map[identity.NodeID]issuer{}
	}
	n.issuers[i.NodeID()] = i
	return n
}

// better reports whether a replaces b, both certificates of one node: what a good parent signed beats what a revoked one did, a parent beats a leaf,
// then the longer life.
func (t *Trust) better(a, b issuer) bool {
	if bad := t.betrayed(b.parent); bad != t.betrayed(a.parent) {
		return bad
	}
	if a.Depth != b.Depth {
		return a.Depth > b.Depth
	}
	return a.NotAfter.After(b.NotAfter)
}

func (t *Trust) verifyIssuer(raw []byte, now time.Time) (*issuer, error) {
	i, err := t.verifyIssuerSignature(raw)
	if err != nil {
		return nil, err
	}
	if parent, ok := t.issuers[i.parent]; ok {
		if err := checkTime(parent.NotBefore, parent.NotAfter, now); err != nil {
			return nil, err
		}
	}
	return i, checkTime(i.NotBefore, i.NotAfter, now)
}

// verifyIssuerSignature checks who signed an issuer certificate, and that he may.
func (t *Trust) verifyIssuerSignature(raw []byte) (*issuer, error) {
	e, err := openEnvelope(raw)
	if err != nil {
		return nil, err
	}
	i, err := decodeIssuer(e.Body)
	if err != nil {
		return nil, err
	}
	if i.Mesh != t.mesh {
		return nil, ErrWrongMesh
	}
	out := &issuer{Issuer: *i, raw: raw}
	if e.Signer == [32]byte(t.mesh) {
		err = e.verify(t.root, issuerContext)
	} else {
		out.parent = e.Signer
		parent, ok := t.issuers[e.Signer]
		if !ok || parent.Depth == DepthLeaf || i.Depth != DepthLeaf || t.betrayed(e.Signer) {
			return nil, ErrUntrustedIssuer
		}
		err = e.verify(&parent.Public, issuerContext)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// WithRevocation gives a trust that no longer accepts the node, after verifying that an issuer of the mesh said so. Two revocations of one node:
// the harder one stays.
func (t *Trust) WithRevocation(raw []byte) (*Trust, error) {
	r, err := t.VerifyRevocation(raw)
	if err != nil {
		return nil, err
	}
	if old, ok := t.revoked[r.Node]; ok && (!old.Left || r.Left) {
		return t, nil
	}
	n := t.clone()
	if n.revoked == nil {
		n.revoked = map[identity.NodeID]Revocation{}
	}
	n.revoked[r.Node] = *r
	return n, nil
}

// VerifyRevocation checks that an issuer of the mesh signed the revocation. It holds even if that issuer was revoked itself, before or after: so
// the outcome does not depend on the order in which revocations arrive, and an honest one never lapses. The price is that a thief of an issuer's
// key can go on revoking as long as some member passes its documents on; that member is as lost as the key.
func (t *Trust) VerifyRevocation(raw []byte) (*Revocation, error) {
	e, err := openEnvelope(raw)
	if err != nil {
		return nil, err
	}
	r, err := decodeRevocation(e.Body)
	if err != nil {
		return nil, err
	}
	if r.Mesh != t.mesh {
		return nil, ErrWrongMesh
	}
	i, ok := t.issuers[e.Signer]
	if !ok {
		return nil, ErrUntrustedIssuer
	}
	if err := e.verify(&i.Public, revocationContext); err != nil {
		return nil, err
	}
	return r, nil
}

// WithMembers gives a trust that goes on accepting these certificates if their issuer is revoked later. They must have come from the mesh's
// signed state and been verified.
func (t *Trust) WithMembers(raws ...[]byte) *Trust {
	n := t.clone()
	if n.adopted == nil {
		n.adopted = make(map[[32]byte]struct{}, len(raws))
	}
	for _, raw := range raws {
		n.adopted[sha256.Sum256(raw)] = struct{}{}
	}
	return n
}

// VerifyMember checks a member certificate at now, against everything that is trusted. The error is one of this package's, wrapped. With
// [ErrRevoked], [ErrExpired] and [ErrNotYetValid] the member is given as well: its signature has been verified, so it can be named.
func (t *Trust) VerifyMember(raw []byte, now time.Time) (*Member, error) {
	e, err := openEnvelope(raw)
	if err != nil {
		return nil, err
	}
	m, err := decodeMember(e.Body)
	if err != nil {
		return nil, err
	}
	if m.Mesh != t.mesh {
		return nil, ErrWrongMesh
	}
	i, ok := t.issuers[e.Signer]
	if !ok {
		return nil, ErrUntrustedIssuer
	}
	if _, adopted := t.adopted[sha256.Sum256(raw)]; !adopted && (t.betrayed(i.parent) || !t.couldSign(e.Signer, m)) {
		return nil, fmt.Errorf("%w: %s is revoked itself", ErrUntrustedIssuer, identity.NodeID(e.Signer).Short())
	}
	if err := e.verify(&i.Public, memberContext); err != nil {
		return nil, err
	}
	if t.Revoked(m.NodeID()) {
		return m, ErrRevoked
	}
	if err := checkTime(i.NotBefore, i.NotAfter, now); err != nil {
		return m, fmt.Errorf("issuer: %w", err)
	}
	return m, checkTime(m.NotBefore, m.NotAfter, now)
}

// Revoked reports whether the node has been revoked or has left.
func (t *Trust) Revoked(id identity.NodeID) bool {
	_, ok := t.revoked[id]
	return ok
}

// betrayed reports whether the node was revoked other than by leaving in good order.
func (t *Trust) betrayed(id identity.NodeID) bool {
	r, ok := t.revoked[id]
	return ok && !r.Left
}

// couldSign reports whether the issuer's own membership speaks for the certificate. A revoked issuer's never does. One that left in good order stands for
// what it signed before, and with that for nothing that outlives it by more than one life of a certificate: who gets hold of its keys later can
// date a certificate back, but only to one that has lapsed or soon will.
func (t *Trust) couldSign(id identity.NodeID, m *Member) bool {
	r, gone := t.revoked[id]
	if !gone {
		return true
	}
	return r.Left && !m.NotBefore.After(r.At.Add(SkewMax)) && !m.NotAfter.After(r.At.Add(MemberLife+SkewMax))
}

// IssuerDepth gives the depth of an issuer that is valid at now; ok is false for a node that may not issue.
func (t *Trust) IssuerDepth(id identity.NodeID, now time.Time) (depth uint8, ok bool) {
	i, found := t.issuers[id]
	if !found || t.Revoked(id) || t.betrayed(i.parent) || checkTime(i.NotBefore, i.NotAfter, now) != nil {
		return 0, false
	}
	return i.Depth, true
}

// IssuerEnd gives when a known issuer's certificate ends.
func (t *Trust) IssuerEnd(id identity.NodeID) (end time.Time, ok bool) {
	i, ok := t.issuers[id]
	return i.NotAfter, ok
}

func checkTime(from, to, now time.Time) error {
	switch {
	case now.Before(from.Add(-SkewMax)):
		return fmt.Errorf("%w (valid from %s, here it is %s)", ErrNotYetValid, from.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.After(to):
		return fmt.Errorf("%w on %s (here it is %s)", ErrExpired, to.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// ChainMax bounds an encoded chain in bytes: a root of 1,984, two issuers of 5.5 KB and a member of at most 8 KB.
const ChainMax = 24 << 10

// Chain is what a node shows of itself to one that may know nothing but the mesh ID: from the root to its own certificate.
type Chain struct {
	Root    identity.RootPublic
	Issuers [][]byte // from the root down, at most 2
	Member  []byte
}

// issuersMax is the number of issuers between the root and a member.
const issuersMax = 2

type chainBody struct {
	_       struct{} `cbor:",toarray"`
	Root    []byte
	Issuers [][]byte
	Member  []byte
}

// MarshalBinary gives the canonical form.
func (c *Chain) MarshalBinary() ([]byte, error) {
	root, err := c.Root.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return wire.Marshal(chainBody{Root: root, Issuers: c.Issuers, Member: c.Member})
}

// UnmarshalBinary reads the canonical form. Nothing is verified.
func (c *Chain) UnmarshalBinary(b []byte) error {
	if len(b) > ChainMax {
		return fmt.Errorf("%w: chain of %d bytes", ErrForm, len(b))
	}
	var body chainBody
	if err := wire.Unmarshal(b, &body); err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	if len(body.Issuers) > issuersMax {
		return fmt.Errorf("%w: chain with %d issuers, at most %d", ErrForm, len(body.Issuers), issuersMax)
	}
	if err := c.Root.UnmarshalBinary(body.Root); err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	c.Issuers, c.Member = body.Issuers, body.Member
	return nil
}

// ChainFor gives the chain of a member certificate out of what is trusted. It is [ErrUntrustedIssuer] when the issuer is not known.
func (t *Trust) ChainFor(raw []byte) (*Chain, error) {
	e, err := openEnvelope(raw)
	if err != nil {
		return nil, err
	}
	i, ok := t.issuers[e.Signer]
	if !ok {
		return nil, ErrUntrustedIssuer
	}
	c := &Chain{Root: t.root, Member: raw}
	if !i.parent.IsZero() {
		parent, ok := t.issuers[i.parent]
		if !ok {
			return nil, ErrUntrustedIssuer
		}
		c.Issuers = append(c.Issuers, parent.raw)
	}
	c.Issuers = append(c.Issuers, i.raw)
	return c, nil
}

// VerifyChain checks a chain at now: of the trusted mesh, with issuers that we know already or that the chain itself proves, down to a member that
// is not revoked.
func (t *Trust) VerifyChain(c *Chain, now time.Time) (*Member, error) {
	if c.Root.MeshID() != t.mesh {
		return nil, ErrWrongMesh
	}
	// The common case costs one verification: the issuer is known.
	m, err := t.VerifyMember(c.Member, now)
	if !errors.Is(err, ErrUntrustedIssuer) {
		return m, err
	}
	if len(c.Issuers) > issuersMax {
		return nil, fmt.Errorf("%w: chain with %d issuers, at most %d", ErrForm, len(c.Issuers), issuersMax)
	}
	with := t
	for _, raw := range c.Issuers {
		if with, err = with.WithIssuer(raw, now); err != nil {
			return nil, fmt.Errorf("issuer: %w", err)
		}
	}
	return with.VerifyMember(c.Member, now)
}

// VerifyChainOf checks a chain with nothing known but the mesh ID: what a joiner does.
func VerifyChainOf(mesh identity.MeshID, c *Chain, now time.Time) (*Member, error) {
	if c.Root.MeshID() != mesh {
		return nil, ErrWrongMesh
	}
	return NewTrust(c.Root).VerifyChain(c, now)
}

package control

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Labels of the hello. The context keeps its signature from being taken for one of another purpose.
const (
	helloVersion  = 1
	helloExporter = "phantommesh hello v1"
	helloContext  = "phantommesh hello v1"
	instanceSize  = 16
)

// role says which end of the connection speaks, so that a hello cannot be sent back to who made it.
type role byte

const (
	dialer   role = 'd'
	listener role = 'l'
)

// other returns the role at the other end.
func (r role) other() role {
	if r == dialer {
		return listener
	}
	return dialer
}

// hello is the first message each side sends, CBOR behind a length (package wire), at most helloMax bytes:
//
//	[ version    1
//	, instance   16 bytes, drawn when the node started: a peer that says another one has been restarted
//	, public     the canonical identity.Public
//	, chain      the canonical certificate.Chain, empty if there is none or it is not to be shown
//	, signature  ML-DSA-65 over exporter ‖ role ‖ node ID ]
//
// exporter are 32 bytes of TLS keying material (RFC 8446 §7.5) that only the two ends of this connection have: the signature is
// worthless on any other.
type hello struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	Instance  []byte
	Public    []byte
	Chain     []byte
	Signature []byte
}

// binding is what ties a hello to one end of one connection.
type binding struct {
	role     role                  // of who speaks
	exporter [32]byte              // of the TLS session
	tlsKey   [32]byte              // the Ed25519 key that who speaks proved in TLS
	address  identity.WireGuardKey // the key the underlay found there
}

// signed are the bytes a hello's signature covers.
func (b binding) signed(id identity.NodeID) []byte {
	out := make([]byte, 0, len(b.exporter)+1+len(id))
	out = append(out, b.exporter[:]...)
	out = append(out, byte(b.role))
	return append(out, id[:]...)
}

// newHello makes our hello for one end of a connection. chain may be nil.
func newHello(key *identity.Key, instance [instanceSize]byte, chain *certificate.Chain, b binding) (hello, error) {
	public, err := key.Public().MarshalBinary()
	if err != nil {
		return hello{}, fmt.Errorf("control: encode identity: %w", err)
	}
	h := hello{Version: helloVersion, Instance: instance[:], Public: public, Chain: []byte{}}
	if chain != nil {
		if h.Chain, err = chain.MarshalBinary(); err != nil {
			return hello{}, fmt.Errorf("control: encode certificate chain: %w", err)
		}
	}
	if h.Signature, err = key.SignMLDSA(helloContext, b.signed(key.ID())); err != nil {
		return hello{}, fmt.Errorf("control: sign hello: %w", err)
	}
	return h, nil
}

// judge decides about hellos: what we know and want when one arrives.
type judge struct {
	self  identity.NodeID
	want  identity.NodeID    // zero: any node
	trust *certificate.Trust // nil: we are not enrolled, everybody is a stranger to us
	now   time.Time
}

// verdict is what a hello that was accepted proved.
type verdict struct {
	peer     Peer
	raw      []byte // the member certificate's bytes; nil for strangers
	instance [instanceSize]byte
}

// decide verifies a hello against the connection it came over. The error is always *Refused with Ours set.
func (j judge) decide(h hello, b binding) (verdict, error) {
	v := verdict{}
	if h.Version != helloVersion || len(h.Instance) != instanceSize {
		return v, refuse(identity.NodeID{}, ReasonBadHello, fmt.Sprintf("hello version %d is not %d", h.Version, helloVersion))
	}
	copy(v.instance[:], h.Instance)
	public := &v.peer.Public
	if err := public.UnmarshalBinary(h.Public); err != nil {
		return v, refuse(identity.NodeID{}, ReasonBadHello, "malformed identity")
	}
	v.peer.ID = public.NodeID()
	id := v.peer.ID
	switch {
	case public.Ed25519 != b.tlsKey:
		return v, refuse(id, ReasonBadHello, "the identity is not that of the TLS key")
	case public.VerifyMLDSA(helloContext, b.signed(id), h.Signature) != nil:
		return v, refuse(id, ReasonBadHello, "the hello's signature does not verify on this connection")
	case public.WireGuard != b.address:
		return v, refuse(id, ReasonWrongNode, "the identity does not hold the key that the path was checked with")
	case id == j.self:
		return v, refuse(id, ReasonWrongNode, "this identity is the other side's own; was the state folder copied?")
	case !j.want.IsZero() && id != j.want:
		return v, refuse(id, ReasonWrongNode, fmt.Sprintf("wanted %s, %s answered", j.want.Short(), id.Short()))
	case j.trust == nil:
		return v, nil
	case j.trust.Revoked(id):
		return v, refuse(id, ReasonRevoked, "")
	case len(h.Chain) == 0:
		return v, nil
	}
	return j.member(v, h.Chain)
}

// member verifies the chain that the peer of v has shown.
func (j judge) member(v verdict, encoded []byte) (verdict, error) {
	var chain certificate.Chain
	if err := chain.UnmarshalBinary(encoded); err != nil {
		return v, refuse(v.peer.ID, ReasonNotMember, "malformed certificate chain")
	}
	member, err := j.trust.VerifyChain(&chain, j.now)
	if err != nil {
		return v, refuse(v.peer.ID, chainReason(err), detailOf(err))
	}
	if !member.Public.Equal(&v.peer.Public) {
		return v, refuse(v.peer.ID, ReasonNotMember, "the certificate is another node's")
	}
	v.peer.Member, v.raw = member, chain.Member
	return v, nil
}

// chainReason is the reason to give for a chain that did not verify.
func chainReason(err error) Reason {
	switch {
	case errors.Is(err, certificate.ErrRevoked):
		return ReasonRevoked
	case errors.Is(err, certificate.ErrExpired):
		return ReasonExpired
	case errors.Is(err, certificate.ErrNotYetValid):
		return ReasonNotYetValid
	case errors.Is(err, certificate.ErrWrongMesh):
		return ReasonWrongMesh
	}
	return ReasonNotMember
}

// detailOf is what the peer should know beyond the reason: the dates, when a clock may be wrong.
func detailOf(err error) string {
	if errors.Is(err, certificate.ErrExpired) || errors.Is(err, certificate.ErrNotYetValid) {
		return err.Error()
	}
	return ""
}

// refuse makes the error for a peer we turn away; detail may be empty.
func refuse(id identity.NodeID, r Reason, detail string) *Refused {
	text := r.String()
	if detail != "" {
		text += ": " + detail
	}
	return &Refused{Code: uint64(r), Reason: text, Peer: id, Ours: true}
}

// exporter returns the TLS keying material of the hello.
func exporter(state tls.ConnectionState) (out [32]byte, err error) {
	b, err := state.ExportKeyingMaterial(helloExporter, nil, len(out))
	if err != nil {
		return out, fmt.Errorf("control: TLS exporter: %w", err)
	}
	copy(out[:], b)
	return out, nil
}

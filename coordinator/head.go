package coordinator

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// A head is a coordinator's signature over a whole state: whoever passes a state on can neither alter it, nor leave a
// revocation out, nor claim a version that does not exist.
const headContext = "phantommesh state head v1"

var errHead = errors.New("coordinator: the state's head does not verify")

type headBody struct {
	_       struct{} `cbor:",toarray"`
	Mesh    identity.MeshID
	Version uint64
	Digest  [32]byte
	Signer  identity.NodeID
	Time    int64 // Unix ms, for people
}

type signedHead struct {
	_         struct{} `cbor:",toarray"`
	Body      []byte
	Signature []byte
}

func signHead(key *identity.Key, s *State, now time.Time) ([]byte, error) {
	body, err := wire.Marshal(headBody{Mesh: s.Mesh.ID, Version: s.Version, Digest: s.Digest(), Signer: key.ID(), Time: now.UnixMilli()})
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(headContext, body)
	if err != nil {
		return nil, err
	}
	return wire.Marshal(signedHead{Body: body, Signature: sig})
}

// verifyHead checks that head covers exactly s and was signed by one of its issuers.
func verifyHead(head []byte, s *State, now time.Time) error {
	var h signedHead
	var b headBody
	if err := wire.Unmarshal(head, &h); err != nil {
		return fmt.Errorf("%w: %w", errHead, err)
	}
	if err := wire.Unmarshal(h.Body, &b); err != nil {
		return fmt.Errorf("%w: %w", errHead, err)
	}
	if b.Mesh != s.Mesh.ID || b.Version != s.Version || b.Digest != s.Digest() {
		return fmt.Errorf("%w: it is for another state", errHead)
	}
	m, ok := s.Member(b.Signer)
	if _, issuer := s.trust.IssuerDepth(b.Signer, now); !ok || !issuer {
		return fmt.Errorf("%w: %s may not sign it", errHead, b.Signer.Short())
	}
	if err := m.Certificate.Public.Verify(headContext, h.Body, h.Signature); err != nil {
		return fmt.Errorf("%w: %w", errHead, err)
	}
	return nil
}

// headCache keeps the last head this node signed: signing costs about half a millisecond, and every member asks.
type headCache struct {
	mu      sync.Mutex
	version uint64
	head    []byte
}

// headOf returns the head of a state: stored with it, or signed now if this node may and holds it from its own ledger.
func (g *Group) headOf(s *State) []byte {
	if len(s.head) > 0 {
		return s.head
	}
	if s.Version == 0 || g.current() == nil || !s.MaySpeakRaft(g.self, g.cfg.Now()) {
		return nil
	}
	g.heads.mu.Lock()
	defer g.heads.mu.Unlock()
	if g.heads.version == s.Version {
		return g.heads.head
	}
	head, err := signHead(g.cfg.Key, s, g.cfg.Now())
	if err != nil {
		g.cfg.Log.Warn("coordinator: the state's head could not be signed", "err", err)
		return nil
	}
	g.heads.version, g.heads.head = s.Version, head
	return head
}

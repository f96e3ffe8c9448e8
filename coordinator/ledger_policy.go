package coordinator

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/policy"
)

// Bounds of the versions of the policy that the ledger keeps, so that one can be brought back. The last two are kept in any case.
const (
	policiesKept    = 64
	policyBytesKept = 2 << 20 // of text, together: what a snapshot grows by
)

// Policy is one version of the mesh's packet filter policy, immutable.
type Policy struct {
	Number uint64   // 1, 2, …
	Of     uint64   // the version that it brings back; its own number if it brought a new text; 0 if it takes the policy away
	Text   string   // YAML as it was written; empty: no policy, all may talk
	Hash   [32]byte // of the policy's canonical form; zero of no policy
	By     identity.NodeID
	At     time.Time

	Version uint64   // raft index
	ID      [16]byte // of the question that set it, which may come twice
	hash    [32]byte // of its record
}

// version is zero of no policy.
func (p *Policy) version() uint64 {
	if p == nil {
		return 0
	}
	return p.Version
}

// PolicyNumber is that of the policy of a state; zero if it has none, as after a restore from a backup that is older than the first.
func (s *State) PolicyNumber() uint64 {
	if s.Policy == nil {
		return 0
	}
	return s.Policy.Number
}

type policyRecord struct {
	_       struct{} `cbor:",toarray"`
	Number  uint64
	Of      uint64
	Text    string
	Hash    [32]byte
	By      identity.NodeID
	At      int64 // Unix ms
	Version uint64
	ID      [16]byte
}

func newPolicyRecord(p *Policy) policyRecord {
	return policyRecord{Number: p.Number, Of: p.Of, Text: p.Text, Hash: p.Hash, By: p.By, At: p.At.UnixMilli(), Version: p.Version, ID: p.ID}
}

// hashed notes the hash of a policy's record.
func (p *Policy) hashed() *Policy {
	p.hash = sha256.Sum256(mustRecord(recordPolicy, newPolicyRecord(p)))
	return p
}

func parsePolicyRecord(body []byte) (*Policy, error) {
	var r policyRecord
	if err := wire.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	if r.Number == 0 || r.Of > r.Number || len(r.Text) > policy.TextMax || (r.Of == 0) != (r.Text == "") {
		return nil, errors.New("not a version of a policy")
	}
	p := &Policy{Number: r.Number, Of: r.Of, Text: r.Text, Hash: r.Hash, By: r.By, At: unixMilli(r.At), Version: r.Version, ID: r.ID}
	return p.hashed(), nil
}

// policyBody sets a policy, or brings a version back: then Text is empty, and Of names the version.
type policyBody struct {
	_        struct{} `cbor:",toarray"`
	ID       [16]byte // chosen by the asker
	Text     string
	Hash     [32]byte // of the canonical form
	Back     bool
	Of       uint64 // with Back; 0: no policy
	Replaces uint64 // with Back: the version it was decided on
}

// policy makes a version of the policy the current one. That the text is a policy and that its expectations hold was checked by the
// leader: the reader of policies may change with the program, and all voters must come to the same ledger.
func (l *Ledger) policy(s step[policyBody]) (Result, string) {
	b := s.body
	if same := l.policyAsked(b.ID); same != nil {
		return Result{Policy: same}, "asked again"
	}
	next := &Policy{Number: l.policyNumber() + 1, Text: b.Text, Hash: b.Hash, By: s.asker, At: s.at, Version: s.version, ID: b.ID}
	next.Of = next.Number
	subject := fmt.Sprintf("version %d %x", next.Number, b.Hash[:8])
	switch {
	case !b.Back && (b.Text == "" || len(b.Text) > policy.TextMax):
		return refused(RefusedRequest, "a policy has 1 to %d bytes", policy.TextMax), subject
	case b.Back:
		subject = fmt.Sprintf("version %d brings back %d", next.Number, b.Of)
		if b.Text != "" || b.Replaces != l.policyNumber() {
			return refused(refusedConflict, "the policy changed meanwhile"), subject
		}
		next.Of, next.Hash = b.Of, [32]byte{}
		if b.Of != 0 {
			old, ok := l.Policy(b.Of)
			if !ok || old.Of == 0 {
				return Result{Refused: noSuchPolicy(b.Of)}, subject
			}
			next.Of, next.Text, next.Hash = old.Of, old.Text, old.Hash
		}
	}
	l.policies = trimPolicies(append(slices.Clip(l.policies), next.hashed()))
	l.state = l.state.withPolicy(next)
	return Result{Policy: next}, subject
}

func noSuchPolicy(number uint64) *Refused {
	return refuse(RefusedRequest, "version %d of the policy is not kept; phantom policy history lists those that are", number)
}

// trimPolicies drops the oldest beyond the bounds.
func trimPolicies(list []*Policy) []*Policy {
	bytes, keep := 0, 0
	for i := len(list) - 1; i >= 0; i-- {
		bytes += len(list[i].Text)
		if n := len(list) - i; n > 2 && (n > policiesKept || bytes > policyBytesKept) {
			break
		}
		keep++
	}
	return slices.Clone(list[len(list)-keep:])
}

func (l *Ledger) policyNumber() uint64 {
	if n := len(l.policies); n > 0 {
		return l.policies[n-1].Number
	}
	return 0
}

// Policies returns the versions that are kept, the oldest first.
func (l *Ledger) Policies() []*Policy { return l.policies }

// Policy finds a version that is kept.
func (l *Ledger) Policy(number uint64) (*Policy, bool) {
	i, ok := slices.BinarySearchFunc(l.policies, number, func(p *Policy, n uint64) int { return cmp.Compare(p.Number, n) })
	if !ok {
		return nil, false
	}
	return l.policies[i], true
}

// policyAsked finds the version that a question has set already, when its answer was lost.
func (l *Ledger) policyAsked(id [16]byte) *Policy {
	for _, p := range l.policies {
		if p.ID == id {
			return p
		}
	}
	return nil
}

// policyBefore returns which version a rollback goes back to: what was in force before the current text was set; 0: no policy. Rolling
// back twice goes back two steps, not to and fro.
func (l *Ledger) policyBefore() (uint64, *Refused) {
	if len(l.policies) == 0 {
		return 0, refuse(RefusedRequest, "the mesh has no policy to roll back from")
	}
	current := l.policies[len(l.policies)-1]
	if current.Of == 0 {
		return 0, refuse(RefusedRequest, "no policy is in force, so there is nothing to roll back from; to bring one back, name its version: "+
			"phantom policy rollback VERSION")
	}
	for _, p := range slices.Backward(l.policies) {
		switch {
		case p.Number >= current.Of || p.Hash == current.Hash:
		case p.Of == 0:
			return 0, nil
		default:
			return p.Number, nil
		}
	}
	if l.policies[0].Number > 1 {
		return 0, refuse(RefusedRequest, "the versions before %d are not kept any more; phantom policy rollback 0 takes the policy away", current.Of)
	}
	return 0, nil
}

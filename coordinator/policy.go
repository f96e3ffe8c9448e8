package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/policy"
)

type policyRequest struct {
	_    struct{} `cbor:",toarray"`
	ID   [16]byte // the same when asked again
	Text string
}

type rollbackRequest struct {
	_      struct{} `cbor:",toarray"`
	ID     [16]byte
	Chosen bool   // else: the one before
	To     uint64 // 0: no policy
}

type policyTextRequest struct {
	_      struct{} `cbor:",toarray"`
	Number uint64
}

// SetPolicy puts a policy in force on every member. Its expectations must hold.
func (g *Group) SetPolicy(ctx context.Context, text string) (*Policy, error) {
	id, err := g.questionID()
	if err != nil {
		return nil, err
	}
	return g.decidePolicy(ctx, opSetPolicy, policyRequest{ID: id, Text: text})
}

// RollbackPolicy brings the policy before the current one back, or the version *to; 0 is the time without a policy. Expectations are not
// tried again: the way back must not be barred by a member that is gone since.
func (g *Group) RollbackPolicy(ctx context.Context, to *uint64) (*Policy, error) {
	id, err := g.questionID()
	if err != nil {
		return nil, err
	}
	r := rollbackRequest{ID: id}
	if to != nil {
		r.Chosen, r.To = true, *to
	}
	return g.decidePolicy(ctx, opRollbackPolicy, r)
}

// Policies returns the versions that the ledger keeps, the oldest first, without their texts.
func (g *Group) Policies(ctx context.Context) ([]*Policy, error) {
	raw, err := g.decide(ctx, opPolicies, nothing{})
	if err != nil {
		return nil, err
	}
	var list [][]byte
	if err := wire.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("coordinator: the leader's list of policies: %w", err)
	}
	var out []*Policy
	for _, body := range list {
		var r policyRecord
		if err := wire.Unmarshal(body, &r); err != nil {
			return nil, fmt.Errorf("coordinator: the leader's list of policies: %w", err)
		}
		out = append(out, &Policy{Number: r.Number, Of: r.Of, Hash: r.Hash, By: r.By, At: unixMilli(r.At), Version: r.Version})
	}
	return out, nil
}

// PolicyText returns a version with its text.
func (g *Group) PolicyText(ctx context.Context, number uint64) (*Policy, error) {
	return g.decidePolicy(ctx, opPolicyText, policyTextRequest{Number: number})
}

func (g *Group) questionID() (id [16]byte, err error) {
	if _, err = io.ReadFull(g.cfg.Rand, id[:]); err != nil {
		err = fmt.Errorf("coordinator: read randomness: %w", err)
	}
	return id, err
}

// decidePolicy asks for one version of the policy.
func (g *Group) decidePolicy(ctx context.Context, o op, question any) (*Policy, error) {
	raw, err := g.decide(ctx, o, question)
	if err != nil {
		return nil, err
	}
	p, err := parsePolicyRecord(raw)
	if err != nil {
		return nil, fmt.Errorf("coordinator: the leader's answer: %w", err)
	}
	return p, nil
}

// PolicyMembers are the active members as a policy sees them.
func (s *State) PolicyMembers() []policy.Member {
	out := make([]policy.Member, 0, len(s.Members))
	for _, m := range s.Members {
		if m.Status == Active {
			c := m.Certificate
			out = append(out, policy.Member{ID: m.ID, Name: c.Name, Addresses: c.Addresses(), Tags: c.Tags, Region: c.Region})
		}
	}
	return out
}

// problemsQuoted bounds the failed expectations in a refusal.
const problemsQuoted = 5

func (g *Group) executeSetPolicy(ctx context.Context, r *replica, asker identity.NodeID, b policyRequest) ([]byte, error) {
	p, err := policy.Parse([]byte(b.Text))
	if err != nil {
		return nil, refuse(RefusedPolicy, "the policy has an error: %v", err)
	}
	if problems := p.Check(g.ledgerState(r).PolicyMembers()); len(problems) > 0 {
		var quoted []string
		for _, p := range problems[:min(len(problems), problemsQuoted)] {
			quoted = append(quoted, p.String())
		}
		if n := len(problems) - len(quoted); n > 0 {
			quoted = append(quoted, fmt.Sprintf("and %d more", n))
		}
		return nil, refuse(RefusedPolicy, "expect lines do not hold: %s", strings.Join(quoted, "; "))
	}
	return g.proposePolicy(ctx, r, asker, policyBody{ID: b.ID, Text: b.Text, Hash: p.Hash()})
}

func (g *Group) executeRollbackPolicy(ctx context.Context, r *replica, asker identity.NodeID, b rollbackRequest) ([]byte, error) {
	for range admitTries {
		body := policyBody{ID: b.ID, Back: true, Of: b.To}
		var same *Policy
		var nowhere *Refused
		r.machine.view(func(l *Ledger) {
			body.Replaces, same = l.policyNumber(), l.policyAsked(b.ID)
			if !b.Chosen {
				body.Of, nowhere = l.policyBefore()
			}
		})
		switch {
		case same != nil:
			return wire.Marshal(newPolicyRecord(same))
		case nowhere != nil:
			return nil, nowhere
		}
		raw, err := g.proposePolicy(ctx, r, asker, body)
		if !errors.Is(err, errConflict) {
			return raw, err
		}
	}
	return nil, fmt.Errorf("coordinator: roll the policy back: %w", errConflict)
}

func (g *Group) proposePolicy(ctx context.Context, r *replica, asker identity.NodeID, body policyBody) ([]byte, error) {
	res, err := g.propose(ctx, r, KindPolicy, asker, body)
	if err != nil {
		return nil, err
	}
	g.cfg.Log.Info("coordinator: policy set", "version", res.Policy.Number, "of", res.Policy.Of, "peer", asker.Short())
	return wire.Marshal(newPolicyRecord(res.Policy))
}

func (g *Group) executePolicies(_ context.Context, r *replica, _ identity.NodeID, _ nothing) ([]byte, error) {
	list := [][]byte{}
	var err error
	r.machine.view(func(l *Ledger) {
		for _, p := range l.Policies() {
			record := newPolicyRecord(p)
			record.Text = ""
			b, bad := wire.Marshal(record)
			list, err = append(list, b), errors.Join(err, bad)
		}
	})
	if err != nil {
		return nil, err
	}
	return wire.Marshal(list)
}

func (g *Group) executePolicyText(_ context.Context, r *replica, _ identity.NodeID, b policyTextRequest) ([]byte, error) {
	var found *Policy
	r.machine.view(func(l *Ledger) { found, _ = l.Policy(b.Number) })
	if found == nil {
		return nil, noSuchPolicy(b.Number)
	}
	return wire.Marshal(newPolicyRecord(found))
}

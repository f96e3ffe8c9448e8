package api

import (
	"context"
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/policy"
)

// policyStub answers about policies.
type policyStub struct {
	Backend
	text string
	to   *uint64
}

func (s *policyStub) SetPolicy(_ context.Context, r PolicyRequest) (*PolicyVersion, error) {
	s.text = r.Text
	return &PolicyVersion{Version: 2, Of: 2}, nil
}

func (s *policyStub) RollbackPolicy(_ context.Context, r PolicyRollback) (*PolicyVersion, error) {
	s.to = r.To
	return &PolicyVersion{Version: 3}, nil
}

func (s *policyStub) PolicyText(_ context.Context, version uint64) (*Policy, error) {
	return &Policy{Set: true, Text: s.text, Current: &PolicyVersion{Version: version}}, nil
}

func TestTheLongestPolicyCrossesTheSocket(t *testing.T) {
	if localapi.PolicyTextMax != policy.TextMax {
		t.Fatal("the bounds on a policy's text differ")
	}
	b := &policyStub{}
	c, _ := serveStub(t, b)
	long := strings.Repeat("<", policy.TextMax) // JSON writes each as six bytes
	if v, err := c.SetPolicy(t.Context(), PolicyRequest{Text: long}); err != nil || v.Version != 2 || b.text != long {
		t.Errorf("%v %+v", err, v)
	}
	if p, err := c.PolicyText(t.Context(), 7); err != nil || p.Text != long || p.Current.Version != 7 {
		t.Errorf("%v", err)
	}
	if _, err := c.SetPolicy(t.Context(), PolicyRequest{Text: strings.Repeat("<", policy.TextMax+1000)}); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("a longer one: %v", err)
	}
	to := uint64(0)
	if _, err := c.RollbackPolicy(t.Context(), PolicyRollback{To: &to}); err != nil || b.to == nil || *b.to != 0 {
		t.Errorf("rolling back to no policy: %v %v", err, b.to)
	}
	if _, err := c.RollbackPolicy(t.Context(), PolicyRollback{}); err != nil || b.to != nil {
		t.Errorf("rolling back one step: %v %v", err, b.to)
	}
}

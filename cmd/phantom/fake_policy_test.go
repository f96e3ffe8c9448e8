package main

import (
	"context"
	"encoding/hex"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/policy"
)

// The fake node's policies: a text with the word "refused" is refused by the mesh, an expect line fails if its verdict is deny.

func (n *fakeNode) Policy(context.Context) (*api.Policy, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.policies) == 0 {
		return &api.Policy{}, nil
	}
	p := n.policies[len(n.policies)-1]
	p.Filter = localapi.PolicyFilter{InForce: p.Set, Flows: 3, Dropped: 2, Last: []localapi.PolicyDrop{
		{At: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Direction: "in", Reason: "no_rule", From: "laptop", To: "atlas", Service: "tcp/445"}}}
	return &p, nil
}

func (n *fakeNode) PolicyText(_ context.Context, version uint64) (*api.Policy, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if version == 0 || version > uint64(len(n.policies)) {
		return nil, &localapi.Failure{Class: localapi.Refused, What: "cannot show the policy", Why: "version is not kept"}
	}
	return &n.policies[version-1], nil
}

func (n *fakeNode) PolicyHistory(context.Context) (*api.PolicyHistory, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &api.PolicyHistory{}
	for i := len(n.policies) - 1; i >= 0; i-- {
		h.Versions = append(h.Versions, *n.policies[i].Current)
	}
	return h, nil
}

func (n *fakeNode) CheckPolicy(_ context.Context, r api.PolicyRequest) (*api.PolicyCheck, error) {
	p, err := policy.Parse([]byte(r.Text))
	if err != nil {
		return nil, err
	}
	out := &api.PolicyCheck{OK: true, Rules: len(p.Rules), Expects: len(p.Expects), ChangesTotal: 3, Pairs: 12, Flows: 3, CutTotal: 1, WatchedMs: 1500,
		Changes:  []localapi.PolicyChange{{From: []string{"laptop"}, To: []string{"nas", "tv"}, Pairs: 2, Lost: []string{"* except tcp/22"}}},
		Cut:      []localapi.PolicyFlow{{Peer: "laptop", Inbound: true, Service: "tcp/445", Family: "IPv4", IdleS: 2}},
		Warnings: []localapi.PolicyProblem{{Line: 2, Text: "tag:x", Why: "no member has the tag x"}}}
	for _, e := range p.Expects {
		if !e.Allow {
			out.OK, out.Failed = false, append(out.Failed, localapi.PolicyProblem{Line: e.Line, Text: e.String(), Why: "it is allowed by the rule in line 2"})
		}
	}
	return out, nil
}

func (n *fakeNode) SetPolicy(_ context.Context, r api.PolicyRequest) (*api.PolicyVersion, error) {
	if strings.Contains(r.Text, "refused") {
		return nil, &localapi.Failure{Class: localapi.Refused, What: "cannot set the policy", Why: "expect lines do not hold"}
	}
	return n.addPolicy(r.Text, 0), nil
}

func (n *fakeNode) addPolicy(text string, of uint64) *api.PolicyVersion {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := &api.PolicyVersion{Version: uint64(len(n.policies)) + 1, Of: of, ByName: "atlas", At: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	out := api.Policy{Set: text != "", Text: text, Current: v}
	if p, err := policy.Parse([]byte(text)); err == nil {
		hash := p.Hash()
		v.Hash, out.Rules = hex.EncodeToString(hash[:]), len(p.Rules)
		if of == 0 {
			v.Of = v.Version
		}
	}
	n.policies = append(n.policies, out)
	return v
}

func (n *fakeNode) RollbackPolicy(_ context.Context, r api.PolicyRollback) (*api.PolicyVersion, error) {
	if r.To == nil || *r.To == 0 {
		return n.addPolicy("", 0), nil
	}
	p, err := n.PolicyText(context.Background(), *r.To)
	if err != nil {
		return nil, err
	}
	return n.addPolicy(p.Text, *r.To), nil
}

package coordinator

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
)

// ApprovalLife is how long a request without an invitation may wait for somebody who approves it.
const ApprovalLife = 10 * time.Minute

// CheckApproval verifies what a member can tell by itself of a request that nobody has approved yet: its form, its signature, the mesh, the
// clock, and that it shows no invitation. known is set for a node that the mesh has on record already. Errors: *Refused.
func (g *Group) CheckApproval(raw []byte) (req *invitation.Request, known *Member, err error) {
	if req, err = g.checkRequest(raw); err != nil {
		return nil, nil, err
	}
	if req.Invitation != "" {
		return nil, nil, refuse(RefusedRequest, "a request with an invitation needs no approval: phantom join TOKEN")
	}
	if m, ok := g.state.Load().Member(req.Public.NodeID()); ok {
		if m.Status != Active {
			return nil, nil, outcast(m)
		}
		known = m
	}
	return req, known, nil
}

// Approve admits the node that signed the request, on this member's word: the audit log says so. Approving twice changes nothing. The node
// gets its certificate with Enroll.
func (g *Group) Approve(ctx context.Context, rawRequest []byte) error {
	if _, _, err := g.CheckApproval(rawRequest); err != nil {
		return err
	}
	_, err := g.decide(ctx, opApprove, enrollRequest{Request: rawRequest})
	return err
}

// executeApprove is the leader's part.
func (g *Group) executeApprove(ctx context.Context, r *replica, asker identity.NodeID, b enrollRequest) ([]byte, error) {
	req, _, err := g.CheckApproval(b.Request)
	if err != nil {
		return nil, err
	}
	g.placeIn(req, r, asker)
	approve := func(certificate []byte) (Kind, any) {
		return KindApprove, approveBody{Request: sha256.Sum256(b.Request), Certificate: certificate}
	}
	return g.admit(ctx, r, asker, admission{req, g.draftApproved, approve, true})
}

// draftApproved drafts the certificate of a node that is not a member yet.
func (g *Group) draftApproved(r *replica, req *invitation.Request) (draft *certificate.Member, known *Member, err error) {
	r.machine.view(func(l *Ledger) { draft, known, err = DecideApproval(l, req, g.cfg.Now()) })
	return draft, known, err
}

// enrollStranger is enroll for whoever is at the other end of a stream. Without an invitation, whose proof is bound to its node, a request is
// worth something only in the hands of the node that signed it: the answer holds the mesh's gossip keys.
func (g *Group) enrollStranger(ctx context.Context, from identity.NodeID, raw []byte) ([]byte, error) {
	req, err := invitation.ParseRequest(raw)
	if err == nil && req.Invitation == "" && req.Public.NodeID() != from {
		return nil, refuse(RefusedRequest, "an approved request is answered only to the node that signed it")
	}
	return g.enroll(ctx, raw)
}

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// SignIssuer gets a node an issuer certificate of a depth, signed by Signer.
const SignIssuer Action = "sign-issuer"

// DecideIssuers gets an issuer certificate for every voter, for everybody who is about to become one, and for who stands by. The holder of the root key
// signs if it is here, and then the certificate allows to make further issuers; else any such parent signs a leaf. A leaf
// becomes a parent when the holder is back.
func DecideIssuers(s *State, o Observation) []Proposal {
	var out []Proposal
	wanted := append(slices.Clone(o.Voters), o.Staged...)
	wanted = append(wanted, successors(s, o)...)
	wanted = append(wanted, standby(s, o)...)
	done := map[identity.NodeID]bool{}
	for _, id := range wanted {
		if done[id] || !s.Active(id) || len(out) == proposalsPerTick {
			continue
		}
		done[id] = true
		depth, issuer := s.trust.IssuerDepth(id, o.Wall)
		signer, gives, ok := signerFor(s, o)
		switch {
		case !ok || (issuer && depth >= gives && !(depth == gives && ending(s, id, o.Wall))):
		case issuer && !slices.Contains(o.Voters, id):
			// A leaf is enough until it has its vote.
		default:
			out = append(out, Proposal{Action: SignIssuer, Node: id, Signer: signer, Depth: gives, Why: fmt.Sprintf("votes, or is about to (depth %d)", gives)})
		}
	}
	return out
}

// ending tells whether the last third of an issuer certificate has begun.
func ending(s *State, id identity.NodeID, now time.Time) bool {
	end, ok := s.trust.IssuerEnd(id)
	return ok && end.Sub(now) < certificate.IssuerLife/3
}

// signerFor returns who can sign an issuer now, and the depth it can give.
func signerFor(s *State, o Observation) (signer identity.NodeID, depth uint8, ok bool) {
	usable := func(id identity.NodeID) bool {
		return s.Active(id) && (id == o.Self || o.alive(id)) && !o.Unwilling[id]
	}
	if usable(s.Mesh.Holder) {
		return s.Mesh.Holder, certificate.DepthParent, true
	}
	parents := []identity.NodeID{o.Self}
	for _, i := range s.Issuers {
		parents = append(parents, i.ID)
	}
	for _, id := range parents {
		if d, issuer := s.trust.IssuerDepth(id, o.Wall); issuer && d >= certificate.DepthParent && usable(id) {
			return id, certificate.DepthLeaf, true
		}
	}
	return identity.NodeID{}, 0, false
}

type signRequest struct {
	_     struct{} `cbor:",toarray"`
	Node  identity.NodeID
	Depth uint8
}

// grantIssuer gets an issuer certificate signed, here or by another member, and proposes it.
func (g *Group) grantIssuer(ctx context.Context, r *replica, p Proposal) error {
	raw, err := g.signedIssuer(ctx, p)
	if err != nil {
		g.watch.unwilling[p.Signer] = time.Now()
		return err
	}
	command, err := g.author().Issuer(raw)
	if err != nil {
		return err
	}
	_, err = g.proposeCommand(ctx, r, command)
	var refusal *Refused
	if errors.As(err, &refusal) {
		// What the ledger does not take from this signer now (its clock may be wrong), it will not take in the next moment either.
		g.watch.unwilling[p.Signer] = time.Now()
	}
	if errors.Is(err, errConflict) {
		return nil
	}
	return err
}

func (g *Group) signedIssuer(ctx context.Context, p Proposal) ([]byte, error) {
	if p.Signer == g.self {
		return g.signIssuer(p.Node, p.Depth)
	}
	body, err := wire.Marshal(signRequest{Node: p.Node, Depth: p.Depth})
	if err != nil {
		return nil, err
	}
	a, err := g.ask(ctx, p.Signer, question{Op: opSignIssuer, Body: body}, g.cfg.Timing.RPC)
	if err == nil {
		err = a.err()
	}
	return a.Body, err
}

// signIssuerFor answers the leader of the group, and no other member.
func (g *Group) signIssuerFor(asker identity.NodeID, body []byte) ([]byte, error) {
	var req signRequest
	if err := wire.Unmarshal(body, &req); err != nil {
		return nil, refuse(RefusedRequest, "the question does not decode")
	}
	if !g.heeds(asker) {
		return nil, refuse(RefusedNotAllowed, "only a coordinator may ask for an issuer certificate")
	}
	return g.signIssuer(req.Node, req.Depth)
}

func (g *Group) signIssuer(id identity.NodeID, depth uint8) ([]byte, error) {
	s := g.state.Load()
	if !s.Active(id) {
		g.pokeState()
	}
	return g.author().SignIssuer(s, id, depth, g.root)
}

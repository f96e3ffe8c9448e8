package coordinator

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Reissue gets a member a new certificate, otherwise unchanged.
const Reissue Action = "reissue"

// DecideRenewal reissues the certificates of members that are there before two thirds of their life are over. Who is away gets its own when it
// returns: it asks (renew.go). One from a time that has not come nobody takes, so it is replaced whether its member is seen or not. And anybody's is reissued whose issuer was revoked: members know it was good before, but who comes to the mesh
// later does not.
func DecideRenewal(s *State, o Observation) []Proposal {
	var out []Proposal
	if _, issuer := s.trust.IssuerDepth(o.Self, o.Wall); !issuer {
		return nil // what this leader signs, nobody takes: its own issuer was revoked
	}
	outcast := revokedIssuers(s)
	for _, m := range s.Members {
		if m.Status != Active || len(out) == proposalsPerTick {
			continue
		}
		switch {
		case o.Wall.After(renewAt(m)) && (o.alive(m.ID) || m.ID == o.Self):
			out = append(out, Proposal{Action: Reissue, Node: m.ID, Why: "nearly two thirds of its life are over"})
		case fromAhead(m.Certificate, o.Wall):
			out = append(out, Proposal{Action: Reissue, Node: m.ID, Why: "a clock that was ahead has written it"})
		case betrayed(m, outcast) && !o.Wall.After(m.Certificate.NotAfter):
			out = append(out, Proposal{Action: Reissue, Node: m.ID, Why: "its issuer was revoked"})
		}
	}
	return out
}

// renewAt is from when on a member's certificate is renewed: somewhere between 15 and 16 24ths of its life, by its node ID, so that a mesh that
// was built in an afternoon does not renew everybody in one.
func renewAt(m *Member) time.Time {
	c := m.Certificate
	part := c.NotAfter.Sub(c.NotBefore) / 24
	return c.NotBefore.Add(15*part + part*time.Duration(binary.BigEndian.Uint16(m.ID[:2]))>>16)
}

// revokedIssuers are the issuers that were revoked; mostly none.
func revokedIssuers(s *State) []identity.NodeID {
	var out []identity.NodeID
	for _, i := range s.Issuers {
		if m, ok := s.Member(i.ID); ok && m.Status == Revoked {
			out = append(out, i.ID)
		}
	}
	return out
}

// betrayed tells whether one of the outcast signed a member's certificate. Parsing those of all members in every tick is what it avoids.
func betrayed(m *Member, outcast []identity.NodeID) bool {
	if len(outcast) == 0 {
		return false
	}
	_, signer, err := certificate.ParseMember(m.Raw)
	return err == nil && slices.Contains(outcast, signer)
}

// renew carries out what DecideRenewal proposed.
func (g *Group) renew(ctx context.Context, r *replica, p Proposal) error {
	if err := g.ready(ctx, r); err != nil {
		return err
	}
	return g.reissue(ctx, r, p.Node, change{name: "renewed", make: func(*certificate.Member) {}})
}

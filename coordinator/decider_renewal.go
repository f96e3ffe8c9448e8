package coordinator

import (
	"github.com/phantommesh/phantommesh/crypto/certificate"
)

// DecideRenewal reissues a member's certificate when two thirds of its life are over, and at once when its issuer was revoked:
// members know it was good before, but who comes to the mesh later does not.
func DecideRenewal(s *State, o Observation) []Proposal {
	var out []Proposal
	for _, m := range s.Members {
		if m.Status != Active || len(out) == proposalsPerTick {
			continue
		}
		c := m.Certificate
		renewAt := c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3)
		switch {
		case o.Now.After(renewAt):
			out = append(out, Proposal{Action: Reissue, Node: m.ID, Why: "two thirds of its life are over"})
		case betrayed(s, m):
			out = append(out, Proposal{Action: Reissue, Node: m.ID, Why: "its issuer was revoked"})
		}
	}
	return out
}

func betrayed(s *State, m *Member) bool {
	_, signer, err := certificate.ParseMember(m.Raw)
	if err != nil {
		return false
	}
	issuer, ok := s.Member(signer)
	return ok && issuer.Status == Revoked
}

package coordinator

import (
	"encoding/binary"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
)

// DecideRenewal reissues the certificates of members that are there before two thirds of their life are over. Who is away gets its own when it
// returns: it asks (renew.go). And anybody's is reissued whose issuer was revoked: members know it was good before, but who comes to the mesh
// later does not.
func DecideRenewal(s *State, o Observation) []Proposal {
	var out []Proposal
	for _, m := range s.Members {
		if m.Status != Active || len(out) == proposalsPerTick {
			continue
		}
		switch {
		case o.Now.After(renewAt(m)) && (o.alive(m.ID) || m.ID == o.Self):
			out = append(out, Proposal{Action: Reissue, Node: m.ID, Why: "nearly two thirds of its life are over"})
		case betrayed(s, m) && !o.Now.After(m.Certificate.NotAfter):
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

func betrayed(s *State, m *Member) bool {
	_, signer, err := certificate.ParseMember(m.Raw)
	if err != nil {
		return false
	}
	issuer, ok := s.Member(signer)
	return ok && issuer.Status == Revoked
}

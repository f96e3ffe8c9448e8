package coordinator

import (
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Author writes what a leader proposes: pure functions of the ledger, of its key and of one moment, with neither Raft nor a network. Group
// has it written and replicates it; the simulator's decide tier applies it to ledgers without Raft.
type Author struct {
	Key  *identity.Key // the leader's; signs
	Now  time.Time     // of its clock
	Rand io.Reader     // for gossip keys
}

func (g *Group) author() Author { return Author{Key: g.cfg.Key, Now: g.cfg.Now(), Rand: g.cfg.Rand} }

// Found returns the first command of a ledger, with this node as the only member. f is complete and its names are clean.
func (a Author) Found(f Founding, root *identity.RootKey) (Command, error) {
	return foundingCommand(Config{Key: a.Key, Rand: a.Rand, Now: func() time.Time { return a.Now }}, f, root)
}

// Invite returns the command that makes an invitation; of inv, ID, Key, Uses, Expires, Tags and Name count.
func (a Author) Invite(asker identity.NodeID, inv Invitation) (Command, error) {
	return newCommand(KindInvite, a.Now, asker, newInviteBody(inv))
}

func newInviteBody(i Invitation) inviteBody {
	return inviteBody{ID: i.ID, Key: i.Key, Uses: i.Uses, Expires: i.Expires.UnixMilli(), Tags: i.Tags, Name: i.Name}
}

// Cancel returns the command that makes an invitation worthless.
func (a Author) Cancel(asker identity.NodeID, id string) (Command, error) {
	return newCommand(KindCancel, a.Now, asker, cancelBody{ID: id})
}

// Enroll answers a signed request that shows an invitation: with the command that admits its node, or with the member that it is already.
// Errors: *Refused.
func (a Author) Enroll(l *Ledger, asker identity.NodeID, raw []byte) (Command, *Member, error) {
	req, err := checkRequest(l.state.Mesh.ID, a.Now, raw)
	if err != nil {
		return Command{}, nil, err
	}
	draft, known, err := DecideAdmission(l, req, a.Now)
	if err != nil || known != nil {
		return Command{}, known, err
	}
	signed, err := certificate.SignMember(a.Key, *draft)
	if err != nil {
		return Command{}, nil, fmt.Errorf("coordinator: sign the certificate of %s: %w", req.Public.NodeID().Short(), err)
	}
	c, err := newCommand(KindAdmit, a.Now, asker, admitBody{Invitation: req.Invitation, Request: sha256.Sum256(raw), Certificate: signed})
	return c, nil, err
}

// EndMembership returns the command that revokes a node, or that takes note of its leaving; rev needs Node, Reason and Left.
func (a Author) EndMembership(s *State, asker identity.NodeID, rev certificate.Revocation) (Command, error) {
	rev.Mesh, rev.At = s.Mesh.ID, a.Now
	raw, err := certificate.SignRevocation(a.Key, rev)
	if err != nil {
		return Command{}, refuse(RefusedRequest, "the reason must be one line of at most %d bytes", maxReasonBytes)
	}
	return newCommand(KindRevoke, a.Now, asker, revokeBody{Revocation: raw})
}

// Reissue returns the command with a member's next certificate, changed by edit; what names the change in the audit log. A zero asker
// is the group itself.
func (a Author) Reissue(m *Member, asker identity.NodeID, what string, edit func(*certificate.Member)) (Command, error) {
	next := *m.Certificate
	edit(&next)
	next.NotBefore, next.NotAfter, next.Serial = a.Now, a.Now.Add(certificate.MemberLife), serial(a.Now, m.Certificate.Serial)
	raw, err := certificate.SignMember(a.Key, next)
	if err != nil {
		return Command{}, fmt.Errorf("coordinator: sign the certificate of %s: %w", m.ID.Short(), err)
	}
	return newCommand(KindReissue, a.Now, asker, reissueBody{Certificate: raw, Replaces: m.Certificate.Serial, Change: what})
}

// SignIssuer signs an issuer certificate for a member: with the root key if it is to be a parent, else with the author's own.
func (a Author) SignIssuer(s *State, id identity.NodeID, depth uint8, root *identity.RootKey) ([]byte, error) {
	m, ok := s.Member(id)
	if !ok || m.Status != Active {
		return nil, refuse(RefusedNoMember, "%s is not an active member", id.Short())
	}
	issuer := certificate.Issuer{Public: m.Certificate.Public, Mesh: s.Mesh.ID, Depth: depth, NotBefore: a.Now, NotAfter: a.Now.Add(certificate.IssuerLife),
		Serial: serial(a.Now, 0)}
	if depth == certificate.DepthParent {
		if root == nil {
			return nil, refuse(RefusedNotAllowed, "this node does not hold the mesh's root key")
		}
		return certificate.SignIssuerByRoot(root, issuer)
	}
	return certificate.SignIssuer(a.Key, issuer)
}

// Issuer returns the command that takes an issuer certificate into the ledger.
func (a Author) Issuer(raw []byte) (Command, error) {
	return newCommand(KindIssuer, a.Now, identity.NodeID{}, issuerBody{Certificate: raw})
}

// Keyring returns the command with the next gossip keys: the old one with a new one behind it (announce), or the announced one alone.
func (a Author) Keyring(s *State, announce bool) (Command, error) {
	old := s.Keyring
	keys := old.Keys[len(old.Keys)-1:]
	if announce {
		fresh := make([]byte, gossipKeyBytes)
		if _, err := io.ReadFull(a.Rand, fresh); err != nil {
			return Command{}, fmt.Errorf("coordinator: read randomness: %w", err)
		}
		keys = [][]byte{old.Keys[0], fresh}
	}
	return newCommand(KindKeyring, a.Now, identity.NodeID{}, keyringBody{Keys: keys, Replaces: old.Version})
}

// Region returns the command that a proposal to ElectRegion stands for.
func (a Author) Region(p Proposal) (Command, error) {
	return newCommand(KindRegion, a.Now, identity.NodeID{}, regionBody{Region: p.Region, Coordinator: p.Node, Term: p.Term, Why: p.Why})
}

// Relay returns the command that a proposal to AppointRelay or DismissRelay stands for.
func (a Author) Relay(p Proposal) (Command, error) {
	return newCommand(KindRelay, a.Now, identity.NodeID{}, relayBody{Region: p.Region, Node: p.Node, Appoint: p.Action == AppointRelay, Why: p.Why})
}

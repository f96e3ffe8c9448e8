package coordinator

import (
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/invitation"
)

// The decisions of this file, and those on leases (decider_leases.go), are like the deciders of the table functions of the ledger, what was seen, here
// a request, and the time; they are taken when somebody asks and not in a tick, so they have no row. Until one of them lets it in, a machine is in
// quarantine: it has no certificate, and nobody answers it anything but enroll and pair.

// DecideAdmission drafts the certificate of a machine that shows an invitation, or refuses it (*Refused). known is set instead for a node that is in
// already. A machine without an invitation gets in by approval: DecideApproval.
func DecideAdmission(l *Ledger, req *invitation.Request, now time.Time) (draft *certificate.Member, known *Member, err error) {
	id := req.Public.NodeID()
	known, _ = l.State().Member(id)
	if known != nil && known.Status != Active {
		return nil, nil, outcast(known)
	}
	if req.Invitation == "" { // admitted by approval, or not at all
		if known == nil {
			err = refuse(RefusedInvitation, "nobody has approved this machine yet (phantom approve CODE on a member), and it shows no invitation")
		}
		return nil, known, err
	}
	inv, ok := l.Invitation(req.Invitation)
	if !ok {
		return nil, nil, refuse(RefusedInvitation, "this invitation is not known to the mesh: it was cancelled, or is long past; ask for a new one")
	}
	if !invitation.VerifyProof(inv.Key, req.Mesh, id, req.Proof) {
		return nil, nil, refuse(RefusedInvitation, "the invitation's secret is wrong; copy the whole token again")
	}
	if known != nil { // its answer was lost, or it joins twice: no second use
		return nil, known, nil
	}
	if r := l.backed(inv); r != nil {
		return nil, nil, r
	}
	if r := admissible(inv, now); r != nil {
		return nil, nil, r
	}
	draft, err = l.draftMember(inv, req, now)
	return draft, nil, err
}

// backed refuses an invitation of a member that was revoked since: it must not come back through a door it left open.
func (l *Ledger) backed(inv Invitation) *Refused {
	if by, ok := l.state.Member(inv.By); ok && by.Status == Revoked {
		return refuse(RefusedInvitation, "the member that made this invitation was revoked since; ask another one for a new invitation")
	}
	return nil
}

func (l *Ledger) draftMember(inv Invitation, req *invitation.Request, now time.Time) (*certificate.Member, error) {
	addr, err := l.nextLease(now)
	if err != nil {
		return nil, err
	}
	want := req.Name
	if inv.Name != "" {
		want = inv.Name
	}
	region := req.Region
	if certificate.CheckLabel(region) != nil {
		region = ""
	}
	id := req.Public.NodeID()
	return &certificate.Member{Public: req.Public, Mesh: l.State().Mesh.ID, Name: l.freeName(want, id), IPv4: addr,
		Tags: certificate.SortTags(inv.Tags), Region: region, NotBefore: now, NotAfter: now.Add(certificate.MemberLife), Serial: serial(now, 0)}, nil
}

// DecideApproval drafts the certificate of a machine that a member vouches for. known is set instead for a node that is in already.
func DecideApproval(l *Ledger, req *invitation.Request, now time.Time) (draft *certificate.Member, known *Member, err error) {
	m, ok := l.State().Member(req.Public.NodeID())
	switch {
	case ok && m.Status != Active:
		return nil, nil, outcast(m)
	case ok:
		return nil, m, nil
	}
	draft, err = l.draftMember(Invitation{}, req, now)
	return draft, nil, err
}

func admissible(inv Invitation, at time.Time) *Refused {
	switch {
	case !at.Before(inv.Expires):
		return refuse(RefusedInvitation, "this invitation expired on %s; ask for a new one", inv.Expires.Format("2006-01-02 15:04 MST"))
	case inv.Uses == 0:
		return refuse(RefusedInvitation, "this invitation was already used; ask for a new one (phantom invite on any member)")
	}
	return nil
}

package coordinator

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/config"
)

// put stores a member and brings the derived maps up to date.
func (l *Ledger) put(m *Member) {
	if old, ok := l.state.Member(m.ID); ok && old.Status == Active {
		delete(l.byName, old.Certificate.Name)
	}
	l.state = l.state.withMember(m)
	l.index(m)
}

func (l *Ledger) index(m *Member) {
	held := lease{holder: m.ID}
	if m.Status == Active {
		l.byName[m.Certificate.Name] = m.ID
	} else {
		held.free = m.Since.Add(leaseRest)
	}
	// An address that has gone to a successor stays with it, and rests from its last holder on, in whatever order the
	// members are read.
	cur, ok := l.leases[m.Certificate.IPv4]
	if !ok || cur.holder == m.ID || (!cur.free.IsZero() && (held.free.IsZero() || held.free.After(cur.free))) {
		l.leases[m.Certificate.IPv4] = held
	}
	l.byIPv6[m.Certificate.IPv6()] = m.ID
}

// admit takes in a member on an invitation. The leader has checked the request and its proof; here is what may race.
func (l *Ledger) admit(s step[admitBody]) (Result, string) {
	m, err := l.state.trust.VerifyMember(s.body.Certificate, s.at)
	if err != nil {
		return refused(RefusedRequest, "the member certificate does not verify: %v", err), ""
	}
	id := m.NodeID()
	subject := fmt.Sprintf("%s %s %s invitation %s", id, m.Name, m.IPv4, s.body.Invitation)
	inv, ok := l.invitations[s.body.Invitation]
	if !ok {
		return refused(RefusedInvitation, "this invitation is not known to the mesh: it was cancelled, or is long past; ask for a new one"), subject
	}
	if old, ok := l.state.Member(id); ok {
		return readmit(old, s.body.Invitation), subject
	}
	if r := admissible(inv, s.at); r != nil {
		return Result{Refused: r}, subject
	}
	if r := l.fits(m, s.at); r != nil {
		return Result{Refused: r}, subject
	}
	inv.Uses--
	l.invitations[inv.ID] = inv
	member := &Member{ID: id, Certificate: m, Raw: s.body.Certificate, Status: Active, Version: s.version, Since: s.at, Invitation: inv.ID}
	l.put(member)
	return Result{Member: member}, subject
}

// approve takes in a member on the word of another. The leader has checked the request; here is what may race.
func (l *Ledger) approve(s step[approveBody]) (Result, string) {
	m, err := l.state.trust.VerifyMember(s.body.Certificate, s.at)
	if err != nil {
		return refused(RefusedRequest, "the member certificate does not verify: %v", err), ""
	}
	id := m.NodeID()
	subject := fmt.Sprintf("%s %s %s", id, m.Name, m.IPv4)
	if old, ok := l.state.Member(id); ok {
		if old.Status != Active {
			return Result{Refused: outcast(old)}, subject
		}
		return Result{Member: old}, subject
	}
	if !l.state.Active(s.asker) {
		return refused(RefusedNotAllowed, "%s is not an active member of the mesh", s.asker.Short()), subject
	}
	if r := l.fits(m, s.at); r != nil {
		return Result{Refused: r}, subject
	}
	member := &Member{ID: id, Certificate: m, Raw: s.body.Certificate, Status: Active, Version: s.version, Since: s.at}
	l.put(member)
	return Result{Member: member}, subject
}

// readmit answers a node that is in the ledger already: its answer may have been lost on the way.
func readmit(old *Member, invitation string) Result {
	switch {
	case old.Status != Active:
		return Result{Refused: outcast(old)}
	case old.Invitation == invitation:
		return Result{Member: old}
	}
	return refused(refusedConflict, "this node is a member already")
}

func outcast(m *Member) *Refused {
	if m.Status == Left {
		return refuse(RefusedRevoked, "this machine's identity left the mesh on %s and cannot return; "+
			"remove its state folder so that it makes a new identity, then join again", m.Since.Format(time.DateOnly))
	}
	return refuse(RefusedRevoked, "this machine was revoked on %s; only somebody in the mesh can invite it again, "+
		"with a new identity", m.Since.Format(time.DateOnly))
}

// fits checks what two admissions can collide in. Conflicts are tried again by the leader with another name or address.
func (l *Ledger) fits(m *certificate.Member, at time.Time) *Refused {
	if len(l.state.Members) >= maxMembers {
		return refuse(RefusedFull, "the mesh is full: its ledger holds %d members", maxMembers)
	}
	if !validName(m.Name) {
		return refuse(RefusedRequest, "%q is not a name: 1 to 63 of a-z, 0-9 and inner hyphens", m.Name)
	}
	if r := validTags(m.Tags); r != nil {
		return r
	}
	if _, taken := l.byName[m.Name]; taken {
		return refuse(refusedConflict, "the name %s is taken", m.Name)
	}
	if !usable(l.state.Mesh.IPv4, m.IPv4) {
		return refuse(RefusedRequest, "address %s is not in the mesh's prefix %s", m.IPv4, l.state.Mesh.IPv4)
	}
	if !l.free(m.IPv4, at) {
		return refuse(refusedConflict, "the address %s is taken", m.IPv4)
	}
	// 80 bits of SHA-256: this is somebody trying, or a broken random source.
	if _, taken := l.byIPv6[m.IPv6()]; taken {
		return refuse(RefusedRequest, "another member has the IPv6 address %s; make a new identity", m.IPv6())
	}
	// Tunnels and path checks know nodes by this key: two holders would be one to them. Who asks for another's has not even proven to have it.
	if slices.ContainsFunc(l.state.Members, func(o *Member) bool { return o.Certificate.Public.WireGuard == m.Public.WireGuard }) {
		return refuse(RefusedRequest, "another member has or had the WireGuard key %s; make a new identity", m.Public.WireGuard)
	}
	return nil
}

// revoke ends a membership, on a signed revocation.
func (l *Ledger) revoke(s step[revokeBody]) (Result, string) {
	rev, err := certificate.ParseRevocation(s.body.Revocation)
	if err != nil {
		return refused(RefusedRequest, "the revocation does not decode"), ""
	}
	subject := rev.Node.String() + " " + rev.Reason
	old, ok := l.state.Member(rev.Node)
	if !ok {
		return refused(RefusedNoMember, "%s is not a member", rev.Node.Short()), subject
	}
	if old.Status != Active {
		return Result{Member: old}, subject
	}
	if l.state.ActiveMembers() == 1 {
		return refused(RefusedNotAllowed, "the last member cannot be revoked"), subject
	}
	trust, err := l.state.trust.WithRevocation(s.body.Revocation)
	if err != nil {
		return refused(RefusedRequest, "the revocation does not verify: %v", err), subject
	}
	status := Revoked
	if rev.Left {
		status = Left
	}
	next := *old
	next.Status, next.Version, next.Since, next.Revocation = status, s.version, s.at, s.body.Revocation
	if _, issuer := l.state.Issuer(rev.Node); issuer && !rev.Left {
		// What the revoked issuer signs from now on is void; whom the ledger took in before stays.
		trust = trust.WithMembers(l.state.activeRaw()...)
	}
	l.put(&next)
	l.state = l.state.withTrust(trust)
	return Result{Member: &next}, subject
}

// reissue replaces a member's certificate: same node, same address, perhaps another name or tags.
func (l *Ledger) reissue(s step[reissueBody]) (Result, string) {
	m, err := l.state.trust.VerifyMember(s.body.Certificate, s.at)
	if err != nil {
		return refused(RefusedRequest, "the member certificate does not verify: %v", err), ""
	}
	id := m.NodeID()
	subject := fmt.Sprintf("%s %s %s", id, m.Name, s.body.Change)
	old, ok := l.state.Member(id)
	if !ok || old.Status != Active {
		return refused(RefusedNoMember, "%s is not an active member", id.Short()), subject
	}
	if old.Certificate.Serial != s.body.Replaces {
		return refused(refusedConflict, "the certificate of %s changed meanwhile", id.Short()), subject
	}
	if m.IPv4 != old.Certificate.IPv4 || m.Serial <= old.Certificate.Serial {
		return refused(RefusedRequest, "a new certificate keeps its address and has a higher serial"), subject
	}
	if r := validTags(m.Tags); r != nil || !validName(m.Name) {
		return refused(RefusedRequest, "name or tags are not valid"), subject
	}
	if holder, taken := l.byName[m.Name]; taken && holder != id {
		return refused(refusedConflict, "the name %s is taken", m.Name), subject
	}
	next := *old
	next.Certificate, next.Raw, next.Version = m, s.body.Certificate, s.version
	l.put(&next)
	return Result{Member: &next}, subject
}

// freeName returns want, or want-2, want-3 ... whichever is the first not taken by an active member other than self.
func (l *Ledger) freeName(want string, self identity.NodeID) string {
	want = cleanName(want)
	for n := 1; ; n++ {
		name := want
		if n > 1 {
			suffix := fmt.Sprintf("-%d", n)
			name = strings.TrimRight(want[:min(len(want), maxNameBytes-len(suffix))], "-") + suffix
		}
		if holder, taken := l.byName[name]; !taken || holder == self {
			return name
		}
	}
}

var errPrefix = errors.New("the mesh's IPv4 prefix must be private or shared space between /8 and /30, without host bits")

// checkPrefix tells what keeps a prefix from being a mesh's. Every member routes it into the mesh, so a prefix of the internet would lead that
// away.
func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 30 || p.Masked() != p || !config.IsPrivateIPv4(p) {
		return fmt.Errorf("%w: %s", errPrefix, p)
	}
	return nil
}

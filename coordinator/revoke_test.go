package coordinator

import (
	"net/netip"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Found by the simulator's decide tier (part group, seed 996): a leader of two was revoked, and the other could never be elected, since the
// vote that it needed was of somebody whom nobody hears.
func TestRevocationLeavesSomebodyToLead(t *testing.T) {
	l, _ := founded(t, "10.0.0.0/24")
	put := func(i int, status Status) identity.NodeID {
		m := &Member{ID: testKey(i).ID(), Status: status, Version: 2}
		raw := l.certificateFor(t, i, string(rune('a'+i)), netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), day0)
		var err error
		if m.Certificate, err = l.state.trust.VerifyMember(raw, day0); err != nil {
			t.Fatal(err)
		}
		l.put(m)
		return m.ID
	}
	a, b, c := testKey(0).ID(), put(1, Active), put(2, Active)
	out := put(3, Revoked)
	for _, tc := range []struct {
		name         string
		voters       []identity.NodeID
		leader, node identity.NodeID
		may          bool
	}{
		{"the only one", []identity.NodeID{a}, a, a, false},
		{"not a voter", []identity.NodeID{a}, a, b, true},
		{"the other of two", []identity.NodeID{a, b}, a, b, true},
		{"the leader of two", []identity.NodeID{a, b}, a, a, false},
		{"the leader of three", []identity.NodeID{a, b, c}, a, a, true},
		{"another of three, one is out", []identity.NodeID{a, b, out}, a, b, false},
		{"another of four, one is out", []identity.NodeID{a, b, c, out}, a, b, true},
		{"the leader of four, one is out", []identity.NodeID{a, b, c, out}, a, a, false},
	} {
		if err := MayRevoke(l.state, tc.voters, tc.leader, tc.node); (err == nil) != tc.may {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// Found by the simulator's decide tier (part group, seed 815): a leader that was revoked had made the other voter an issuer that held the
// whole log, and nobody heard that one any more.
func TestVoterWhoseIssuerWasRevokedIsHeard(t *testing.T) {
	i := newIssuing(t)
	raw, err := certificate.SignMember(testKey(0), certificate.Member{Public: *testKey(2).Public(), Mesh: i.ledger.state.Mesh.ID, Name: "two",
		IPv4: netip.MustParseAddr("10.0.0.3"), NotBefore: day0, NotAfter: day0.Add(certificate.MemberLife), Serial: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := i.apply(KindAdmit, day0, admitBody{Invitation: "i", Certificate: raw}); err != nil {
		t.Fatal(err)
	}
	one, two := testKey(1).ID(), testKey(2).ID()
	if err := i.issue(1, certificate.DepthParent, day0, day0); err != nil {
		t.Fatal(err)
	}
	leaf, err := Author{Key: testKey(1), Now: day0}.SignIssuer(i.ledger.state, two, certificate.DepthLeaf, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.apply(KindIssuer, day0, issuerBody{Certificate: leaf}); err != nil {
		t.Fatal(err)
	}
	if !CountsAsCoordinator(i.ledger.state, nil, two, day0) {
		t.Fatal("the setting is wrong")
	}
	if err := i.apply(KindRevoke, day0, revokeBody{Revocation: revocation(t, i.ledger, 1, false, day0)}); err != nil {
		t.Fatal(err)
	}
	s, voters := i.ledger.state, []identity.NodeID{testKey(0).ID(), one, two}
	switch {
	case !CountsAsCoordinator(s, voters, two, day0):
		t.Error("a voter is not heard, though it is a member")
	case CountsAsCoordinator(s, nil, two, day0):
		t.Error("heard by who does not know it as a voter, without a certificate that counts")
	case CountsAsCoordinator(s, voters, one, day0):
		t.Error("a revoked voter is heard")
	}
}

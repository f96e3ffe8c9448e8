package coordinator

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

var day0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// founded returns a ledger with a founder (key 0) in a small prefix, and the root.
func founded(t testing.TB, prefix string) (*Ledger, *identity.RootKey) {
	t.Helper()
	root, err := identity.GenerateRoot(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Key: testKey(0), Rand: rand.Reader, Now: func() time.Time { return day0 }}
	c, err := foundingCommand(cfg, Founding{MeshName: "lab", NodeName: "atlas", IPv4: netip.MustParsePrefix(prefix)}, root)
	if err != nil {
		t.Fatal(err)
	}
	l := NewLedger()
	if err := l.Apply(c, foundingIndex).Err(); err != nil {
		t.Fatal(err)
	}
	return l, root
}

func must(t testing.TB, kind Kind, at time.Time, asker identity.NodeID, body any) Command {
	t.Helper()
	c, err := newCommand(kind, at, asker, body)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (l *Ledger) certificateFor(t testing.TB, i int, name string, addr netip.Addr, at time.Time) []byte {
	t.Helper()
	raw, err := certificate.SignMember(testKey(0), certificate.Member{Public: *testKey(i).Public(), Mesh: l.state.Mesh.ID, Name: name, IPv4: addr,
		NotBefore: at, NotAfter: at.Add(certificate.MemberLife), Serial: serial(at, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func revocation(t testing.TB, l *Ledger, i int, left bool, at time.Time) []byte {
	t.Helper()
	raw, err := certificate.SignRevocation(testKey(0), certificate.Revocation{Mesh: l.state.Mesh.ID, Node: testKey(i).ID(), At: at, Reason: "test", Left: left})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// checkInvariants is what must hold after every command, whatever it was.
func checkInvariants(t testing.TB, l *Ledger) {
	t.Helper()
	names, addrs, uses := map[string]bool{}, map[netip.Addr]bool{}, map[string]uint32{}
	for _, m := range l.state.Members {
		if m.Invitation != "" {
			uses[m.Invitation]++
		}
		if m.Status != Active {
			if !l.state.trust.Revoked(m.ID) {
				t.Fatalf("%s is %v but not revoked in trust", m.ID.Short(), m.Status)
			}
			continue
		}
		c := m.Certificate
		if names[c.Name] || addrs[c.IPv4] || addrs[c.IPv6()] {
			t.Fatalf("name %s or address %s twice", c.Name, c.IPv4)
		}
		names[c.Name], addrs[c.IPv4], addrs[c.IPv6()] = true, true, true
		if !usable(l.state.Mesh.IPv4, c.IPv4) {
			t.Fatalf("address %s leased", c.IPv4)
		}
		if l.byName[c.Name] != m.ID || l.leases[c.IPv4] != (lease{holder: m.ID}) {
			t.Fatalf("indexes of %s are wrong", c.Name)
		}
	}
	for id, n := range uses {
		if inv, ok := l.invitations[id]; ok && inv.Total-inv.Uses != n {
			t.Fatalf("invitation %s admitted %d on %d uses", id, n, inv.Total-inv.Uses)
		}
	}
	for _, r := range l.state.Regions.List {
		if r.Term > l.state.nextTerm(r.Name)-1 || l.state.Regions.Floor > l.state.nextTerm(r.Name)-1 {
			t.Fatalf("a term of %s comes again", r.Name)
		}
	}
	if l.state.ActiveMembers() == 0 {
		t.Fatal("no member left")
	}
	if err := l.audit.export().Verify(); err != nil {
		t.Fatal(err)
	}
}

// TestLedgerKeepsItsInvariants applies random commands to two ledgers, one of which goes through a snapshot now and then, and
// compares them.
func TestLedgerKeepsItsInvariants(t *testing.T) {
	if testing.Short() {
		t.Skip("no goroutine but its own")
	}
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := mrand.New(mrand.NewPCG(seed, 1))
			a, _ := founded(t, "10.0.0.0/28")
			b, at := a.reload(t), day0
			var issued [][]byte // certificates that may come again
			for index := uint64(foundingIndex + 1); index < 150; index++ {
				at = at.Add(time.Duration(random.IntN(4*3600)) * time.Second)
				c := randomCommand(t, random, a, index, at, &issued)
				ra, rb := a.Apply(c, index), b.Apply(c, index)
				if (ra.Err() == nil) != (rb.Err() == nil) || (ra.Refused != nil && *ra.Refused != *rb.Refused) {
					t.Fatalf("%v: %v against %v", c.Kind, ra.Err(), rb.Err())
				}
				checkInvariants(t, a)
				if random.IntN(10) == 0 {
					b = b.reload(t)
				}
				if a.state.Digest() != b.state.Digest() || a.audit.head() != b.audit.head() || a.applied != b.applied {
					t.Fatalf("ledgers differ after entry %d (%v)", index, c.Kind)
				}
			}
		})
	}
}

func (l *Ledger) reload(t testing.TB) *Ledger {
	t.Helper()
	var buf bytes.Buffer
	if err := l.Encode(&buf); err != nil {
		t.Fatal(err)
	}
	out, err := DecodeLedger(&buf)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func randomCommand(t testing.TB, random *mrand.Rand, l *Ledger, index uint64, at time.Time, issued *[][]byte) Command {
	asker := testKey(random.IntN(4)).ID()
	id := fmt.Sprint("inv-", index-uint64(random.IntN(int(min(index, 20))))) // one of those that may have been made lately
	who := 1 + random.IntN(12)
	switch random.IntN(10) {
	case 8:
		return must(t, KindRelay, at, asker, relayBody{Region: []string{DefaultRegion, "region-0"}[random.IntN(2)], Node: testKey(random.IntN(6)).ID(), Appoint: random.IntN(3) > 0})
	case 7:
		region := fmt.Sprint("region-", random.IntN(2))
		if random.IntN(2) == 0 {
			region = DefaultRegion
		}
		body := regionBody{Region: region, Term: l.state.nextTerm(region) + uint64(random.IntN(4)/3), Coordinator: testKey(random.IntN(6)).ID()}
		if random.IntN(4) == 0 {
			body.Coordinator = identity.NodeID{}
		}
		return must(t, KindRegion, at, asker, body)
	case 0, 1:
		return must(t, KindInvite, at, asker, inviteBody{ID: fmt.Sprint("inv-", index), Key: [32]byte{1}, Uses: uint32(random.IntN(4)), Expires: at.Add(time.Duration(random.IntN(48)) * time.Hour).UnixMilli()})
	case 2:
		return must(t, KindCancel, at, asker, cancelBody{ID: id})
	case 3:
		return must(t, KindRevoke, at, asker, revokeBody{Revocation: revocation(t, l, who, random.IntN(2) == 0, at)})
	case 4:
		if len(*issued) > 0 { // an old admission comes again
			return must(t, KindAdmit, at, asker, admitBody{Invitation: id, Certificate: (*issued)[random.IntN(len(*issued))]})
		}
	case 5:
		if m, ok := l.state.Member(testKey(who).ID()); ok {
			raw := l.certificateFor(t, who, fmt.Sprint("name-", random.IntN(6)), m.Certificate.IPv4, at)
			return must(t, KindReissue, at, asker, reissueBody{Certificate: raw, Replaces: m.Certificate.Serial, Change: "renamed"})
		}
	case 6:
		return Command{Format: uint8(random.IntN(2)), Kind: Kind(random.IntN(14)), Time: at.UnixMilli(), Asker: asker, Body: []byte("noise")}
	}
	addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(17))})
	if next, err := l.nextLease(at); err == nil && random.IntN(3) > 0 {
		addr = next
	}
	raw := l.certificateFor(t, who, fmt.Sprint("name-", random.IntN(6)), addr, at)
	*issued = append(*issued, raw)
	return must(t, KindAdmit, at, asker, admitBody{Invitation: id, Certificate: raw})
}

func TestLeasesAreTheLowestFreeAndRest(t *testing.T) {
	l, _ := founded(t, "10.0.0.0/29") // .1 to .6
	index := uint64(foundingIndex)
	apply := func(kind Kind, at time.Time, body any) Result {
		index++
		return l.Apply(must(t, kind, at, testKey(0).ID(), body), index)
	}
	if r := apply(KindInvite, day0, inviteBody{ID: "many", Key: [32]byte{1}, Uses: 100, Expires: day0.Add(240 * time.Hour).UnixMilli()}); r.Err() != nil {
		t.Fatal(r.Err())
	}
	admit := func(i int, at time.Time) string {
		t.Helper()
		addr, err := l.nextLease(at)
		if err != nil {
			return err.(*Refused).Reason
		}
		if r := apply(KindAdmit, at, admitBody{Invitation: "many", Certificate: l.certificateFor(t, i, fmt.Sprint("n", i), addr, at)}); r.Err() != nil {
			t.Fatal(r.Err())
		}
		return addr.String()
	}
	for i, want := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"} {
		if got := admit(i+1, day0); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	if r := apply(KindRevoke, day0, revokeBody{Revocation: revocation(t, l, 2, false, day0)}); r.Err() != nil {
		t.Fatal(r.Err())
	}
	if got := admit(5, day0.Add(time.Hour)); got != "10.0.0.6" {
		t.Errorf("%s: a resting address was given away", got)
	}
	if got := admit(6, day0.Add(2*time.Hour)); got[:21] != "no address is free in" {
		t.Error(got)
	}
	if got := admit(6, day0.Add(leaseRest)); got != "10.0.0.3" {
		t.Errorf("%s, want the rested 10.0.0.3", got)
	}
	checkInvariants(t, l)
	checkInvariants(t, l.reload(t))
}

func TestNewerFormatFreezesInsteadOfGuessing(t *testing.T) {
	l, _ := founded(t, "10.0.0.0/24")
	before := l.state.Digest()
	c := Command{Format: LedgerFormat + 1, Kind: 77, Time: day0.UnixMilli(), Body: []byte("whatever")}
	if r := l.Apply(c, 3); !errors.Is(r.Err(), ErrTooOld) {
		t.Fatal(r.Err())
	}
	known := must(t, KindInvite, day0, testKey(0).ID(), inviteBody{ID: "x", Key: [32]byte{1}, Uses: 1, Expires: day0.Add(time.Hour).UnixMilli()})
	if r := l.Apply(known, 4); !errors.Is(r.Err(), ErrTooOld) || len(l.invitations) != 0 || l.applied != foundingIndex {
		t.Error("applied an entry after one it did not understand")
	}
	if err := l.Encode(&bytes.Buffer{}); !errors.Is(err, ErrTooOld) {
		t.Error("a frozen ledger must not become a snapshot: the log would lose the entry")
	}
	if l.state.Digest() != before {
		t.Error("state changed")
	}
}

func TestRevokedIssuerKeepsWhomItAdmitted(t *testing.T) {
	l, root := founded(t, "10.0.0.0/24")
	index, mesh := uint64(foundingIndex), l.state.Mesh.ID
	apply := func(kind Kind, body any) Result {
		index++
		return l.Apply(must(t, kind, day0, testKey(0).ID(), body), index)
	}
	apply(KindInvite, inviteBody{ID: "i", Key: [32]byte{1}, Uses: 9, Expires: day0.Add(time.Hour).UnixMilli()})
	apply(KindAdmit, admitBody{Invitation: "i", Certificate: l.certificateFor(t, 1, "one", netip.MustParseAddr("10.0.0.2"), day0)})
	issuer, err := certificate.SignIssuerByRoot(root, certificate.Issuer{Public: *testKey(1).Public(), Mesh: mesh, Depth: certificate.DepthParent,
		NotBefore: day0, NotAfter: day0.Add(certificate.IssuerLife), Serial: 1})
	if err != nil {
		t.Fatal(err)
	}
	if r := apply(KindIssuer, issuerBody{Certificate: issuer}); r.Err() != nil {
		t.Fatal(r.Err())
	}
	// The second issuer revokes the first, which has signed everybody's certificate.
	raw, err := certificate.SignRevocation(testKey(1), certificate.Revocation{Mesh: mesh, Node: testKey(0).ID(), At: day0, Reason: "stolen"})
	if err != nil {
		t.Fatal(err)
	}
	if r := apply(KindRevoke, revokeBody{Revocation: raw}); r.Err() != nil {
		t.Fatal(r.Err())
	}
	for _, ledger := range []*Ledger{l, l.reload(t)} {
		one, _ := ledger.state.Member(testKey(1).ID())
		if _, err := ledger.state.trust.VerifyMember(one.Raw, day0); err != nil {
			t.Errorf("a member admitted before lost its place: %v", err)
		}
		evil := ledger.certificateFor(t, 2, "evil", netip.MustParseAddr("10.0.0.9"), day0)
		if _, err := ledger.state.trust.VerifyMember(evil, day0); !errors.Is(err, certificate.ErrUntrustedIssuer) {
			t.Errorf("the revoked issuer still makes members: %v", err)
		}
		if p := DecideRenewal(ledger.state, Observation{Self: one.ID, Now: day0, Wall: day0}); len(p) != 1 || p[0].Node != one.ID {
			t.Errorf("its certificate is not renewed: %v", p)
		}
	}
}

func TestNames(t *testing.T) {
	l, _ := founded(t, "10.0.0.0/24")
	for want, got := range map[string]string{
		"atlas": "atlas-2", "Nas.fritz.box": "nas", "  ": "node", "": "node", "-x-": "x", "büro pc": "b-ro-pc",
	} {
		if name := l.freeName(want, identity.NodeID{}); name != got || !validName(name) {
			t.Errorf("%q became %q, want %q", want, name, got)
		}
	}
	if l.freeName("atlas", testKey(0).ID()) != "atlas" {
		t.Error("a node's own name is not taken")
	}
	long := slices.Repeat([]byte("a"), 80)
	l.byName[string(long[:63])] = testKey(0).ID()
	if name := l.freeName(string(long), identity.NodeID{}); len(name) != 63 || name[61:] != "-2" {
		t.Errorf("long name became %q", name)
	}
}

func TestAuditNamesWhoAskedAndDetectsChanges(t *testing.T) {
	l, _ := founded(t, "10.0.0.0/24")
	for i := range uint64(3 * auditKept) {
		l.Apply(must(t, KindCancel, day0, testKey(1).ID(), cancelBody{ID: fmt.Sprint("x", i)}), 3+i)
	}
	a := l.audit.export()
	if err := a.Verify(); err != nil || a.Dropped == 0 || len(a.Entries) > 2*auditKept || a.Dropped+uint64(len(a.Entries)) != 3*auditKept+1 {
		t.Fatalf("%v, %d dropped, %d kept", err, a.Dropped, len(a.Entries))
	}
	last := a.Entries[len(a.Entries)-1]
	if last.Asker != testKey(1).ID() || last.Action != "cancel-invitation" || last.Outcome == "done" {
		t.Errorf("%+v", last)
	}
	a.Entries[5].Outcome = "done"
	if !errors.Is(a.Verify(), ErrAudit) {
		t.Error("a change was not noticed")
	}
}

func FuzzLedgerCommand(f *testing.F) {
	base, _ := founded(f, "10.0.0.0/28")
	for _, body := range []any{inviteBody{ID: "x", Key: [32]byte{1}, Uses: 1, Expires: day0.Add(time.Hour).UnixMilli()}, cancelBody{ID: "x"}, keyringBody{Keys: [][]byte{make([]byte, 32)}},
		policyBody{ID: [16]byte{1}, Text: pingOnly}, policyBody{ID: [16]byte{2}, Back: true}, approveBody{Certificate: []byte{1}}, regionBody{Region: "home", Term: 1}, relayBody{Region: DefaultRegion, Node: testKey(0).ID(), Appoint: true}} {
		for kind := range KindRelay + 1 {
			c, _ := newCommand(kind, day0, testKey(0).ID(), body)
			b, _ := c.encode()
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCommand(b)
		if err != nil {
			return
		}
		again, err := c.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatal("a command has two encodings")
		}
		l := base.clone()
		l.Apply(c, 3)
		checkInvariants(t, l)
	})
}

func FuzzDecodeLedger(f *testing.F) {
	l, _ := founded(f, "10.0.0.0/28")
	var buf bytes.Buffer
	if err := l.Encode(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add([]byte{})
	setPolicy(f, l, 3, pingOnly)
	setPolicy(f, l, 4, pingOnly+"#")
	buf.Reset()
	if err := l.Encode(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeLedger(bytes.NewReader(b))
		if err == nil && l.frozen == nil {
			l.reload(t)
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	l, _ := founded(f, "10.0.0.0/28")
	m := l.state.Members[0]
	raw, err := answerRecords(l.state, m)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := ParseAnswer(raw, l.state.Mesh.ID, m.ID, day0); err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnswer(b, l.state.Mesh.ID, m.ID, day0)
		if err == nil && a.Member.NodeID() != m.ID {
			t.Fatal("an answer for somebody else")
		}
	})
}

func FuzzQuestion(f *testing.F) {
	f.Add([]byte{0x82, 1, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		var q question
		if wire.Unmarshal(b, &q) != nil {
			return
		}
		if do, ok := executions[q.Op]; ok && q.Body == nil {
			_, err := do(nil, t.Context(), nil, identity.NodeID{}, []byte{0xff})
			if err == nil {
				t.Fatal("an empty question was answered")
			}
		}
	})
}

func TestAWireGuardKeyBelongsToOneMember(t *testing.T) {
	l, _ := founded(t, "10.0.0.0/24")
	inv := inviteBody{ID: "two", Key: [32]byte{1}, Uses: 2, Expires: day0.Add(time.Hour).UnixMilli()}
	if r := l.Apply(must(t, KindInvite, day0, testKey(0).ID(), inv), foundingIndex+1); r.Err() != nil {
		t.Fatal(r.Err())
	}
	// A joiner that claims the founder's key: another identity, so another node ID, but one and the same to tunnels and path checks.
	thief := *testKey(1).Public()
	thief.WireGuard = testKey(0).Public().WireGuard
	raw, err := certificate.SignMember(testKey(0), certificate.Member{Public: thief, Mesh: l.state.Mesh.ID, Name: "thief", IPv4: netip.MustParseAddr("10.0.0.2"),
		NotBefore: day0, NotAfter: day0.Add(certificate.MemberLife), Serial: serial(day0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	var refused *Refused
	r := l.Apply(must(t, KindAdmit, day0, testKey(0).ID(), admitBody{Invitation: "two", Certificate: raw}), foundingIndex+2)
	if !errors.As(r.Err(), &refused) || refused.Code != RefusedRequest {
		t.Errorf("admitted with the founder's WireGuard key: %v", r.Err())
	}
	checkInvariants(t, l)
}

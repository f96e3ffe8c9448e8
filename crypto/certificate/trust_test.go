package certificate

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/vector"
)

func TestAMemberIsWhatItsIssuerSigned(t *testing.T) {
	w := newWorld(t)
	for name, signer := range map[string]*identity.Key{"parent": w.parent, "leaf": w.leaf} {
		m, err := w.trust.VerifyMember(must(SignMember(signer, w.member(w.node)))(t), noon)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m.Name != "nas" || m.NodeID() != w.node.ID() || m.Serial != 7 || m.Region != "home" || len(m.Tags) != 1 || !m.NotAfter.Equal(noon.Add(MemberLife)) {
			t.Errorf("%s: %+v", name, m)
		}
		if a := m.Addresses(); len(a) != 2 || a[0].String() != "10.86.0.2" || a[1] != identity.OverlayIPv6(w.root.ID(), w.node.ID()) {
			t.Errorf("%s: addresses %v", name, a)
		}
	}
}

func TestMembersAreRefusedForAReason(t *testing.T) {
	w := newWorld(t)
	sign := func(k *identity.Key, change func(*Member)) []byte {
		m := w.member(w.node)
		if change != nil {
			change(&m)
		}
		return must(SignMember(k, m))(t)
	}
	good := sign(w.leaf, nil)
	damaged := bytes.Clone(good)
	damaged[len(damaged)-1] ^= 1
	for name, tc := range map[string]struct {
		raw  []byte
		now  time.Time
		want error
	}{
		"good":                          {good, noon, nil},
		"until the end":                 {good, noon.Add(MemberLife), nil},
		"a second after the end":        {good, noon.Add(MemberLife + time.Second), ErrExpired},
		"our clock lags a little":       {good, noon.Add(-SkewMax), nil},
		"our clock lags more":           {good, noon.Add(-SkewMax - time.Second), ErrNotYetValid},
		"a year early":                  {good, noon.AddDate(-1, 0, 0), ErrNotYetValid},
		"ten years late":                {good, noon.AddDate(10, 0, 0), ErrExpired},
		"of another mesh":               {sign(w.leaf, func(m *Member) { m.Mesh[0]++ }), noon, ErrWrongMesh},
		"signed by a plain node":        {sign(w.node, nil), noon, ErrUntrustedIssuer},
		"signature damaged":             {damaged, noon, ErrSignature},
		"cut off":                       {good[:len(good)-1], noon, ErrForm},
		"a byte too many":               {append(bytes.Clone(good), 0), noon, ErrForm},
		"nothing":                       {nil, noon, ErrForm},
		"an issuer's certificate":       {w.rawLeaf, noon, ErrForm},
		"longer than any document is":   {make([]byte, envelopeMax+1), noon, ErrForm},
		"outlives its issuer, not now":  {sign(w.leaf, func(m *Member) { m.NotAfter = noon.AddDate(9, 0, 0) }), noon, nil},
		"outlives its issuer, too late": {sign(w.leaf, func(m *Member) { m.NotAfter = noon.AddDate(9, 0, 0) }), noon.AddDate(6, 0, 0), ErrExpired},
	} {
		if _, err := w.trust.VerifyMember(tc.raw, tc.now); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func TestNoByteOfACertificateCanChange(t *testing.T) {
	w := newWorld(t)
	raw := must(SignMember(w.leaf, w.member(w.node)))(t)
	for i := 0; i < len(raw); i += 13 { // every byte takes a minute
		bad := bytes.Clone(raw)
		bad[i] ^= 4
		if _, err := w.trust.VerifyMember(bad, noon); err == nil {
			t.Fatalf("byte %d of %d changed, and it verifies", i, len(raw))
		}
	}
}

func TestOnlyRootAndParentsMakeIssuers(t *testing.T) {
	w := newWorld(t)
	stranger := nodeKey(t, "stranger")
	if _, err := SignIssuer(w.parent, w.issuer(stranger, DepthParent)); !errors.Is(err, ErrForm) {
		t.Errorf("a parent made a parent: %v", err)
	}
	if _, err := SignIssuerByRoot(w.root, w.issuer(stranger, 2)); !errors.Is(err, ErrForm) {
		t.Errorf("depth 2: %v", err)
	}
	other := must(identity.GenerateRoot(vector.Rand("other root")))(t)
	// What careful code does not sign, a thief would: his certificates are signed here past the checks.
	forged := must(signIssuer([32]byte(w.parent.ID()), w.parent, w.issuer(stranger, DepthParent)))(t)
	for name, tc := range map[string]struct {
		raw  []byte
		now  time.Time
		want error
	}{
		"a leaf's issuer":           {must(SignIssuer(w.leaf, w.issuer(stranger, DepthLeaf)))(t), noon, ErrUntrustedIssuer},
		"a parent's parent":         {forged, noon, ErrUntrustedIssuer},
		"its own issuer":            {must(SignIssuer(stranger, w.issuer(stranger, DepthLeaf)))(t), noon, ErrUntrustedIssuer},
		"another root":              {must(SignIssuerByRoot(other, w.issuer(stranger, DepthLeaf)))(t), noon, ErrUntrustedIssuer},
		"another root in our name":  {must(signIssuer([32]byte(w.root.ID()), other, w.issuer(stranger, DepthLeaf)))(t), noon, ErrSignature},
		"expired":                   {w.rawLeaf, noon.AddDate(6, 0, 0), ErrExpired},
		"from the future":           {w.rawParent, noon.AddDate(-1, 0, 0), ErrNotYetValid},
		"a member's certificate":    {must(SignMember(w.leaf, w.member(w.node)))(t), noon, ErrForm},
		"good, and known (no harm)": {w.rawLeaf, noon, nil},
	} {
		if _, err := w.trust.WithIssuer(tc.raw, tc.now); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func TestARevokedNodeIsOut(t *testing.T) {
	w := newWorld(t)
	raw := must(SignMember(w.leaf, w.member(w.node)))(t)
	before := w.trust
	w.revoke(w.parent, w.node, false)
	m, err := w.trust.VerifyMember(raw, noon)
	if !errors.Is(err, ErrRevoked) || m == nil || m.Name != "nas" {
		t.Fatalf("%v, %v", m, err)
	}
	if _, err := before.VerifyMember(raw, noon); err != nil {
		t.Fatalf("the set before was changed: %v", err)
	}
	if w.trust.Revoked(w.leaf.ID()) || !w.trust.Revoked(w.node.ID()) {
		t.Fatal("the wrong node is revoked")
	}
	newer := w.member(w.node)
	newer.Serial++
	if _, err := w.trust.VerifyMember(must(SignMember(w.parent, newer))(t), noon.Add(time.Hour)); !errors.Is(err, ErrRevoked) {
		t.Fatalf("a new certificate brought it back: %v", err)
	}
}

func TestOnlyIssuersRevoke(t *testing.T) {
	w := newWorld(t)
	r := Revocation{Mesh: w.root.ID(), Node: w.leaf.ID(), At: noon, Reason: "coup"}
	if _, err := w.trust.WithRevocation(must(SignRevocation(w.node, r))(t)); !errors.Is(err, ErrUntrustedIssuer) {
		t.Errorf("a plain node revoked an issuer: %v", err)
	}
	forged := must(seal([32]byte(w.parent.ID()), w.node, revocationContext, revocationBody{Mesh: r.Mesh, Node: r.Node, At: r.At.Unix()}))(t)
	if _, err := w.trust.WithRevocation(forged); !errors.Is(err, ErrSignature) {
		t.Errorf("a plain node revoked in an issuer's name: %v", err)
	}
	r.Mesh[0]++
	if _, err := w.trust.WithRevocation(must(SignRevocation(w.parent, r))(t)); !errors.Is(err, ErrWrongMesh) {
		t.Errorf("a revocation of another mesh: %v", err)
	}
}

func TestARevokedIssuerVouchesForNobodyNew(t *testing.T) {
	w := newWorld(t)
	known := must(SignMember(w.leaf, w.member(w.node)))(t)
	w.trust = w.trust.WithMembers(known)
	w.revoke(w.parent, w.leaf, false)
	if _, err := w.trust.VerifyMember(known, noon); err != nil {
		t.Errorf("a member that was adopted before: %v", err)
	}
	backdated := w.member(nodeKey(t, "accomplice"))
	backdated.NotBefore = noon.Add(-time.Hour)
	if _, err := w.trust.VerifyMember(must(SignMember(w.leaf, backdated))(t), noon); !errors.Is(err, ErrUntrustedIssuer) {
		t.Errorf("a member with an old date: %v", err)
	}
	if _, ok := w.trust.IssuerDepth(w.leaf.ID(), noon); ok {
		t.Error("it still counts as an issuer")
	}
	// What it had revoked stays revoked.
	w.revoke(w.leaf, w.node, false)
	if _, err := w.trust.VerifyMember(known, noon); !errors.Is(err, ErrRevoked) {
		t.Errorf("its revocation lapsed: %v", err)
	}
}

func TestARevokedParentTakesItsIssuersWithIt(t *testing.T) {
	w := newWorld(t)
	byLeaf := must(SignMember(w.leaf, w.member(w.node)))(t)
	w.revoke(w.leaf, w.parent, false)
	if _, err := w.trust.VerifyMember(byLeaf, noon); !errors.Is(err, ErrUntrustedIssuer) {
		t.Fatalf("below a revoked parent: %v", err)
	}
	// The root can make the leaf an issuer in its own right, even with a shorter life.
	again := w.issuer(w.leaf, DepthLeaf)
	again.NotAfter = noon.Add(MemberLife)
	w.know(must(SignIssuerByRoot(w.root, again))(t))
	if _, err := w.trust.VerifyMember(byLeaf, noon); err != nil {
		t.Fatalf("after the root vouched for the leaf: %v", err)
	}
}

func TestAnIssuerThatLeftStandsForWhatItSignedBefore(t *testing.T) {
	w := newWorld(t)
	before := must(SignMember(w.leaf, w.member(w.node)))(t)
	w.revoke(w.leaf, w.leaf, true)
	if _, err := w.trust.VerifyMember(before, noon.Add(time.Hour)); err != nil {
		t.Errorf("signed before: %v", err)
	}
	for name, change := range map[string]func(*Member){
		"dated later":            func(m *Member) { m.NotBefore = noon.Add(time.Hour); m.NotAfter = noon.Add(2 * time.Hour) },
		"dated back, long-lived": func(m *Member) { m.NotBefore = noon.Add(-time.Hour); m.NotAfter = noon.AddDate(1, 0, 0) },
	} {
		m := w.member(nodeKey(t, "accomplice"))
		change(&m)
		if _, err := w.trust.VerifyMember(must(SignMember(w.leaf, m))(t), noon.Add(time.Hour)); !errors.Is(err, ErrUntrustedIssuer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Revoking it after all is the harder word, and leaving afterwards does not soften it.
	w.revoke(w.parent, w.leaf, false)
	w.revoke(w.parent, w.leaf, true)
	if _, err := w.trust.VerifyMember(before, noon); !errors.Is(err, ErrUntrustedIssuer) {
		t.Errorf("revoked after it left: %v", err)
	}
}

func TestAnIssuersBetterCertificateStays(t *testing.T) {
	w := newWorld(t)
	longer := w.issuer(w.leaf, DepthLeaf)
	longer.NotAfter = longer.NotAfter.Add(time.Hour)
	w.know(must(SignIssuer(w.parent, longer))(t), w.rawLeaf)
	if i := w.trust.issuers[w.leaf.ID()]; !i.NotAfter.Equal(longer.NotAfter) {
		t.Errorf("the shorter one won: %s", i.NotAfter)
	}
	w.know(must(SignIssuerByRoot(w.root, w.issuer(w.leaf, DepthParent)))(t), w.rawLeaf)
	if depth, ok := w.trust.IssuerDepth(w.leaf.ID(), noon); !ok || depth != DepthParent {
		t.Errorf("depth %d, %v", depth, ok)
	}
}

func BenchmarkVerifyMember(b *testing.B) {
	w := newWorld(b)
	raw := must(SignMember(w.leaf, w.member(w.node)))(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.trust.VerifyMember(raw, noon); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(raw)), "cert-bytes/op")
}

func BenchmarkVerifyChain(b *testing.B) {
	w := newWorld(b)
	raw := must(SignMember(w.leaf, w.member(w.node)))(b)
	chain := must(w.trust.ChainFor(raw))(b)
	encoded := must(chain.MarshalBinary())(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := VerifyChainOf(w.root.ID(), chain, noon); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(encoded)), "chain-bytes/op")
}

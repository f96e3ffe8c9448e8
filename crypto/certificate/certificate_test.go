package certificate

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// cast is a mesh with a root, a parent issuer, a leaf issuer made by it, and a member.
type cast struct {
	root                 *identity.RootKey
	parent, leaf, member *identity.Key
	parentRaw, leafRaw   []byte
	trust                *Trust // parent and leaf are in it
}

func newKey(t testing.TB) *identity.Key {
	t.Helper()
	k, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newCast(t testing.TB) *cast {
	c := &cast{root: must(identity.GenerateRoot(rand.Reader))(t), parent: newKey(t), leaf: newKey(t), member: newKey(t)}
	c.parentRaw = must(SignIssuerByRoot(c.root, c.issuer(c.parent, DepthParent)))(t)
	c.leafRaw = must(SignIssuer(c.parent, c.issuer(c.leaf, DepthLeaf)))(t)
	c.trust = must(NewTrust(c.root.Public()).WithIssuer(c.parentRaw, begin))(t)
	c.trust = must(c.trust.WithIssuer(c.leafRaw, begin))(t)
	return c
}

func (c *cast) issuer(k *identity.Key, depth uint8) Issuer {
	return Issuer{Public: *k.Public(), Mesh: c.root.ID(), Depth: depth, NotBefore: begin, NotAfter: begin.Add(IssuerLife), Serial: 1}
}

func (c *cast) cert(k *identity.Key) Member {
	return Member{Public: *k.Public(), Mesh: c.root.ID(), Name: "nas", IPv4: netip.MustParseAddr("10.86.0.2"), Tags: []string{"server", "backup"},
		Region: "home", NotBefore: begin, NotAfter: begin.Add(MemberLife), Serial: 7}
}

func (c *cast) revocation(of *identity.Key, left bool) Revocation {
	return Revocation{Mesh: c.root.ID(), Node: of.ID(), At: begin, Reason: "lost", Left: left}
}

func TestAMemberOfEitherKindOfIssuerIsVerified(t *testing.T) {
	c := newCast(t)
	for name, by := range map[string]*identity.Key{"parent": c.parent, "leaf": c.leaf} {
		raw := must(SignMember(by, c.cert(c.member)))(t)
		m, err := c.trust.VerifyMember(raw, begin.Add(time.Hour))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m.NodeID() != c.member.ID() || m.Name != "nas" || strings.Join(m.Tags, " ") != "backup server" || m.Addresses()[0].String() != "10.86.0.2" {
			t.Errorf("%s: read back as %+v", name, m)
		}
		// One that knows the mesh ID only is convinced by the chain.
		chain := must(c.trust.ChainFor(raw))(t)
		b := must(chain.MarshalBinary())(t)
		var read Chain
		if err := read.UnmarshalBinary(b); err != nil || len(b) > ChainMax {
			t.Fatalf("%s: chain of %d bytes: %v", name, len(b), err)
		}
		if _, err := VerifyChainOf(c.root.ID(), &read, begin); err != nil {
			t.Errorf("%s: chain: %v", name, err)
		}
		if _, err := VerifyChainOf(identity.MeshID{1}, &read, begin); !errors.Is(err, ErrWrongMesh) {
			t.Errorf("%s: chain shown to another mesh: %v", name, err)
		}
	}
}

func TestWhatIsWrongIsRefused(t *testing.T) {
	c := newCast(t)
	stranger, other := newKey(t), newCast(t)
	sign := func(by *identity.Key, change func(*Member)) []byte {
		m := c.cert(c.member)
		change(&m)
		return must(SignMember(by, m))(t)
	}
	good := sign(c.leaf, func(*Member) {})
	forged := must(seal(c.leaf.ID(), stranger, memberContext, mustBody(t, good)))(t)
	for name, tc := range map[string]struct {
		raw  []byte
		at   time.Time
		want error
	}{
		"expired":            {good, begin.Add(MemberLife + time.Second), ErrExpired},
		"from the future":    {good, begin.Add(-SkewMax - time.Second), ErrNotYetValid},
		"other mesh":         {sign(c.leaf, func(m *Member) { m.Mesh = other.root.ID() }), begin, ErrWrongMesh},
		"unknown issuer":     {sign(stranger, func(*Member) {}), begin, ErrUntrustedIssuer},
		"signed by itself":   {sign(c.member, func(*Member) {}), begin, ErrUntrustedIssuer},
		"forged for issuer":  {forged, begin, ErrSignature},
		"issuer cert":        {c.leafRaw, begin, ErrForm},
		"nothing":            {nil, begin, ErrForm},
		"far too long":       {make([]byte, envelopeMax+1), begin, ErrForm},
		"a little late":      {good, begin.Add(-SkewMax), nil},
		"at its last second": {good, begin.Add(MemberLife), nil},
	} {
		if _, err := c.trust.VerifyMember(tc.raw, tc.at); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	for i := 0; i < len(good); i += 97 {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := c.trust.VerifyMember(bad, begin); err == nil {
			t.Errorf("byte %d changed, and still verified", i)
		}
	}
}

// mustBody gives the body of a member certificate in the form seal takes.
func mustBody(t *testing.T, raw []byte) memberBody {
	t.Helper()
	m, _, err := ParseMember(raw)
	if err != nil {
		t.Fatal(err)
	}
	pub := must(m.Public.MarshalBinary())(t)
	return memberBody{Public: pub, Mesh: m.Mesh, Name: m.Name, IPv4: m.IPv4.AsSlice(), Tags: m.Tags, Region: m.Region,
		NotBefore: m.NotBefore.Unix(), NotAfter: m.NotAfter.Unix(), Serial: m.Serial}
}

func TestOnlyTheRootMakesParents(t *testing.T) {
	c := newCast(t)
	if _, err := SignIssuer(c.parent, c.issuer(c.member, DepthParent)); err == nil {
		t.Error("a parent signs a parent")
	}
	// What the signing side refuses, a changed program would do.
	asParent := must(signIssuer(c.parent.ID(), c.parent, c.issuer(c.member, DepthParent)))(t)
	if _, err := c.trust.WithIssuer(asParent, begin); !errors.Is(err, ErrUntrustedIssuer) {
		t.Errorf("a parent's parent: %v", err)
	}
	fromLeaf := must(SignIssuer(c.leaf, c.issuer(c.member, DepthLeaf)))(t)
	if _, err := c.trust.WithIssuer(fromLeaf, begin); !errors.Is(err, ErrUntrustedIssuer) {
		t.Errorf("a leaf's issuer: %v", err)
	}
	fake := must(identity.GenerateRoot(rand.Reader))(t)
	fakeRaw := must(signIssuer([32]byte(c.root.ID()), fake, c.issuer(c.member, DepthParent)))(t)
	if _, err := c.trust.WithIssuer(fakeRaw, begin); !errors.Is(err, ErrSignature) {
		t.Errorf("another root: %v", err)
	}
}

func TestRevocation(t *testing.T) {
	c := newCast(t)
	raw := must(SignMember(c.leaf, c.cert(c.member)))(t)
	later := newKey(t)
	laterRaw := must(SignMember(c.leaf, c.cert(later)))(t)

	revoked := must(c.trust.WithRevocation(must(SignRevocation(c.parent, c.revocation(c.member, false)))(t)))(t)
	if _, err := revoked.VerifyMember(raw, begin); !errors.Is(err, ErrRevoked) || !revoked.Revoked(c.member.ID()) {
		t.Errorf("revoked member: %v", err)
	}
	if _, err := c.trust.VerifyMember(raw, begin); err != nil {
		t.Errorf("the older trust changed: %v", err)
	}
	if _, err := c.trust.WithRevocation(must(SignRevocation(c.member, c.revocation(c.leaf, false)))(t)); !errors.Is(err, ErrUntrustedIssuer) {
		t.Errorf("a member revokes an issuer: %v", err)
	}

	// The leaf was a traitor: what it signed is void, but for what this node had adopted.
	traitor := c.trust.WithMembers(raw)
	traitor = must(traitor.WithRevocation(must(SignRevocation(c.parent, c.revocation(c.leaf, false)))(t)))(t)
	if _, err := traitor.VerifyMember(laterRaw, begin); !errors.Is(err, ErrUntrustedIssuer) {
		t.Errorf("a member made by a traitor: %v", err)
	}
	if _, err := traitor.VerifyMember(raw, begin); err != nil {
		t.Errorf("an adopted member: %v", err)
	}
	if _, ok := traitor.IssuerDepth(c.leaf.ID(), begin); ok {
		t.Error("the traitor may still issue")
	}

	// The leaf left in good order: its signatures hold.
	left := must(c.trust.WithRevocation(must(SignRevocation(c.parent, c.revocation(c.leaf, true)))(t)))(t)
	if _, err := left.VerifyMember(laterRaw, begin); err != nil {
		t.Errorf("a member made before its issuer left: %v", err)
	}
	// It turned out otherwise: the harder revocation wins, whichever comes first.
	harder := must(left.WithRevocation(must(SignRevocation(c.parent, c.revocation(c.leaf, false)))(t)))(t)
	again := must(harder.WithRevocation(must(SignRevocation(c.parent, c.revocation(c.leaf, true)))(t)))(t)
	if _, err := again.VerifyMember(laterRaw, begin); !errors.Is(err, ErrUntrustedIssuer) {
		t.Errorf("softened: %v", err)
	}
}

func TestNamesAreLabels(t *testing.T) {
	c := newCast(t)
	for _, name := range []string{"", "-nas", "nas-", "NAS", "na s", "n.s", strings.Repeat("x", 64), "nås"} {
		m := c.cert(c.member)
		m.Name = name
		if _, err := SignMember(c.leaf, m); !errors.Is(err, ErrForm) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	c := newCast(f)
	member := must(SignMember(c.leaf, c.cert(c.member)))(f)
	f.Add(member)
	f.Add(c.leafRaw)
	f.Add(must(SignRevocation(c.parent, c.revocation(c.member, true)))(f))
	f.Add(must(must(c.trust.ChainFor(member))(f).MarshalBinary())(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, _, err := ParseMember(b); err == nil && m.check() != nil {
			t.Fatal("an invalid member was read")
		}
		_, _ = ParseIssuer(b)
		_, _ = ParseRevocation(b)
		var chain Chain
		if chain.UnmarshalBinary(b) == nil {
			again, err := chain.MarshalBinary()
			if err != nil || !bytes.Equal(again, b) {
				t.Fatal("a chain has two forms")
			}
			_, _ = c.trust.VerifyChain(&chain, begin)
		}
		if _, err := c.trust.VerifyMember(b, begin); err == nil && !bytes.Equal(b, member) {
			t.Fatal("forged")
		}
	})
}

func BenchmarkVerifyMember(b *testing.B) {
	c := newCast(b)
	raw := must(SignMember(c.leaf, c.cert(c.member)))(b)
	for b.Loop() {
		if _, err := c.trust.VerifyMember(raw, begin); err != nil {
			b.Fatal(err)
		}
	}
}

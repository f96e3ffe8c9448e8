package certificate

import (
	"bytes"
	"errors"
	"flag"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/vector"
)

var update = flag.Bool("update", false, "rewrite the vectors")

func TestFieldsAreBounded(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("a", labelMax+1)
	many := make([]string, tagsMax+1)
	for i := range many {
		many[i] = "t" + string(rune('a'+i))
	}
	for name, tc := range map[string]struct {
		change func(*Member)
		good   bool
	}{
		"plain":               {func(*Member) {}, true},
		"largest":             {func(m *Member) { *m = w.largest() }, true},
		"no lease":            {func(m *Member) { m.IPv4 = netip.Addr{} }, true},
		"no region or tags":   {func(m *Member) { m.Region, m.Tags = "", nil }, true},
		"tags in any order":   {func(m *Member) { m.Tags = []string{"b", "a", "b"} }, true},
		"digits and hyphens":  {func(m *Member) { m.Name = "0-x-9" }, true},
		"no name":             {func(m *Member) { m.Name = "" }, false},
		"long name":           {func(m *Member) { m.Name = long }, false},
		"upper case":          {func(m *Member) { m.Name = "NAS" }, false},
		"dot":                 {func(m *Member) { m.Name = "a.b" }, false},
		"leading hyphen":      {func(m *Member) { m.Name = "-a" }, false},
		"trailing hyphen":     {func(m *Member) { m.Name = "a-" }, false},
		"line end":            {func(m *Member) { m.Name = "a\n" }, false},
		"not ASCII":           {func(m *Member) { m.Name = "é" }, false},
		"odd tag":             {func(m *Member) { m.Tags = []string{"a b"} }, false},
		"too many tags":       {func(m *Member) { m.Tags = many }, false},
		"odd region":          {func(m *Member) { m.Region = "eu/west" }, false},
		"IPv6 as lease":       {func(m *Member) { m.IPv4 = netip.MustParseAddr("fd00::1") }, false},
		"IPv4 in IPv6":        {func(m *Member) { m.IPv4 = netip.MustParseAddr("::ffff:10.0.0.1") }, false},
		"ends when it begins": {func(m *Member) { m.NotAfter = m.NotBefore }, false},
	} {
		m := w.member(w.node)
		tc.change(&m)
		raw, err := SignMember(w.leaf, m)
		if tc.good != (err == nil) || (err != nil && !errors.Is(err, ErrForm)) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			if _, err := w.trust.VerifyMember(raw, noon); err != nil {
				t.Errorf("%s: signed but not read: %v", name, err)
			}
		}
	}
}

// TestReadersCheckWhatSignersDo feeds bodies that SignMember would not sign, with good signatures.
func TestReadersCheckWhatSignersDo(t *testing.T) {
	w := newWorld(t)
	public := must(w.node.Public().MarshalBinary())(t)
	body := func(change func(*memberBody)) []byte {
		b := memberBody{Public: public, Mesh: w.root.ID(), Name: "nas", NotBefore: noon.Unix(), NotAfter: noon.Add(time.Hour).Unix()}
		change(&b)
		return must(seal([32]byte(w.leaf.ID()), w.leaf, memberContext, b))(t)
	}
	for name, raw := range map[string][]byte{
		"odd name":         body(func(b *memberBody) { b.Name = "../x" }),
		"tags not sorted":  body(func(b *memberBody) { b.Tags = []string{"b", "a"} }),
		"tag twice":        body(func(b *memberBody) { b.Tags = []string{"a", "a"} }),
		"lease of 5 bytes": body(func(b *memberBody) { b.IPv4 = make([]byte, 5) }),
		"lease of 16":      body(func(b *memberBody) { b.IPv4 = make([]byte, 16) }),
		"short key":        body(func(b *memberBody) { b.Public = public[1:] }),
		"low-order key":    body(func(b *memberBody) { b.Public = append(bytes.Clone(public[:len(public)-32]), make([]byte, 32)...) }),
		"span reversed":    body(func(b *memberBody) { b.NotAfter = b.NotBefore - 1 }),
	} {
		if _, err := w.trust.VerifyMember(raw, noon); !errors.Is(err, ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReasonsAreOneLine(t *testing.T) {
	w := newWorld(t)
	for reason, good := range map[string]bool{
		"": true, "lost laptop, café": true, strings.Repeat("x", reasonMax): true, strings.Repeat("x", reasonMax+1): false, "a\nb": false, "a\x1bb": false,
	} {
		_, err := SignRevocation(w.parent, Revocation{Mesh: w.root.ID(), Node: w.node.ID(), At: noon, Reason: reason})
		if good != (err == nil) {
			t.Errorf("%.20q: %v", reason, err)
		}
	}
}

func TestAChainProvesItselfFromTheMeshIDAlone(t *testing.T) {
	w := newWorld(t)
	for name, raw := range map[string][]byte{
		"three certificates": must(SignMember(w.leaf, w.member(w.node)))(t),
		"two":                must(SignMember(w.parent, w.member(w.node)))(t),
		"the largest":        must(SignMember(w.leaf, w.largest()))(t),
	} {
		chain := must(w.trust.ChainFor(raw))(t)
		b := must(chain.MarshalBinary())(t)
		if len(b) > ChainMax {
			t.Errorf("%s: %d bytes, at most %d", name, len(b), ChainMax)
		}
		var got Chain
		if err := got.UnmarshalBinary(b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m, err := VerifyChainOf(w.root.ID(), &got, noon)
		if err != nil || m.NodeID() != w.node.ID() {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := VerifyChainOf(identity.MeshID{1}, &got, noon); !errors.Is(err, ErrWrongMesh) {
			t.Errorf("%s, to another mesh: %v", name, err)
		}
	}
}

func TestBrokenChainsAreRefused(t *testing.T) {
	w := newWorld(t)
	raw := must(SignMember(w.leaf, w.member(w.node)))(t)
	other := must(identity.GenerateRoot(vector.Rand("other root")))(t)
	root := w.root.Public()
	for name, tc := range map[string]struct {
		chain Chain
		want  error
	}{
		"good":               {Chain{root, [][]byte{w.rawParent, w.rawLeaf}, raw}, nil},
		"issuers swapped":    {Chain{root, [][]byte{w.rawLeaf, w.rawParent}, raw}, ErrUntrustedIssuer},
		"leaf missing":       {Chain{root, [][]byte{w.rawParent}, raw}, ErrUntrustedIssuer},
		"parent missing":     {Chain{root, [][]byte{w.rawLeaf}, raw}, ErrUntrustedIssuer},
		"no issuers":         {Chain{root, nil, raw}, ErrUntrustedIssuer},
		"four certificates":  {Chain{root, [][]byte{w.rawParent, w.rawLeaf, w.rawLeaf}, raw}, ErrForm},
		"another root":       {Chain{other.Public(), [][]byte{w.rawParent, w.rawLeaf}, raw}, ErrWrongMesh},
		"no member":          {Chain{root, [][]byte{w.rawParent, w.rawLeaf}, nil}, ErrForm},
		"an issuer for it":   {Chain{root, [][]byte{w.rawParent, w.rawLeaf}, w.rawLeaf}, ErrForm},
		"the empty chain":    {Chain{}, ErrWrongMesh},
		"a member as issuer": {Chain{root, [][]byte{raw}, raw}, ErrForm},
	} {
		if _, err := VerifyChainOf(w.root.ID(), &tc.chain, noon); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	// A chain cannot smuggle a revoked issuer in again.
	w.revoke(w.parent, w.leaf, false)
	if _, err := w.trust.VerifyChain(&Chain{root, [][]byte{w.rawParent, w.rawLeaf}, raw}, noon); !errors.Is(err, ErrUntrustedIssuer) {
		t.Errorf("revoked issuer: %v", err)
	}
}

// vectors is testdata/vectors/certificate.json: documents of one small mesh, and when they are good.
type vectors struct {
	Mesh       identity.MeshID
	Root       vector.Hex
	Now        time.Time
	Parent     vector.Hex
	Leaf       vector.Hex
	Member     vector.Hex
	MemberID   identity.NodeID
	Name       string
	Addresses  []netip.Addr
	Revocation vector.Hex
	Chain      vector.Hex
}

func TestVectors(t *testing.T) {
	w := newWorld(t)
	raw := must(SignMember(w.leaf, w.member(w.node)))(t)
	m := must(w.trust.VerifyMember(raw, noon))(t)
	revocation := must(SignRevocation(w.parent, Revocation{Mesh: w.root.ID(), Node: w.node.ID(), At: noon, Reason: "lost"}))(t)
	vector.Check(t, "certificate", vectors{
		Mesh: w.root.ID(), Root: must(w.root.Public().MarshalBinary())(t), Now: noon, Parent: w.rawParent, Leaf: w.rawLeaf, Member: raw,
		MemberID: m.NodeID(), Name: m.Name, Addresses: m.Addresses(), Revocation: revocation,
		Chain: must(must(w.trust.ChainFor(raw))(t).MarshalBinary())(t),
	}, *update)
}

func TestStoredDocumentsStillVerify(t *testing.T) {
	var v vectors
	vector.Read(t, "certificate", &v)
	var chain Chain
	if err := chain.UnmarshalBinary(v.Chain); err != nil {
		t.Fatal(err)
	}
	m, err := VerifyChainOf(v.Mesh, &chain, v.Now)
	if err != nil || m.NodeID() != v.MemberID || m.Name != v.Name || m.IPv6() != v.Addresses[1] {
		t.Fatalf("%+v, %v", m, err)
	}
	trust := NewTrust(chain.Root)
	for _, raw := range [][]byte{v.Parent, v.Leaf} {
		trust = must(trust.WithIssuer(raw, v.Now))(t)
	}
	trust = must(trust.WithRevocation(v.Revocation))(t)
	if _, err := trust.VerifyMember(v.Member, v.Now); !errors.Is(err, ErrRevoked) {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	var v vectors
	vector.Read(f, "certificate", &v)
	for _, raw := range []vector.Hex{v.Parent, v.Member, v.Revocation} {
		f.Add([]byte(raw))
	}
	w := newWorld(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := w.trust.VerifyMember(raw, noon); err == nil && !bytes.Equal(raw, v.Member) {
			t.Fatal("forged")
		}
		if m, _, err := ParseMember(raw); err == nil && m.check() != nil {
			t.Fatal("a member against the rules was read")
		}
		if i, err := ParseIssuer(raw); err == nil && i.check() != nil {
			t.Fatal("an issuer against the rules was read")
		}
		if r, err := ParseRevocation(raw); err == nil && r.check() != nil {
			t.Fatal("a revocation against the rules was read")
		}
	})
}

func FuzzChain(f *testing.F) {
	var v vectors
	vector.Read(f, "certificate", &v)
	f.Add([]byte(v.Chain))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Chain
		if c.UnmarshalBinary(b) != nil {
			return
		}
		again, err := c.MarshalBinary()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("has another form (%v)", err)
		}
		if m, err := VerifyChainOf(v.Mesh, &c, v.Now); err == nil && m.NodeID() != v.MemberID {
			t.Fatal("a stranger is a member")
		}
	})
}

package certificate

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/vector"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// world is a mesh with a root, a parent issuer, a leaf issuer below it, and a node that wants in.
type world struct {
	t                  testing.TB
	root               *identity.RootKey
	parent, leaf, node *identity.Key
	rawParent, rawLeaf []byte
	trust              *Trust // knows both issuers
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, parent: nodeKey(t, "parent"), leaf: nodeKey(t, "leaf"), node: nodeKey(t, "node")}
	root, err := identity.GenerateRoot(vector.Rand("root"))
	if err != nil {
		t.Fatal(err)
	}
	w.root = root
	w.rawParent = must(SignIssuerByRoot(root, w.issuer(w.parent, DepthParent)))(t)
	w.rawLeaf = must(SignIssuer(w.parent, w.issuer(w.leaf, DepthLeaf)))(t)
	w.trust = NewTrust(root.Public())
	w.know(w.rawParent, w.rawLeaf)
	return w
}

func (w *world) know(issuers ...[]byte) {
	w.t.Helper()
	for _, raw := range issuers {
		w.trust = must(w.trust.WithIssuer(raw, noon))(w.t)
	}
}

func (w *world) revoke(by, whom *identity.Key, left bool) {
	w.t.Helper()
	raw := must(SignRevocation(by, Revocation{Mesh: w.root.ID(), Node: whom.ID(), At: noon, Reason: "lost", Left: left}))(w.t)
	w.trust = must(w.trust.WithRevocation(raw))(w.t)
}

func (w *world) issuer(k *identity.Key, depth uint8) Issuer {
	return Issuer{Public: *k.Public(), Mesh: w.root.ID(), Depth: depth, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(IssuerLife), Serial: 1}
}

func (w *world) member(k *identity.Key) Member {
	return Member{Public: *k.Public(), Mesh: w.root.ID(), Name: "nas", IPv4: netip.MustParseAddr("10.86.0.2"), Tags: []string{"server"}, Region: "home",
		NotBefore: noon, NotAfter: noon.Add(MemberLife), Serial: 7}
}

// largest is a member with every field at its bound.
func (w *world) largest() Member {
	m := w.member(w.node)
	m.Name, m.Region, m.Tags = strings.Repeat("n", labelMax), strings.Repeat("r", labelMax), nil
	for i := range tagsMax {
		m.Tags = append(m.Tags, strings.Repeat("t", labelMax-1)+string(rune('a'+i)))
	}
	m.Serial = 1<<64 - 1
	return m
}

func nodeKey(t testing.TB, seed string) *identity.Key {
	t.Helper()
	return must(identity.Generate(vector.Rand(seed)))(t)
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

package identity

import (
	"flag"
	"testing"

	"github.com/phantommesh/phantommesh/internal/vector"
)

var update = flag.Bool("update", false, "rewrite the vectors")

// vectors is testdata/vectors/identity.json. Signatures are over the message "phantommesh" in the context "vector", and stand as SHA-256.
type vectors struct {
	Nodes []nodeVector
	Root  rootVector
	Path  pathVector
}

type nodeVector struct {
	Key          vector.Hex // private: Ed25519 seed, ML-DSA-65 seed, X25519 key
	Public       vector.Hex
	ID           NodeID
	WireGuard    string
	Ed25519Sig   vector.Hex
	HybridSigSum vector.Hex
}

type rootVector struct {
	Key          vector.Hex
	PublicSum    vector.Hex
	Mesh         MeshID
	HybridSigSum vector.Hex
	OverlayOf0   string
	Prefix       string
}

type pathVector struct{ Key vector.Hex } // between the first two nodes

func TestVectors(t *testing.T) {
	const context, message = "vector", "phantommesh"
	var v vectors
	var keys []*Key
	for _, seed := range []string{"identity 0", "identity 1", "identity 2"} {
		k := testKey(t, seed)
		keys = append(keys, k)
		private, _ := k.MarshalBinary()
		public, _ := k.Public().MarshalBinary()
		sig, err := k.Sign(context, []byte(message))
		if err != nil {
			t.Fatal(err)
		}
		v.Nodes = append(v.Nodes, nodeVector{Key: private, Public: public, ID: k.ID(), WireGuard: k.Public().WireGuard.String(),
			Ed25519Sig: k.SignEd25519(context, []byte(message)), HybridSigSum: vector.Sum(sig)})
	}
	root, err := GenerateRoot(vector.Rand("root"))
	if err != nil {
		t.Fatal(err)
	}
	private, _ := root.MarshalBinary()
	public, _ := root.Public().MarshalBinary()
	sig, err := root.Sign(context, []byte(message))
	if err != nil {
		t.Fatal(err)
	}
	v.Root = rootVector{Key: private, PublicSum: vector.Sum(public), Mesh: root.ID(), HybridSigSum: vector.Sum(sig),
		OverlayOf0: OverlayIPv6(root.ID(), keys[0].ID()).String(), Prefix: OverlayPrefix(root.ID()).String()}
	path, err := keys[0].PathKey(keys[1].Public().WireGuard)
	if err != nil {
		t.Fatal(err)
	}
	v.Path.Key = path[:]
	vector.Check(t, "identity", v, *update)
}

func TestStoredKeysStillRead(t *testing.T) {
	var v vectors
	vector.Read(t, "identity", &v)
	for _, n := range v.Nodes {
		k, err := UnmarshalKey(n.Key)
		if err != nil || k.ID() != n.ID {
			t.Errorf("%s: %v, %v", n.ID, k, err)
		}
		var p Public
		if err := p.UnmarshalBinary(n.Public); err != nil || p.NodeID() != n.ID {
			t.Errorf("%s: %v", n.ID, err)
		}
		if err := p.VerifyEd25519("vector", []byte("phantommesh"), n.Ed25519Sig); err != nil {
			t.Errorf("%s: %v", n.ID, err)
		}
	}
}

func FuzzParseNodeID(f *testing.F) {
	f.Add(NodeID{}.String())
	f.Add("n-")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseNodeID(s); err == nil && id.String() != s {
			t.Fatalf("%q has another form %q", s, id)
		}
	})
}

func FuzzPublic(f *testing.F) {
	var v vectors
	vector.Read(f, "identity", &v)
	for _, n := range v.Nodes {
		f.Add([]byte(n.Public))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Public
		if p.UnmarshalBinary(b) != nil {
			return
		}
		again, err := p.MarshalBinary()
		if err != nil || string(again) != string(b) {
			t.Fatalf("has another form (%v)", err)
		}
		if p.Verify("fuzz", b, make([]byte, SignatureSize)) == nil {
			t.Fatal("a signature of zeroes verifies")
		}
	})
}

func FuzzUnmarshalKey(f *testing.F) {
	var v vectors
	vector.Read(f, "identity", &v)
	f.Add([]byte(v.Nodes[0].Key))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := UnmarshalKey(b)
		if err != nil {
			return
		}
		if again, err := k.MarshalBinary(); err != nil || string(again) != string(b) {
			t.Fatalf("has another form (%v)", err)
		}
	})
}

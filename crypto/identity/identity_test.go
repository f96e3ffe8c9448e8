package identity

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/internal/vector"
)

func testKey(t testing.TB, seed string) *Key {
	t.Helper()
	k, err := Generate(vector.Rand(seed))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAHybridSignatureNeedsBothHalves(t *testing.T) {
	a, b := testKey(t, "a"), testKey(t, "b")
	message := []byte("message")
	sig, err := a.Sign("context", message)
	if err != nil {
		t.Fatal(err)
	}
	if len(sig) != SignatureSize {
		t.Fatalf("%d bytes", len(sig))
	}
	other, err := b.Sign("context", message)
	if err != nil {
		t.Fatal(err)
	}
	again, err := a.Sign("another", message)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(i int) []byte {
		c := bytes.Clone(sig)
		c[i] ^= 1
		return c
	}
	join := func(ed, ml []byte) []byte { return append(bytes.Clone(ed[:64]), ml[64:]...) }
	for name, tc := range map[string]struct {
		context, message string
		sig              []byte
		good             bool
	}{
		"as signed":              {"context", "message", sig, true},
		"another message":        {"context", "massage", sig, false},
		"another context":        {"another", "message", sig, false},
		"Ed25519 damaged":        {"context", "message", flip(3), false},
		"ML-DSA damaged":         {"context", "message", flip(64), false},
		"last byte damaged":      {"context", "message", flip(SignatureSize - 1), false},
		"Ed25519 of another key": {"context", "message", join(other, sig), false},
		"ML-DSA of another key":  {"context", "message", join(sig, other), false},
		"Ed25519 of a context":   {"context", "message", join(again, sig), false},
		"ML-DSA of a context":    {"context", "message", join(sig, again), false},
		"Ed25519 alone":          {"context", "message", sig[:64], false},
		"a byte too many":        {"context", "message", append(bytes.Clone(sig), 0), false},
		"nothing":                {"context", "message", nil, false},
	} {
		err := a.Public().Verify(tc.context, []byte(tc.message), tc.sig)
		if tc.good != (err == nil) || (err != nil && !errors.Is(err, ErrSignature)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContextAndMessageHaveABorder(t *testing.T) {
	k := testKey(t, "a")
	sig := k.SignEd25519("ab", []byte("c"))
	if err := k.Public().VerifyEd25519("ab", []byte("c"), sig); err != nil {
		t.Fatal(err)
	}
	if err := k.Public().VerifyEd25519("a", []byte("bc"), sig); !errors.Is(err, ErrSignature) {
		t.Fatalf("the context ran into the message: %v", err)
	}
	ml, err := k.SignMLDSA("ab", []byte("c"))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Public().VerifyMLDSA("ab", []byte("c"), ml); err != nil {
		t.Fatal(err)
	}
	if err := k.Public().VerifyMLDSA("a", []byte("bc"), ml); !errors.Is(err, ErrSignature) {
		t.Fatalf("the context ran into the message: %v", err)
	}
}

func TestAPairOfNodesHasOnePathKey(t *testing.T) {
	a, b, c := testKey(t, "a"), testKey(t, "b"), testKey(t, "c")
	ab, err := a.PathKey(b.Public().WireGuard)
	if err != nil {
		t.Fatal(err)
	}
	ba, err := b.PathKey(a.Public().WireGuard)
	if err != nil {
		t.Fatal(err)
	}
	ac, err := a.PathKey(c.Public().WireGuard)
	if err != nil {
		t.Fatal(err)
	}
	if ab != ba || ab == ac {
		t.Fatal("path keys are not those of the pair")
	}
}

func TestLowOrderKeysAreRefused(t *testing.T) {
	k := testKey(t, "a")
	public, err := k.Public().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range lowOrderPoints {
		for _, top := range []byte{0, 128} {
			bad := p
			bad[31] |= top
			if _, err := k.PathKey(bad); !errors.Is(err, ErrLowOrder) {
				t.Errorf("path key with %x: %v", bad, err)
			}
			var got Public
			if err := got.UnmarshalBinary(append(bytes.Clone(public[:publicSize-32]), bad[:]...)); !errors.Is(err, ErrLowOrder) {
				t.Errorf("public with %x: %v", bad, err)
			}
		}
	}
}

func TestAKeyIsTheSameAfterItWasStored(t *testing.T) {
	k := testKey(t, "a")
	b, err := k.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	again, err := UnmarshalKey(b)
	if err != nil {
		t.Fatal(err)
	}
	if again.ID() != k.ID() || again.WireGuardPrivate() != k.WireGuardPrivate() || !again.Public().Equal(k.Public()) {
		t.Fatal("another key came back")
	}
	for _, n := range []int{0, 1, keySize - 1} {
		if _, err := UnmarshalKey(b[:n]); !errors.Is(err, ErrKey) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	root, err := GenerateRoot(vector.Rand("root"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err = root.MarshalBinary(); err != nil {
		t.Fatal(err)
	}
	rootAgain, err := UnmarshalRoot(b)
	if err != nil || rootAgain.ID() != root.ID() {
		t.Fatalf("another root came back (%v)", err)
	}
	if _, err := UnmarshalRoot(b[1:]); !errors.Is(err, ErrKey) {
		t.Errorf("short root: %v", err)
	}
}

func TestTooLittleRandomnessMakesNoKey(t *testing.T) {
	short := strings.NewReader(strings.Repeat("x", signSeedSize-1))
	if _, err := Generate(short); err == nil {
		t.Error("a key from too little randomness")
	}
	short.Reset("x")
	if _, err := GenerateRoot(short); err == nil {
		t.Error("a root from too little randomness")
	}
}

func TestIDsHaveOneForm(t *testing.T) {
	id := testKey(t, "a").ID()
	full := id.String()
	if got, err := ParseNodeID(full); err != nil || got != id {
		t.Fatalf("%v, %v", got, err)
	}
	if !strings.HasPrefix(full, id.Short()) || len(full) != 54 || len(id.Short()) != 10 {
		t.Fatalf("%s is short for %s", id.Short(), full)
	}
	// The last character carries one bit: 15 others decode to the same bytes in a lax decoder.
	last := full[:len(full)-1]
	for name, s := range map[string]string{
		"empty": "", "prefix": "n-", "short form": id.Short(), "upper case": strings.ToUpper(full), "no prefix": full[2:],
		"too long": full + "a", "stray bits": last + "b", "line end": full + "\n", "padding": full + "====",
	} {
		if s == full {
			continue
		}
		if _, err := ParseNodeID(s); !errors.Is(err, ErrID) {
			t.Errorf("%s %q: %v", name, s, err)
		}
	}
	mesh := MeshID(id)
	if got, err := ParseMeshID(mesh.String()); err != nil || got != mesh {
		t.Fatalf("%v, %v", got, err)
	}
	if _, err := ParseMeshID(full); !errors.Is(err, ErrID) {
		t.Errorf("a node ID was taken for a mesh ID: %v", err)
	}
}

func TestOverlayAddressesLieInTheMeshsPrefix(t *testing.T) {
	node := testKey(t, "a").ID()
	mesh := MeshID{1, 2, 3, 4, 5, 6}
	a := OverlayIPv6(mesh, node)
	p := OverlayPrefix(mesh)
	if !p.Contains(a) || p.Bits() != 48 || p.String() != "fd01:203:405::/48" {
		t.Fatalf("%s in %s", a, p)
	}
	if b := a.As16(); !bytes.Equal(b[6:], node[:10]) {
		t.Fatalf("%s does not carry 80 bits of the node ID", a)
	}
}

func BenchmarkHybridSign(b *testing.B) {
	k := testKey(b, "a")
	message := make([]byte, 2200) // a member certificate's
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Sign("bench", message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHybridVerify(b *testing.B) {
	k := testKey(b, "a")
	message := make([]byte, 2200)
	sig, err := k.Sign("bench", message)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := k.Public().Verify("bench", message, sig); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(SignatureSize, "sig-bytes/op")
}

func BenchmarkPathKey(b *testing.B) {
	k, their := testKey(b, "a"), testKey(b, "b").Public().WireGuard
	for b.Loop() {
		if _, err := k.PathKey(their); err != nil {
			b.Fatal(err)
		}
	}
}

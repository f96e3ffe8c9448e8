package gossip

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// The vectors of the XAES-256-GCM specification (C2SP).
func TestTheSealIsXAES256GCM(t *testing.T) {
	for _, v := range []struct{ key, data, want string }{
		{"\x01", "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{"\x03", "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		k, err := newSealKey(bytes.Repeat([]byte(v.key), KeySize))
		if err != nil {
			t.Fatal(err)
		}
		nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
		got, err := k.seal(nil, nonce, []byte("XAES-256-GCM"), []byte(v.data))
		if err != nil || hex.EncodeToString(got) != v.want {
			t.Errorf("got %x, %v; want %s", got, err, v.want)
		}
		if plain, err := k.open(nonce, got, []byte(v.data)); err != nil || string(plain) != "XAES-256-GCM" {
			t.Errorf("opened to %q, %v", plain, err)
		}
	}
}

func sealOf(t testing.TB, self identity.NodeID, keys ...[]byte) *seal {
	t.Helper()
	return sealIn(t, testMesh, testScope, self, keys...)
}

func sealIn(t testing.TB, mesh identity.MeshID, scope Scope, self identity.NodeID, keys ...[]byte) *seal {
	t.Helper()
	ring := &keyring{}
	if err := ring.use(keys); err != nil {
		t.Fatal(err)
	}
	return newSeal(rand.Reader, ring, mesh, self, scope)
}

func TestAPacketOpensForItsAddresseeOnly(t *testing.T) {
	a, b, c := identity.NodeID{1}, identity.NodeID{2}, identity.NodeID{3}
	packet, err := sealOf(t, a, gossipA).close(b, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if len(packet) != len("hello")+sealOverhead {
		t.Errorf("%d bytes", len(packet))
	}
	if plain, err := sealOf(t, b, gossipB, gossipA).open(packet); err != nil || string(plain) != "hello" {
		t.Errorf("got %q, %v", plain, err)
	}
	for who, s := range map[string]*seal{
		"another member": sealOf(t, c, gossipA), "a stranger": sealOf(t, b, gossipB), "another mesh": sealIn(t, identity.MeshID{9}, testScope, b, gossipA),
		"the same member in another pool": sealIn(t, testMesh, Wide, b, gossipA),
	} {
		if _, err := s.open(packet); !errors.Is(err, errUnsealed) {
			t.Errorf("%s opens it: %v", who, err)
		}
	}
	for i := range packet {
		bad := bytes.Clone(packet)
		bad[i] ^= 1
		if _, err := sealOf(t, b, gossipA).open(bad); err == nil {
			t.Errorf("opens with byte %d changed", i)
		}
	}
}

func TestAnUnusableKeyringChangesNothing(t *testing.T) {
	s := sealOf(t, identity.NodeID{1}, gossipA)
	for name, keys := range map[string][][]byte{
		"none": {}, "short": {gossipA[:31]}, "a short second": {gossipA, {}}, "too many": {gossipA, gossipB, gossipA, gossipB, gossipA},
	} {
		if err := s.keys.use(keys); !errors.Is(err, ErrKeyring) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got := s.keys.holds(); len(got) != 1 || !bytes.Equal(got[0], gossipA) {
		t.Errorf("the keys are %q", got)
	}
}

func FuzzOpen(f *testing.F) {
	self := identity.NodeID{2}
	s := sealOf(f, self, gossipA, gossipB)
	s.rand = bytes.NewReader(make([]byte, nonceSize)) // the fuzzer's processes must agree on what is good
	good, err := s.close(self, []byte("hello"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{s.tag})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, err := s.open(b); err == nil && !bytes.Equal(b, good) {
			t.Fatalf("opened %x to %x", b, plain)
		}
	})
}

func BenchmarkSealAndOpen(b *testing.B) {
	self := identity.NodeID{2}
	s := sealOf(b, self, gossipA)
	plain := make([]byte, 600)
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		packet, err := s.close(self, plain)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.open(packet); err != nil {
			b.Fatal(err)
		}
	}
}

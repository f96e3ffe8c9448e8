package control

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// world is a mesh with two members and everything a hello is judged by.
type world struct {
	t      testing.TB
	root   *identity.RootKey
	issuer *identity.Key
	trust  *certificate.Trust
	now    time.Time
	serial uint64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	var err error
	if w.root, err = identity.GenerateRoot(rand.Reader); err != nil {
		t.Fatal(err)
	}
	w.issuer = w.key()
	raw, err := certificate.SignIssuerByRoot(w.root, certificate.Issuer{
		Public: *w.issuer.Public(), Mesh: w.root.ID(), NotBefore: w.now.Add(-time.Hour), NotAfter: w.now.Add(24 * time.Hour), Serial: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.trust, err = certificate.NewTrust(w.root.Public()).WithIssuer(raw, w.now); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) key() *identity.Key {
	w.t.Helper()
	k, err := identity.Generate(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// chain certifies a key from and to the given hours from now.
func (w *world) chain(k *identity.Key, from, to time.Duration) *certificate.Chain {
	w.t.Helper()
	w.serial++
	raw, err := certificate.SignMember(w.issuer, certificate.Member{
		Public: *k.Public(), Mesh: w.root.ID(), Name: "nas", NotBefore: w.now.Add(from), NotAfter: w.now.Add(to), Serial: w.serial,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := w.trust.ChainFor(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// bound is the binding of a hello that key's node honestly makes as a dialer.
func bound(k *identity.Key) binding {
	return binding{role: dialer, exporter: [32]byte{42}, tlsKey: k.Public().Ed25519, address: k.Public().WireGuard}
}

func (w *world) hello(k *identity.Key, chain *certificate.Chain, b binding) hello {
	w.t.Helper()
	h, err := newHello(k, [instanceSize]byte{7}, chain, b)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// TestAHelloProvesWhoIsAtTheOtherEnd goes through what an attacker may try with hellos; each is judged by node us of the mesh.
func TestAHelloProvesWhoIsAtTheOtherEnd(t *testing.T) {
	w := newWorld(t)
	us, nas, thief := w.key(), w.key(), w.key()
	good := w.chain(nas, -time.Hour, time.Hour)
	elsewhere := newWorld(t)
	otherMesh := elsewhere.chain(nas, -time.Hour, time.Hour)
	// A chain whose member certificate was signed by somebody who may not.
	selfMade, err := certificate.SignMember(thief, certificate.Member{
		Public: *thief.Public(), Mesh: w.root.ID(), Name: "thief", NotBefore: w.now.Add(-time.Hour), NotAfter: w.now.Add(time.Hour), Serial: 9,
	})
	if err != nil {
		t.Fatal(err)
	}
	altered := func(h hello, change func(*hello)) hello { change(&h); return h }
	at := func(b binding, change func(*binding)) binding { change(&b); return b }
	revocation, err := certificate.SignRevocation(w.issuer, certificate.Revocation{Mesh: w.root.ID(), Node: nas.ID(), At: w.now, Reason: "stolen"})
	if err != nil {
		t.Fatal(err)
	}
	without, err := w.trust.WithRevocation(revocation)
	if err != nil {
		t.Fatal(err)
	}

	honest := w.hello(nas, good, bound(nas))
	for name, c := range map[string]struct {
		hello  hello
		over   binding
		judge  judge
		reason Reason // zero: accepted
		member bool
	}{
		"a member":                      {honest, bound(nas), judge{trust: w.trust, want: nas.ID()}, 0, true},
		"a member, whoever it is":       {honest, bound(nas), judge{trust: w.trust}, 0, true},
		"to one that is not enrolled":   {honest, bound(nas), judge{want: nas.ID()}, 0, false},
		"without a chain":               {w.hello(nas, nil, bound(nas)), bound(nas), judge{trust: w.trust}, 0, false},
		"another node than wanted":      {honest, bound(nas), judge{trust: w.trust, want: thief.ID()}, ReasonWrongNode, false},
		"our own identity":              {w.hello(us, nil, bound(us)), bound(us), judge{trust: w.trust}, ReasonWrongNode, false},
		"over another node's TLS":       {honest, at(bound(nas), func(b *binding) { b.tlsKey = thief.Public().Ed25519 }), judge{trust: w.trust}, ReasonBadHello, false},
		"replayed on a new connection":  {honest, at(bound(nas), func(b *binding) { b.exporter = [32]byte{43} }), judge{trust: w.trust}, ReasonBadHello, false},
		"sent back to who made it":      {honest, at(bound(nas), func(b *binding) { b.role = listener }), judge{trust: w.trust}, ReasonBadHello, false},
		"from another node's address":   {honest, at(bound(nas), func(b *binding) { b.address = thief.Public().WireGuard }), judge{trust: w.trust}, ReasonWrongNode, false},
		"with another member's chain":   {w.hello(thief, good, bound(thief)), bound(thief), judge{trust: w.trust}, ReasonNotMember, false},
		"with another member's halves":  {altered(w.hello(thief, good, bound(thief)), func(h *hello) { h.Public = honest.Public }), bound(thief), judge{trust: w.trust}, ReasonBadHello, false},
		"signed with another ML-DSA":    {altered(honest, func(h *hello) { h.Signature = w.hello(thief, nil, bound(nas)).Signature }), bound(nas), judge{trust: w.trust}, ReasonBadHello, false},
		"not signed":                    {altered(honest, func(h *hello) { h.Signature = nil }), bound(nas), judge{trust: w.trust}, ReasonBadHello, false},
		"of another version":            {altered(honest, func(h *hello) { h.Version = 2 }), bound(nas), judge{trust: w.trust}, ReasonBadHello, false},
		"with a short instance":         {altered(honest, func(h *hello) { h.Instance = nil }), bound(nas), judge{trust: w.trust}, ReasonBadHello, false},
		"with a chain of rubbish":       {altered(honest, func(h *hello) { h.Chain = []byte{1} }), bound(nas), judge{trust: w.trust}, ReasonNotMember, false},
		"with a certificate of its own": {w.hello(thief, &certificate.Chain{Root: w.root.Public(), Member: selfMade}, bound(thief)), bound(thief), judge{trust: w.trust}, ReasonNotMember, false},
		"expired":                       {w.hello(nas, w.chain(nas, -2*time.Hour, -time.Hour), bound(nas)), bound(nas), judge{trust: w.trust}, ReasonExpired, false},
		"from the future":               {w.hello(nas, w.chain(nas, time.Hour, 2*time.Hour), bound(nas)), bound(nas), judge{trust: w.trust}, ReasonNotYetValid, false},
		"of another mesh":               {w.hello(nas, otherMesh, bound(nas)), bound(nas), judge{trust: w.trust}, ReasonWrongMesh, false},
		"revoked":                       {honest, bound(nas), judge{trust: without}, ReasonRevoked, false},
		"revoked and hiding it":         {w.hello(nas, nil, bound(nas)), bound(nas), judge{trust: without}, ReasonRevoked, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.judge.self, c.judge.now = us.ID(), w.now
			v, err := c.judge.decide(c.hello, c.over)
			if c.reason == 0 {
				if err != nil || (v.peer.Member != nil) != c.member || v.peer.ID != nas.ID() || v.instance != [instanceSize]byte{7} {
					t.Errorf("member %v, %v", v.peer.Member != nil, err)
				}
				return
			}
			var refused *Refused
			if !errors.As(err, &refused) || Reason(refused.Code) != c.reason || !refused.Ours {
				t.Errorf("got %v, want %v", err, c.reason)
			}
		})
	}
}

func TestTheLargestHelloFits(t *testing.T) {
	k := newWorld(t).key()
	h, err := newHello(k, [instanceSize]byte{}, nil, bound(k))
	if err != nil {
		t.Fatal(err)
	}
	h.Chain = make([]byte, certificate.ChainMax)
	var b bytes.Buffer
	if err := wire.WriteMessage(&b, h, helloMax); err != nil {
		t.Error(err)
	}
}

func FuzzHello(f *testing.F) {
	w := newWorld(f)
	us, nas := w.key(), w.key()
	for _, chain := range []*certificate.Chain{nil, w.chain(nas, -time.Hour, time.Hour)} {
		b, err := wire.Marshal(w.hello(nas, chain, bound(nas)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var h hello
		if wire.Unmarshal(b, &h) != nil {
			return
		}
		v, err := judge{self: us.ID(), trust: w.trust, now: w.now}.decide(h, bound(nas))
		var refused *Refused
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("untyped error %v", err)
		}
		if err == nil && v.peer.ID != nas.ID() {
			t.Fatal("somebody else was let in")
		}
	})
}

func FuzzStreamHeader(f *testing.F) {
	for _, name := range []string{"", "enroll", "raft"} {
		header := make([]byte, headerSize)
		header[0] = byte(len(name))
		copy(header[1:], name)
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != headerSize {
			return
		}
		name, err := parseHeader([headerSize]byte(b))
		if err == nil && name != "" && !validProtocol(name) {
			t.Fatalf("accepted %q", name)
		}
	})
}

func TestReasonsFromOutsideAreSafeToPrint(t *testing.T) {
	long := string(bytes.Repeat([]byte{'a'}, 10_000))
	for in, want := range map[string]string{
		"gone\x1b[2J\n": "gone[2J",
		"\xff\xfe":      "",
		long:            long[:reasonMax],
	} {
		if got := showable(in); got != want {
			t.Errorf("%.20q: got %.40q, want %.40q", in, got, want)
		}
	}
}

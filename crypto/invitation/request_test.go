package invitation

import (
	"bytes"
	"errors"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/vector"
	"github.com/phantommesh/phantommesh/internal/wire"
)

var update = flag.Bool("update", false, "rewrite the vectors")

func joiner(t testing.TB) *identity.Key {
	t.Helper()
	k, err := identity.Generate(vector.Rand("joiner"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(t testing.TB, k *identity.Key) Request {
	tok := token(t, 1)
	return Request{Mesh: tok.Mesh, Public: *k.Public(), Name: "nas", Region: "home", Invitation: tok.ID(),
		Proof: Proof(tok.Key(), tok.Mesh, k.ID()), Time: time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)}
}

func TestARequestIsWhatTheJoinerSigned(t *testing.T) {
	k := joiner(t)
	want := request(t, k)
	raw, err := SignRequest(k, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got.Mesh != want.Mesh || got.Name != want.Name || got.Region != want.Region || got.Invitation != want.Invitation || got.Proof != want.Proof ||
		!got.Time.Equal(want.Time) || got.Public.NodeID() != k.ID() {
		t.Errorf("%+v", got)
	}
	for i := 0; i < len(raw); i += 11 {
		bad := bytes.Clone(raw)
		bad[i] ^= 2
		if _, err := ParseRequest(bad); !errors.Is(err, ErrRequest) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
}

func TestARequestCannotBeTurnedToAnotherIdentity(t *testing.T) {
	k := joiner(t)
	raw, err := SignRequest(k, request(t, k))
	if err != nil {
		t.Fatal(err)
	}
	thief, err := identity.Generate(vector.Rand("thief"))
	if err != nil {
		t.Fatal(err)
	}
	// The thief passes a request on with his own keys: he can sign it, but the proof is not his.
	r, err := ParseRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	raw, err = SignRequest(thief, *r)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := ParseRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if stolen.Public.NodeID() != thief.ID() || VerifyProof(token(t, 1).Key(), stolen.Mesh, stolen.Public.NodeID(), stolen.Proof) {
		t.Fatal("the proof holds for the thief")
	}
}

func TestRequestsAreBounded(t *testing.T) {
	k := joiner(t)
	for name, change := range map[string]func(*Request){
		"no name":           func(r *Request) { r.Name = "" },
		"odd name":          func(r *Request) { r.Name = "NAS\n" },
		"odd region":        func(r *Request) { r.Region = "e/u" },
		"odd invitation ID": func(r *Request) { r.Invitation = strings.Repeat("0", 4000) },
	} {
		r := request(t, k)
		change(&r)
		if _, err := SignRequest(k, r); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
		// A changed program signs it all the same.
		pub, _ := k.Public().MarshalBinary()
		body, _ := wire.Marshal(requestBody{Mesh: r.Mesh, Public: pub, Name: r.Name, Region: r.Region, Invitation: r.Invitation})
		sig, _ := k.Sign(requestContext, body)
		raw, _ := wire.Marshal(signedRequest{Body: body, Signature: sig})
		if _, err := ParseRequest(raw); !errors.Is(err, ErrRequest) {
			t.Errorf("%s, read: %v", name, err)
		}
	}
	if _, err := ParseRequest(make([]byte, RequestMax+1)); !errors.Is(err, ErrRequest) {
		t.Errorf("too long: %v", err)
	}
}

// vectors is testdata/vectors/invitation.json.
type vectors struct {
	Tokens  []tokenVector
	Request vector.Hex // of the second token
	Node    identity.NodeID
}

type tokenVector struct {
	Text    string
	ID      string
	Mesh    identity.MeshID
	Secret  vector.Hex
	Key     vector.Hex
	Members []memberVector
}

type memberVector struct {
	ID        identity.NodeID
	Addresses []string
}

func TestVectors(t *testing.T) {
	k := joiner(t)
	v := vectors{Node: k.ID()}
	for _, tok := range []Token{token(t, 3, "192.0.2.1:51820", "[2001:db8::1]:51820"), token(t, 1)} {
		key := tok.Key()
		tv := tokenVector{Text: text(t, tok), ID: tok.ID(), Mesh: tok.Mesh, Secret: tok.Secret[:], Key: key[:]}
		for _, m := range tok.Members {
			mv := memberVector{ID: m.ID}
			for _, a := range m.Addresses {
				mv.Addresses = append(mv.Addresses, a.String())
			}
			tv.Members = append(tv.Members, mv)
		}
		v.Tokens = append(v.Tokens, tv)
	}
	raw, err := SignRequest(k, request(t, k))
	if err != nil {
		t.Fatal(err)
	}
	v.Request = raw
	vector.Check(t, "invitation", v, *update)
}

func TestTokensOnPaperStillRead(t *testing.T) {
	var v vectors
	vector.Read(t, "invitation", &v)
	var last Token
	for _, tv := range v.Tokens {
		got, err := Parse(tv.Text)
		if err != nil || got.ID() != tv.ID || got.Mesh != tv.Mesh || len(got.Members) != len(tv.Members) {
			t.Fatalf("%s: %v, %v", tv.Text, got, err)
		}
		last = got
	}
	r, err := ParseRequest(v.Request)
	if err != nil || r.Public.NodeID() != v.Node || !VerifyProof(last.Key(), last.Mesh, v.Node, r.Proof) {
		t.Fatalf("request: %v", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	var v vectors
	vector.Read(f, "invitation", &v)
	f.Add([]byte(v.Request))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRequest(b); err == nil && r.Public.NodeID() == v.Node && !bytes.Equal(b, v.Request) {
			t.Fatal("forged")
		}
	})
}

package invitation

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/vector"
)

func token(t testing.TB, members int, addresses ...string) Token {
	t.Helper()
	r := vector.Rand("token")
	var out Token
	read := func(b []byte) {
		if _, err := r.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	read(out.Mesh[:])
	read(out.Secret[:])
	for range members {
		var m Member
		read(m.ID[:])
		for _, a := range addresses {
			m.Addresses = append(m.Addresses, netip.MustParseAddrPort(a))
		}
		out.Members = append(out.Members, m)
	}
	return out
}

func text(t testing.TB, token Token) string {
	t.Helper()
	s, err := token.Text()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEveryTokenIsShortEnoughAndReadsBack(t *testing.T) {
	const v6, v4 = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535", "192.0.2.200:51820"
	longest := 0
	for members := 1; members <= MembersMax; members++ {
		for _, addresses := range [][]string{nil, {v4}, {v6}, {v4, v6}, {v6, v6}} {
			in := token(t, members, addresses...)
			s := text(t, in)
			longest = max(longest, len(s))
			if len(s) >= TextMax || !strings.HasPrefix(s, "pm1") {
				t.Errorf("%d members at %v: %d characters: %s", members, addresses, len(s), s)
			}
			out, err := Parse(s)
			if err != nil || !reflect.DeepEqual(in, out) {
				t.Errorf("%d members at %v: read back as %+v, %v", members, addresses, out.Members, err)
			}
		}
	}
	if longest != 358 {
		t.Errorf("the longest token has %d characters, its documentation says 358", longest)
	}
}

func TestATokenSurvivesTheClipboard(t *testing.T) {
	s := text(t, token(t, 2, "192.0.2.1:51820"))
	for name, pasted := range map[string]string{
		"line end": s + "\r\n", "wrapped": s[:80] + "\n" + s[80:], "indented": "  " + s, "wrapped and indented": s[:80] + "\r\n\t" + s[80:],
	} {
		if got, err := Parse(pasted); err != nil || text(t, got) != s {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTextsThatAreNoTokensSayWhy(t *testing.T) {
	s := text(t, token(t, 1, "192.0.2.1:51820"))
	for name, tc := range map[string]struct {
		text string
		want error
	}{
		"nothing":                {"", ErrNotAToken},
		"prefix alone":           {"pm", ErrNotAToken},
		"some word":              {"pmx", ErrNotAToken},
		"a URL":                  {"https://example.org/" + s, ErrNotAToken},
		"a novel":                {strings.Repeat(s, 20), ErrNotAToken},
		"version alone":          {"pm1", ErrDamaged},
		"newer":                  {"pm2" + s[3:], ErrNewer},
		"last character missing": {s[:len(s)-1], ErrDamaged},
		"first half":             {s[:len(s)/2], ErrDamaged},
		"twice":                  {s + s, ErrDamaged},
		"wrong alphabet":         {s[:10] + "+" + s[11:], ErrDamaged},
	} {
		if _, err := Parse(tc.text); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	for i := len("pm1"); i < len(s); i++ {
		c := byte('A')
		if s[i] == c {
			c = 'B'
		}
		if _, err := Parse(s[:i] + string(c) + s[i+1:]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("character %d mistyped: %v", i, err)
		}
	}
}

func TestTokensThatNobodyCouldUseAreNotMade(t *testing.T) {
	for name, bad := range map[string]Token{
		"no member":         token(t, 0),
		"four members":      token(t, MembersMax+1),
		"three addresses":   token(t, 1, "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"),
		"no port":           token(t, 1, "192.0.2.1:0"),
		"zone":              token(t, 1, "[fe80::1%eth0]:1"),
		"no address at all": {Members: []Member{{Addresses: []netip.AddrPort{{}}}}},
	} {
		if s, err := bad.Text(); err == nil {
			t.Errorf("%s: %s", name, s)
		}
	}
	// A socket for both families reports IPv4 addresses in IPv6; the token holds them as what they are.
	if got, err := Parse(text(t, token(t, 1, "[::ffff:192.0.2.1]:9"))); err != nil || got.Members[0].Addresses[0].String() != "192.0.2.1:9" {
		t.Errorf("%v, %v", got.Members, err)
	}
}

func TestATokenDoesNotShowItsSecret(t *testing.T) {
	in := token(t, 1)
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		fmt.Fprintf(&out, verb, in)
		fmt.Fprintf(&out, verb, &in)
		fmt.Fprintf(&out, verb, []Token{in})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("made", "token", in)
	shown := strings.ToLower(out.String())
	for _, form := range []string{fmt.Sprintf("%x", in.Secret[:6]), strings.Trim(fmt.Sprint(in.Secret[:6]), "[]"), strings.ToLower(text(t, in)[3:40])} {
		if strings.Contains(shown, form) {
			t.Errorf("the secret shows as %s", form)
		}
	}
	if !strings.Contains(shown, in.ID()) {
		t.Errorf("the ID does not show: %s", shown)
	}
}

func TestAProofIsForOneNodeInOneMesh(t *testing.T) {
	a := token(t, 1)
	b := a
	b.Secret[0]++
	node, mesh := identity.NodeID{1}, a.Mesh
	proof := Proof(a.Key(), mesh, node)
	if !VerifyProof(a.Key(), mesh, node, proof) {
		t.Fatal("not accepted")
	}
	if VerifyProof(a.Key(), mesh, identity.NodeID{2}, proof) || VerifyProof(a.Key(), identity.MeshID{2}, node, proof) ||
		VerifyProof(b.Key(), mesh, node, proof) || VerifyProof(a.Key(), mesh, node, [32]byte{}) {
		t.Error("accepted elsewhere")
	}
	if a.ID() == b.ID() || len(a.ID()) != idTextSize {
		t.Errorf("IDs %s, %s", a.ID(), b.ID())
	}
}

func FuzzParse(f *testing.F) {
	f.Add(text(f, token(f, 3, "192.0.2.1:51820", "[2001:db8::1]:51820")))
	f.Add(text(f, token(f, 1)))
	f.Add("pm1")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Parse(s)
		if err != nil {
			return
		}
		if again := text(t, got); again != strings.Join(strings.Fields(s), "") {
			t.Fatalf("%q has another form %q", s, again)
		}
	})
}

// FuzzDecode goes behind the checksum, which a fuzzer would not get past.
func FuzzDecode(f *testing.F) {
	f.Add(make([]byte, 49))
	f.Add(append(make([]byte, 48), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decode(b)
		if err != nil {
			return
		}
		if again, err := Parse(text(t, got)); err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("%x does not come back (%v)", b, err)
		}
	})
}

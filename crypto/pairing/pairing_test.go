package pairing

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

func nonce(n int) (out Nonce) {
	binary.BigEndian.PutUint64(out[:], uint64(n)+1)
	return out
}

var (
	mesh   = identity.MeshID{7}
	direct = Session{Joiner: identity.NodeID{1}, Member: identity.NodeID{2}, Exporter: sha256.Sum256([]byte("one connection"))}
)

func TestBothSidesShowTheSameSixDigits(t *testing.T) {
	theirs := Session{Joiner: direct.Joiner, Member: direct.Member, Exporter: direct.Exporter}
	for n := range 100 {
		code := direct.Code(mesh, nonce(n), nonce(n+1000))
		if got := theirs.Code(mesh, nonce(n), nonce(n+1000)); got != code || !IsCode(code) {
			t.Fatalf("%q and %q", code, got)
		}
	}
	// Programs of different versions must agree: the number is part of the protocol.
	if got := direct.Code(mesh, nonce(1), nonce(2)); got != "510087" {
		t.Errorf("the code of the vector is %s", got)
	}
}

func TestTheCodeDependsOnEverythingThatWasExchanged(t *testing.T) {
	want := direct.Code(mesh, nonce(1), nonce(2))
	for name, got := range map[string]string{
		"another joiner":         Session{Joiner: identity.NodeID{9}, Member: direct.Member, Exporter: direct.Exporter}.Code(mesh, nonce(1), nonce(2)),
		"another member":         Session{Joiner: direct.Joiner, Member: identity.NodeID{9}, Exporter: direct.Exporter}.Code(mesh, nonce(1), nonce(2)),
		"another connection":     Session{Joiner: direct.Joiner, Member: direct.Member}.Code(mesh, nonce(1), nonce(2)),
		"another mesh":           direct.Code(identity.MeshID{8}, nonce(1), nonce(2)),
		"another joiner's nonce": direct.Code(mesh, nonce(3), nonce(2)),
		"another member's nonce": direct.Code(mesh, nonce(1), nonce(3)),
		"the roles exchanged":    direct.Code(mesh, nonce(2), nonce(1)),
	} {
		if got == want {
			t.Errorf("%s: still %s", name, got)
		}
	}
}

func TestACommitmentOpensOnlyWithItsNonceInItsSession(t *testing.T) {
	c := direct.Commit(nonce(1))
	other := direct
	other.Exporter[0] ^= 1
	if !direct.Opens(c, nonce(1)) || direct.Opens(c, nonce(2)) || other.Opens(c, nonce(1)) {
		t.Error("the commitment binds nothing")
	}
}

// TestAMachineInTheMiddleGetsOneGuessAnAttempt plays the strongest order: the machine in the middle completes one side first, and only then
// sends what it must on the other, where a nonce that it does not know yet decides.
func TestAMachineInTheMiddleGetsOneGuessAnAttempt(t *testing.T) {
	middle := identity.NodeID{66}
	toMember := Session{Joiner: middle, Member: direct.Member, Exporter: sha256.Sum256([]byte("to the member"))}
	toJoiner := Session{Joiner: direct.Joiner, Member: middle, Exporter: sha256.Sum256([]byte("to the joiner"))}
	const attempts = 20_000
	hits := 0
	for n := range attempts {
		// The member's side is complete: the code is known.
		shown := toMember.Code(mesh, nonce(3*n), nonce(3*n+1))
		// On the joiner's side the commitment is there. The best that can be done is a nonce that gives the shown code for a guess of the
		// joiner's nonce; the joiner's real one is another.
		guess, reply := nonce(10_000_000+n), nonce(0)
		for try := range 50 {
			if reply = nonce(20_000_000 + try); toJoiner.Code(mesh, guess, reply)[:1] == shown[:1] {
				break
			}
		}
		if toJoiner.Code(mesh, nonce(3*n+2), reply) == shown {
			hits++
		}
	}
	if hits > 2 { // 0.02 are expected
		t.Errorf("%d of %d attempts gave equal codes", hits, attempts)
	}
}

func TestMessagesTravelAndAreBounded(t *testing.T) {
	var b bytes.Buffer
	if err := WriteHello(&b, [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	if h, err := ReadHello(&b); err != nil || h.Commitment != [32]byte{1} {
		t.Errorf("%+v %v", h, err)
	}
	offer := Offer{Mesh: mesh, Name: "home", Nonce: nonce(1)}
	if err := WriteOffer(&b, offer); err != nil {
		t.Fatal(err)
	}
	if o, err := ReadOffer(&b); err != nil || o != offer {
		t.Errorf("%+v %v", o, err)
	}
	for name, o := range map[string]Offer{"no mesh": {Name: "home"}, "no name": {Mesh: mesh}, "a name for terminals": {Mesh: mesh, Name: "a\x1b[2J"}, "a sermon": {Refusal: strings.Repeat("x", 400)}} {
		b.Reset()
		if err := WriteOffer(&b, o); err != nil {
			t.Fatal(name, err)
		}
		if _, err := ReadOffer(&b); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []Notice{{Kind: NoticeWaiting}, {Kind: NoticeAdmitted, Body: []byte{1}}, {Kind: NoticeRefused, Reason: strings.Repeat("x", 1000)}} {
		b.Reset()
		if err := WriteNotice(&b, n); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadNotice(&b); err != nil || got.Kind != n.Kind || len(got.Reason) > reasonMax {
			t.Errorf("%+v %v", got, err)
		}
	}
	for _, n := range []Notice{{}, {Kind: NoticeAdmitted}, {Kind: NoticeWaiting, Body: []byte{1}}, {Kind: 9}} {
		b.Reset()
		if err := WriteNotice(&b, n); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadNotice(&b); !errors.Is(err, ErrMessage) {
			t.Errorf("%+v: %v", n, err)
		}
	}
}

func FuzzMessages(f *testing.F) {
	for i, write := range []func(*bytes.Buffer) error{
		func(b *bytes.Buffer) error { return WriteHello(b, [32]byte{1}) },
		func(b *bytes.Buffer) error { return WriteOffer(b, Offer{Mesh: mesh, Name: "home"}) },
		func(b *bytes.Buffer) error { return WriteReveal(b, Reveal{Request: []byte{1}}) },
		func(b *bytes.Buffer) error { return WriteNotice(b, Notice{Kind: NoticeWaiting}) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b.Bytes())
	}
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		r := bytes.NewReader(raw)
		switch which % 4 {
		case 0:
			_, _ = ReadHello(r)
		case 1:
			if o, err := ReadOffer(r); err == nil && o.Refusal == "" && o.Name == "" {
				t.Error("an offer without a name")
			}
		case 2:
			_, _ = ReadReveal(r)
		case 3:
			_, _ = ReadNotice(r)
		}
	})
}

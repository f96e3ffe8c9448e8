package exchange

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/vector"
)

// pair gives two machines that speak to each other.
func pair(seed string) (a, b *Machine) {
	low, high := identity.NodeID{1}, identity.NodeID{2}
	return New(low, high, vector.Rand("a "+seed)), New(high, low, vector.Rand("b "+seed))
}

// run carries out one exchange from which nothing is lost.
func run(from, to *Machine, exporter [32]byte) error {
	o, err := from.Start()
	if err != nil {
		return err
	}
	a, err := to.HandleOffer(o, exporter)
	if err != nil {
		return err
	}
	c, err := from.HandleAccept(a, exporter)
	if err != nil {
		return err
	}
	if err := to.HandleConfirm(c); err != nil {
		return err
	}
	return from.Proven(o.Epoch)
}

func TestBothSidesHoldTheSameKeyAndTheOneBefore(t *testing.T) {
	a, b := pair("rotation")
	if _, _, ok := a.Current(); ok {
		t.Fatal("a key out of nothing")
	}
	var last PSK
	for epoch := uint64(1); epoch <= 5; epoch++ {
		from, to := a, b
		if epoch%2 == 0 {
			from, to = b, a
		}
		if err := run(from, to, exporterOf(1)); err != nil {
			t.Fatal(err)
		}
		for _, m := range []*Machine{a, b} {
			psk, e, ok := m.Current()
			if want, _, _ := a.Current(); !ok || e != epoch || psk != want || psk == last || psk == (PSK{}) {
				t.Fatalf("epoch %d: %d, %v", epoch, e, ok)
			}
			if before, e, ok := m.Previous(); ok != (epoch > 1) || (ok && (e != epoch-1 || before != last)) {
				t.Fatalf("epoch %d: the one before is %d, %v", epoch, e, ok)
			}
		}
		last, _, _ = a.Current()
	}
}

func TestAKeyDependsOnEverythingItIsBoundTo(t *testing.T) {
	base := New(identity.NodeID{1}, identity.NodeID{2}, nil)
	secret := make([]byte, 32)
	want := base.derive(secret, exporterOf(1), 1)
	if New(identity.NodeID{2}, identity.NodeID{1}, nil).derive(secret, exporterOf(1), 1) != want {
		t.Error("the other end derives another key")
	}
	for name, got := range map[string]PSK{
		"secret":   base.derive(append([]byte{1}, secret[1:]...), exporterOf(1), 1),
		"exporter": base.derive(secret, exporterOf(2), 1),
		"epoch":    base.derive(secret, exporterOf(1), 2),
		"our ID":   New(identity.NodeID{3}, identity.NodeID{2}, nil).derive(secret, exporterOf(1), 1),
		"their ID": New(identity.NodeID{1}, identity.NodeID{3}, nil).derive(secret, exporterOf(1), 1),
	} {
		if got == want {
			t.Errorf("another %s, the same key", name)
		}
	}
}

// TestAnswersAgreeWithTheStandardLibrary computes the initiator's side of X-Wing from its parts in another library: ML-KEM-768, X25519 and SHA3
// (draft-connolly-cfrg-xwing-kem §5.4), then the PSK.
func TestAnswersAgreeWithTheStandardLibrary(t *testing.T) {
	a, b := pair("library")
	o, err := a.Start()
	if err != nil {
		t.Fatal(err)
	}
	shake := sha3.NewSHAKE256()
	_, _ = shake.Write(a.private[:])
	var expanded [96]byte
	_, _ = shake.Read(expanded[:])
	kem, err := mlkem.NewDecapsulationKey768(expanded[:64])
	if err != nil {
		t.Fatal(err)
	}
	x, err := ecdh.X25519().NewPrivateKey(expanded[64:])
	if err != nil {
		t.Fatal(err)
	}
	public := append(kem.EncapsulationKey().Bytes(), x.PublicKey().Bytes()...)
	if !bytes.Equal(public, o.PublicKey[:]) {
		t.Fatal("another public key")
	}
	accept, err := b.HandleOffer(o, exporterOf(1))
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := accept.Ciphertext[:mlkem.CiphertextSize768], accept.Ciphertext[mlkem.CiphertextSize768:]
	kemSecret, err := kem.Decapsulate(ours)
	if err != nil {
		t.Fatal(err)
	}
	point, err := ecdh.X25519().NewPublicKey(theirs)
	if err != nil {
		t.Fatal(err)
	}
	xSecret, err := x.ECDH(point)
	if err != nil {
		t.Fatal(err)
	}
	h := sha3.New256()
	for _, part := range [][]byte{kemSecret, xSecret, theirs, x.PublicKey().Bytes(), []byte(`\.//^\`)} {
		h.Write(part)
	}
	exporter := exporterOf(1)
	info := binary.BigEndian.AppendUint64(append(append([]byte(nil), a.our[:]...), a.their[:]...), o.Epoch)
	psk, err := hkdf.Key(sha256.New, append(h.Sum(nil), exporter[:]...), []byte("phantommesh psk v1"), string(info), 32)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := b.Pending(); got != PSK(psk) {
		t.Fatal("another key")
	}
}

func TestEpochsEndGracefully(t *testing.T) {
	a, b := pair("end")
	o, err := a.Start()
	if err != nil {
		t.Fatal(err)
	}
	o.Epoch = EpochMax
	if _, err := b.HandleOffer(o, exporterOf(1)); err != nil {
		t.Fatal(err)
	}
	for _, epoch := range []uint64{0, EpochMax + 1, 1<<64 - 1} {
		o.Epoch = epoch
		if _, err := b.HandleOffer(o, exporterOf(1)); !errors.Is(err, ErrMessage) {
			t.Errorf("epoch %d: %v", epoch, err)
		}
		if _, err := ParseOffer(o.Marshal()); !errors.Is(err, ErrMessage) {
			t.Errorf("epoch %d, read: %v", epoch, err)
		}
	}
	a.Abandon() // its stream was refused
	if err := run(b, a, exporterOf(1)); !errors.Is(err, ErrYield) {
		t.Fatalf("b does not wait for the confirm: %v", err)
	}
	if err := run(b, a, exporterOf(1)); err != nil {
		t.Fatalf("after the last epoch: %v", err)
	}
	if _, epoch, _ := a.Current(); epoch != 1 {
		t.Errorf("it goes on at %d", epoch)
	}
}

func TestWithoutRandomnessNothingHappens(t *testing.T) {
	a, b := pair("empty")
	o, err := a.Start()
	if err != nil {
		t.Fatal(err)
	}
	dry := New(b.our, b.their, strings.NewReader("too little"))
	if _, err := dry.Start(); err == nil {
		t.Error("an offer from too little randomness")
	}
	if _, err := dry.HandleOffer(o, exporterOf(1)); err == nil {
		t.Error("an answer from too little randomness")
	}
	if describe(dry) != describe(New(b.our, b.their, nil)) {
		t.Errorf("its state changed: %s", describe(dry))
	}
}

func TestOldSecretsAreWiped(t *testing.T) {
	a, b := pair("wipe")
	if err := run(a, b, exporterOf(1)); err != nil {
		t.Fatal(err)
	}
	if a.private != [32]byte{} || b.pending != (key{}) {
		t.Error("secrets of a finished exchange are still there")
	}
	if _, err := a.Start(); err != nil {
		t.Fatal(err)
	}
	a.Wipe()
	if a.private != [32]byte{} || a.current != (key{}) || a.previous != (key{}) || a.pending != (key{}) {
		t.Error("secrets are still there after Wipe")
	}
	// And the pair finds together again, whoever begins.
	if err := run(b, a, exporterOf(1)); err != nil {
		t.Error(err)
	}
}

func TestKeysNeverShow(t *testing.T) {
	psk := PSK{0xab, 0xcd, 0xef, 0x12}
	var out strings.Builder
	for _, v := range []any{psk, &psk, []PSK{psk}, struct{ Key PSK }{psk}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("made", "psk", psk)
	for _, form := range []string{"abcd", "171 205", "0xab"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("shows as %s:\n%s", form, out.String())
		}
	}
}

// FuzzSchedule has two nodes go through any order of starts, deliveries, losses, proofs and restarts, then gives them a network that works.
// They must find together within three exchanges, and never hold different keys that both call proven for one epoch.
func FuzzSchedule(f *testing.F) {
	f.Add([]byte{0, 4, 5, 4, 8})
	f.Add([]byte{0, 1, 4, 5, 4, 5})
	f.Add([]byte{0, 4, 5, 4, 0, 4, 5, 3, 1, 5, 4, 5})
	f.Fuzz(func(t *testing.T, steps []byte) {
		if len(steps) > 64 {
			return
		}
		s := newStage()
		names := [2]string{"a", "b"}
		var wire [2][]any // to a, to b: oldest first
		for i, step := range steps {
			who := int(step & 1)
			m, out := s.machines[names[who]], &wire[1-who]
			switch step % 10 {
			case 0, 1:
				switch o, err := m.Start(); {
				case err == nil:
					*out = append(*out, o)
				case !errors.Is(err, ErrYield):
					t.Fatal(err)
				}
			case 2, 3:
				s.place(names[who])
			case 4, 5, 6:
				if len(wire[who]) > 0 {
					msg := wire[who][0]
					wire[who] = wire[who][1:]
					if answer := handle(m, msg); answer != nil {
						*out = append(*out, answer)
					}
				}
			case 7:
				wire[who] = nil
			case 8, 9:
				prove(m, s.machines[names[1-who]])
			}
			sound(t, s.machines["a"], s.machines["b"], i)
		}
		a, b := s.machines["a"], s.machines["b"]
		if len(steps)%2 == 1 {
			a, b = b, a
		}
		var err error
		for range 3 {
			if err = run(a, b, exporterOf(1)); err == nil {
				break
			}
		}
		x, i, _ := a.Current()
		y, j, ok := b.Current()
		if err != nil || !ok || x != y || i != j {
			t.Fatalf("stranded: %v\n%s\n%s", err, describe(a), describe(b))
		}
	})
}

func handle(m *Machine, msg any) any {
	switch msg := msg.(type) {
	case Offer:
		if a, err := m.HandleOffer(msg, exporterOf(1)); err == nil {
			return a
		}
	case Accept:
		if c, err := m.HandleAccept(msg, exporterOf(1)); err == nil {
			return c
		}
	case Confirm:
		_ = m.HandleConfirm(msg)
	}
	return nil
}

// prove is WireGuard: a handshake succeeds if a key of one is the key in force at the other.
func prove(m, peer *Machine) {
	for _, k := range []key{m.pending, m.current} {
		if k.epoch != 0 && k.psk == peer.current.psk {
			_ = m.Proven(k.epoch)
			return
		}
	}
}

func sound(t *testing.T, a, b *Machine, step int) {
	t.Helper()
	for _, x := range []key{a.current, a.previous} {
		for _, y := range []key{b.current, b.previous} {
			if x.epoch != 0 && x.epoch == y.epoch && x.proven && y.proven && x.psk != y.psk && a.their == b.our && sameSeries(a, b) {
				t.Fatalf("step %d: both call different keys of epoch %d proven\n%s\n%s", step, x.epoch, describe(a), describe(b))
			}
		}
	}
}

// sameSeries is false while one of the two has begun afresh and the other still counts on from before: then one epoch may have had two keys.
func sameSeries(a, b *Machine) bool {
	return a.current.epoch == b.current.epoch && a.current.psk == b.current.psk
}

func BenchmarkExchange(b *testing.B) {
	x, y := pair("bench")
	exporter := exporterOf(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := run(x, y, exporter); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(OfferSize+AcceptSize+ConfirmSize, "wire-bytes/op")
}

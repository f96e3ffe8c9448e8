package reach

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

func encoded(t testing.TB, v any, max int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := wire.WriteMessage(&b, v, max); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fullSituation fills everything to its bound.
func fullSituation(t testing.TB) []byte {
	t.Helper()
	s := nat.Situation{Kind: peer.NATBlocked, Mapping: nat.AddressAndPortDependent, Filtering: nat.AddressAndPortDependent}
	for i := range candidatesMax {
		a := netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 15: byte(i + 1)})
		s.Candidates = append(s.Candidates, peer.Endpoint{Addr: netip.AddrPortFrom(a, 65535), Kind: peer.PortMapped})
		if i < nat.MappedMax {
			s.Mapped = append(s.Mapped, netip.AddrPortFrom(a, 65535))
		}
	}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheLargestMessagesFitTheirBounds(t *testing.T) {
	id := identity.NodeID(bytes.Repeat([]byte{255}, 32))
	encoded(t, relayRequest{Op: opOffer, Node: id, Channel: 1<<32 - 1}, relayMessageMax)
	encoded(t, relayAnswer{Code: 255, Channel: 1<<32 - 1, Load: 255}, relayMessageMax)
	nonce := make([]byte, nonceSize)
	encoded(t, punchOffer{Nonce: nonce, Situation: fullSituation(t), Fan: true}, punchMax)
	encoded(t, punchAnswer{Code: punchLast, Nonce: nonce, Situation: fullSituation(t), Fan: true}, punchMax)
}

func TestAddressesThatAreNoneOfAnotherMachineAreLeftOut(t *testing.T) {
	good := nat.Situation{Kind: peer.NATEasy}
	for _, a := range append(aps("203.0.113.1:1 [2001:db8::1]:2 192.168.1.1:3"), netip.AddrPortFrom(linkAddresses.Addr().Next(), 1), ap("[100::1:0:1]:1")) {
		good.Mapped = append(good.Mapped[:min(len(good.Mapped), 3)], a)
		good.Candidates = append(good.Candidates, peer.Endpoint{Addr: a, Kind: peer.Local})
	}
	b, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := readSituation(b)
	if err != nil || len(got.Mapped) != 3 || len(got.Candidates) != 3 {
		t.Errorf("%v, %v: what looks like a link of ours was taken", got, err)
	}
	good.Candidates = []peer.Endpoint{{Addr: ap("127.0.0.1:1"), Kind: peer.Local}, {Addr: ap("203.0.113.1:1"), Kind: peer.Local}}
	if b, err = cleaned(good).Encode(); err != nil {
		t.Fatal(err)
	}
	if got, err = readSituation(b); err != nil || len(got.Candidates) != 1 {
		t.Errorf("%v, %v: our own loopback is told", got, err)
	}
}

func FuzzRelay(f *testing.F) {
	for _, q := range []relayRequest{{Op: opRegister}, {Op: opOpen, Node: identity.NodeID{1}}, {Op: opOffer, Node: identity.NodeID{2}, Channel: 7}} {
		f.Add(encoded(f, q, relayMessageMax))
	}
	f.Add(encoded(f, relayAnswer{Channel: 9, Load: 12}, relayMessageMax))
	f.Add(encoded(f, relayAnswer{Code: RefusedFull}, relayMessageMax))
	f.Add(encoded(f, relayBeat{Load: 50}, relayMessageMax))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q relayRequest
		if wire.ReadMessage(bytes.NewReader(b), &q, relayMessageMax) == nil && q.valid() && !bytes.HasPrefix(b, encoded(t, q, relayMessageMax)) {
			t.Fatalf("two encodings of %+v", q)
		}
		var a relayAnswer
		if wire.ReadMessage(bytes.NewReader(b), &a, relayMessageMax) == nil && a.valid(relayRequest{Op: opOpen}) && (a.Code > refusalLast || a.Load > 100) {
			t.Fatalf("%+v is taken", a)
		}
		var beat relayBeat
		_ = wire.ReadMessage(bytes.NewReader(b), &beat, relayMessageMax)
	})
}

func FuzzPunch(f *testing.F) {
	nonce := make([]byte, nonceSize)
	f.Add(encoded(f, punchOffer{Nonce: nonce, Situation: fullSituation(f), Fan: true}, punchMax))
	f.Add(encoded(f, punchAnswer{Nonce: nonce, Situation: fullSituation(f)}, punchMax))
	f.Add(encoded(f, punchAnswer{Code: punchBusy, Nonce: nonce, Situation: []byte{}}, punchMax))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(raw []byte) {
			s, err := readSituation(raw)
			if err != nil {
				return
			}
			if len(s.Candidates) > candidatesMax || len(s.Mapped) > nat.MappedMax {
				t.Fatalf("%+v is taken", s)
			}
			for _, e := range s.Candidates {
				if !usable(e.Addr) {
					t.Fatalf("%s would be tried", e.Addr)
				}
			}
		}
		var q punchOffer
		if wire.ReadMessage(bytes.NewReader(b), &q, punchMax) == nil {
			check(q.Situation)
		}
		var a punchAnswer
		if wire.ReadMessage(bytes.NewReader(b), &a, punchMax) == nil {
			check(a.Situation)
		}
	})
}

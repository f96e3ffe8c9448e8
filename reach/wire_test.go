package reach

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
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

// fullBrief fills everything to its bound.
func fullBrief() brief {
	b := brief{situation: Situation{Kind: peer.NATBlocked, Mapping: AddressAndPortDependent}, fan: true}
	for i := range candidatesMax {
		a := netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 15: byte(i + 1)})
		b.candidates = append(b.candidates, peer.Endpoint{Addr: netip.AddrPortFrom(a, 65535), Kind: peer.PortMapped})
		if i < mappedMax {
			b.situation.Mapped = append(b.situation.Mapped, netip.AddrPortFrom(a, 65535))
		}
	}
	return b
}

func TestTheLargestMessagesFitTheirBounds(t *testing.T) {
	id := identity.NodeID(bytes.Repeat([]byte{255}, 32))
	encoded(t, relayRequest{Op: opOffer, Node: id, Channel: 1<<32 - 1}, relayMessageMax)
	encoded(t, relayAnswer{Code: 255, Channel: 1<<32 - 1, Load: 255}, relayMessageMax)
	s, c := fullBrief().wire()
	nonce := make([]byte, nonceSize)
	encoded(t, punchOffer{Nonce: nonce, Situation: s, Candidates: c, Fan: true}, punchMax)
	encoded(t, punchAnswer{Code: punchLast, Nonce: nonce, Situation: s, Candidates: c, Fan: true}, punchMax)
}

func TestABriefSurvivesTheTrip(t *testing.T) {
	for _, b := range []brief{{}, fullBrief()} {
		s, c := b.wire()
		got, ok := readBrief(s, c, b.fan)
		if !ok || fmt.Sprint(got) != fmt.Sprint(b) {
			t.Errorf("got %v, %v, want %v", got, ok, b)
		}
	}
}

func TestBriefsThatMakeNoSenseAreRefused(t *testing.T) {
	good, candidates := brief{situation: Situation{Kind: peer.NATEasy, Mapped: aps("203.0.113.1:1")},
		candidates: []peer.Endpoint{{Addr: ap("203.0.113.1:1"), Kind: peer.Mapped}}}.wire()
	for name, change := range map[string]func(s *wireSituation, c *[]wireCandidate){
		"NAT 5":             func(s *wireSituation, _ *[]wireCandidate) { s.NAT = 5 },
		"mapping 4":         func(s *wireSituation, _ *[]wireCandidate) { s.Mapping = 4 },
		"five mapped":       func(s *wireSituation, _ *[]wireCandidate) { s.Mapped = make([]wireAddress, 5) },
		"mapped twice":      func(s *wireSituation, _ *[]wireCandidate) { s.Mapped = append(s.Mapped, s.Mapped[0]) },
		"nine candidates":   func(_ *wireSituation, c *[]wireCandidate) { *c = make([]wireCandidate, 9) },
		"a candidate twice": func(_ *wireSituation, c *[]wireCandidate) { *c = append(*c, (*c)[0]) },
		"kind 0":            func(_ *wireSituation, c *[]wireCandidate) { (*c)[0].Kind = 0 },
		"port 0":            func(_ *wireSituation, c *[]wireCandidate) { (*c)[0].Port = 0 },
		"three bytes":       func(_ *wireSituation, c *[]wireCandidate) { (*c)[0].IP = []byte{1, 2, 3} },
		"multicast":         func(_ *wireSituation, c *[]wireCandidate) { (*c)[0].IP = []byte{224, 0, 0, 1} },
		"broadcast":         func(_ *wireSituation, c *[]wireCandidate) { (*c)[0].IP = []byte{255, 255, 255, 255} },
		"unspecified":       func(_ *wireSituation, c *[]wireCandidate) { (*c)[0].IP = []byte{0, 0, 0, 0} },
		"loopback":          func(_ *wireSituation, c *[]wireCandidate) { (*c)[0].IP = []byte{127, 0, 0, 1} },
		"a link of ours":    func(_ *wireSituation, c *[]wireCandidate) { (*c)[0].IP = netip.MustParseAddr("100::1:0:1").AsSlice() },
		"IPv4 inside an IPv6": func(_ *wireSituation, c *[]wireCandidate) {
			(*c)[0].IP = netip.MustParseAddr("::ffff:1.2.3.4").AsSlice()
		},
	} {
		s, c := good, slices.Clone(candidates)
		s.Mapped = slices.Clone(good.Mapped)
		change(&s, &c)
		if _, ok := readBrief(s, c, false); ok {
			t.Errorf("%s was taken", name)
		}
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
	s, c := fullBrief().wire()
	nonce := make([]byte, nonceSize)
	f.Add(encoded(f, punchOffer{Nonce: nonce, Situation: s, Candidates: c, Fan: true}, punchMax))
	f.Add(encoded(f, punchAnswer{Nonce: nonce, Situation: s, Candidates: c}, punchMax))
	f.Add(encoded(f, punchAnswer{Code: punchBusy, Nonce: nonce, Situation: wireSituation{Mapped: []wireAddress{}}, Candidates: []wireCandidate{}}, punchMax))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(s wireSituation, c []wireCandidate) {
			got, ok := readBrief(s, c, true)
			if !ok {
				return
			}
			if len(got.candidates) > candidatesMax || len(got.situation.Mapped) > mappedMax {
				t.Fatalf("%+v is taken", got)
			}
			s2, c2 := got.wire()
			again, ok := readBrief(s2, c2, true)
			if !ok || fmt.Sprint(again) != fmt.Sprint(got) {
				t.Fatalf("%+v does not survive", got)
			}
		}
		var q punchOffer
		if wire.ReadMessage(bytes.NewReader(b), &q, punchMax) == nil {
			check(q.Situation, q.Candidates)
		}
		var a punchAnswer
		if wire.ReadMessage(bytes.NewReader(b), &a, punchMax) == nil {
			check(a.Situation, a.Candidates)
		}
	})
}

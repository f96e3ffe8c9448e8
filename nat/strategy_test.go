package nat

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"

	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/peer"
)

func endpoint(kind peer.EndpointKind, addr string) peer.Endpoint {
	return peer.Endpoint{Kind: kind, Addr: netip.MustParseAddrPort(addr)}
}

func at(s Situation, mapped ...string) Situation {
	for _, m := range mapped {
		s.Mapped = append(s.Mapped, netip.MustParseAddrPort(m))
	}
	return s
}

// situations are one of each kind that matters; no two share an address.
var situations = map[string]Situation{
	"unknown":    {},
	"none":       at(Situation{Kind: peer.NATNone, Mapping: EndpointIndependent}, "198.51.100.1:1"),
	"easy":       at(Situation{Kind: peer.NATEasy, Mapping: EndpointIndependent}, "198.51.100.2:2"),
	"full cone":  at(Situation{Kind: peer.NATEasy, Mapping: EndpointIndependent, Filtering: EndpointIndependent}, "198.51.100.3:3"),
	"hard":       at(Situation{Kind: peer.NATHard, Mapping: AddressAndPortDependent}, "198.51.100.4:4"),
	"hard two":   at(Situation{Kind: peer.NATHard, Mapping: AddressDependent}, "198.51.100.5:5"),
	"hard, IPv6": at(Situation{Kind: peer.NATHard, Candidates: []peer.Endpoint{endpoint(peer.Local, "[2001:db8::6]:6")}}, "198.51.100.6:6"),
	"easy, IPv6": at(Situation{Kind: peer.NATEasy, Candidates: []peer.Endpoint{endpoint(peer.Local, "[2001:db8::7]:7")}}, "198.51.100.7:7"),
	"hard, port": at(Situation{Kind: peer.NATHard, Candidates: []peer.Endpoint{endpoint(peer.PortMapped, "198.51.100.8:9")}}, "198.51.100.8:8"),
	"hard, CGN":  at(Situation{Kind: peer.NATHard, Candidates: []peer.Endpoint{endpoint(peer.PortMapped, "100.64.0.1:9")}}, "198.51.100.9:8"),
	"blocked":    {Kind: peer.NATBlocked},
}

func TestStrategies(t *testing.T) {
	for _, c := range []struct {
		ours, theirs string
		want         Approach
		target       string
	}{
		{"easy", "easy", Simultaneous, ""},
		{"easy", "none", Simultaneous, ""},
		{"hard", "none", Simultaneous, ""},
		{"hard", "full cone", Simultaneous, ""},
		{"hard", "easy", FanOut, "198.51.100.2:2"},
		{"easy", "hard", FanIn, "198.51.100.4:4"},
		{"unknown", "hard", FanIn, "198.51.100.4:4"},
		{"unknown", "unknown", Simultaneous, ""},
		{"hard", "hard two", RelayOnly, ""},
		{"hard, IPv6", "easy, IPv6", Simultaneous, ""},
		{"hard, IPv6", "hard", RelayOnly, ""},
		{"hard", "hard, port", Simultaneous, ""},
		{"hard", "hard, CGN", RelayOnly, ""},
		{"hard", "hard", Simultaneous, ""}, // the same one: behind one NAT
		{"blocked", "none", RelayOnly, ""},
		{"easy", "blocked", RelayOnly, ""},
	} {
		s := Choose(situations[c.ours], situations[c.theirs])
		target := ""
		if s.Target.IsValid() {
			target = s.Target.String()
		}
		if s.Approach != c.want || target != c.target || s.Because == "" {
			t.Errorf("%s, %s: %+v, want %s %s", c.ours, c.theirs, s, c.want, c.target)
		}
	}
}

func TestBothSidesChooseWhatFits(t *testing.T) {
	fits := map[Approach]Approach{Simultaneous: Simultaneous, FanOut: FanIn, FanIn: FanOut, RelayOnly: RelayOnly}
	for a, ours := range situations {
		for b, theirs := range situations {
			if x, y := Choose(ours, theirs), Choose(theirs, ours); fits[x.Approach] != y.Approach {
				t.Errorf("%s chooses %s, %s chooses %s", a, x.Approach, b, y.Approach)
			}
		}
	}
}

func largestSituation() Situation {
	s := Situation{Kind: peer.NATHard, Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent}
	for i := range CandidatesMax + 1 {
		addr := netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}), 65535)
		s.Mapped = append(s.Mapped, addr)
		s.Candidates = append(s.Candidates, peer.Endpoint{Addr: addr, Kind: peer.PortMapped})
	}
	return s
}

func TestSituationsSurviveTheTrip(t *testing.T) {
	for name, s := range situations {
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeSituation(b)
		if err != nil || !reflect.DeepEqual(back, s) {
			t.Errorf("%s: %+v, %v", name, back, err)
		}
	}
	b, err := largestSituation().Encode()
	if err != nil || len(b) > SituationMax {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if back, err := DecodeSituation(b); err != nil || len(back.Mapped) != MappedMax || len(back.Candidates) != CandidatesMax {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestWhatNoHostSaysIsRefused(t *testing.T) {
	good := wireAddress{IP: []byte{198, 51, 100, 1}, Port: 1}
	candidate := func(kind uint8, ip []byte, port uint16) wireSituation {
		return wireSituation{Mapped: []wireAddress{}, Candidates: []wireCandidate{{Kind: kind, IP: ip, Port: port}}}
	}
	loopback := netip.IPv6Loopback().As16()
	for name, w := range map[string]wireSituation{
		"no list":             {},
		"a NAT of kind 5":     {NAT: 5},
		"mapping 4":           {Mapping: 4},
		"an address twice":    {Mapped: []wireAddress{good, good}},
		"five addresses":      {Mapped: make([]wireAddress, MappedMax+1)},
		"port 0":              candidate(1, good.IP, 0),
		"kind 0":              candidate(0, good.IP, 1),
		"kind 9":              candidate(9, good.IP, 1),
		"loopback":            candidate(1, loopback[:], 1),
		"multicast":           candidate(1, []byte{224, 0, 0, 1}, 1),
		"broadcast":           candidate(1, []byte{255, 255, 255, 255}, 1),
		"IPv4 as IPv6":        candidate(1, []byte{10: 0xff, 11: 0xff, 12: 198, 13: 51, 14: 100, 15: 1}, 1),
		"an IP of 5 bytes":    candidate(1, make([]byte, 5), 1),
		"candidates too many": {Candidates: make([]wireCandidate, CandidatesMax+1)},
	} {
		if w.Mapped == nil {
			w.Mapped = []wireAddress{}
		}
		if w.Candidates == nil && name != "no list" {
			w.Candidates = []wireCandidate{}
		}
		b, err := wire.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := DecodeSituation(b); err == nil {
			t.Errorf("%s was read: %+v", name, s)
		}
	}
	if _, err := DecodeSituation(make([]byte, SituationMax+1)); err == nil {
		t.Error("read beyond the bound")
	}
}

func FuzzDecodeSituation(f *testing.F) {
	for _, s := range situations {
		b, _ := s.Encode()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeSituation(b)
		if err != nil {
			return
		}
		if again, err := s.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x is written as %x, %v", b, again, err)
		}
		Choose(s, s)
	})
}

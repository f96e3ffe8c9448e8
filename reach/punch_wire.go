package reach

import (
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/peer"
)

// The protocol "punch", one attempt a stream, messages of strict CBOR:
//
//	begins  [nonce 16, situation, [candidate…], fan]
//	answers [code, nonce, situation, [candidate…], fan]
//
//	situation = [NAT, mapping, [address…]]    at most 4 addresses, as others see the node
//	candidate = [kind, IP, port]              at most 8
//	address   = [IP, port]                    IP is 4 or 16 bytes
//
// The answer's nonce is the offer's. Whoever answers with code 0 starts its checks when it has sent the answer, the other when it has received it:
// half a round trip of the path in use apart, which the retransmissions of the checks cover. Many ports are tried only if both say fan.
const ProtocolPunch = "punch"

type punchCode uint8

// The codes of an answer; zero: go.
const (
	punchBusy    punchCode = 1 // another attempt with this node is under way
	punchPaced   punchCode = 2 // too many attempts
	punchForm    punchCode = 3 // the offer makes no sense
	punchLast              = punchForm
	nonceSize              = 16
	mappedMax              = 4
	punchMax               = 512 // bytes of a message; the largest has 8×24 + 4×23 + 30
	punchTimeout           = 5 * time.Second
)

var punchTexts = [...]string{"agreed", "another attempt was under way", "too many attempts", "the offer made no sense"}

type wireSituation struct {
	_       struct{} `cbor:",toarray"`
	NAT     uint8
	Mapping uint8
	Mapped  []wireAddress
}

type wireAddress struct {
	_    struct{} `cbor:",toarray"`
	IP   []byte
	Port uint16
}

type wireCandidate struct {
	_    struct{} `cbor:",toarray"`
	Kind uint8
	IP   []byte
	Port uint16
}

type punchOffer struct {
	_          struct{} `cbor:",toarray"`
	Nonce      []byte
	Situation  wireSituation
	Candidates []wireCandidate
	Fan        bool
}

type punchAnswer struct {
	_          struct{} `cbor:",toarray"`
	Code       punchCode
	Nonce      []byte
	Situation  wireSituation
	Candidates []wireCandidate
	Fan        bool
}

// brief is what one side tells the other.
type brief struct {
	situation  Situation
	candidates []peer.Endpoint
	fan        bool
}

func (b brief) wire() (wireSituation, []wireCandidate) {
	s := wireSituation{NAT: uint8(b.situation.Kind), Mapping: uint8(b.situation.Mapping), Mapped: []wireAddress{}}
	for _, a := range b.situation.Mapped[:min(len(b.situation.Mapped), mappedMax)] {
		s.Mapped = append(s.Mapped, wireAddress{IP: a.Addr().AsSlice(), Port: a.Port()})
	}
	c := []wireCandidate{}
	for _, e := range b.candidates[:min(len(b.candidates), candidatesMax)] {
		c = append(c, wireCandidate{Kind: uint8(e.Kind), IP: e.Addr.Addr().AsSlice(), Port: e.Addr.Port()})
	}
	return s, c
}

// readBrief checks what the other side told.
func readBrief(s wireSituation, candidates []wireCandidate, fan bool) (brief, bool) {
	b := brief{situation: Situation{Kind: peer.NAT(s.NAT), Mapping: MappingBehaviour(s.Mapping)}, fan: fan}
	if b.situation.Kind > peer.NATBlocked || b.situation.Mapping > AddressAndPortDependent || len(s.Mapped) > mappedMax || len(candidates) > candidatesMax {
		return brief{}, false
	}
	for _, a := range s.Mapped {
		addr, ok := readAddress(a.IP, a.Port)
		if !ok || slices.Contains(b.situation.Mapped, addr) {
			return brief{}, false
		}
		b.situation.Mapped = append(b.situation.Mapped, addr)
	}
	for _, c := range candidates {
		addr, ok := readAddress(c.IP, c.Port)
		kind := peer.EndpointKind(c.Kind)
		again := slices.ContainsFunc(b.candidates, func(e peer.Endpoint) bool { return e.Addr == addr })
		if !ok || again || kind < peer.Local || kind > peer.PortMapped {
			return brief{}, false
		}
		b.candidates = append(b.candidates, peer.Endpoint{Addr: addr, Kind: kind})
	}
	return b, true
}

// linkAddresses is where the underlay's own links live (RFC 6666): nobody outside may name one.
var linkAddresses = netip.MustParsePrefix("100::/64")

// usable reports whether an address can be that of another machine's node, in its plain form.
func usable(p netip.AddrPort) bool {
	a := p.Addr()
	return a.IsValid() && p.Port() != 0 && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && !a.IsLoopback() &&
		!linkAddresses.Contains(a) && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func readAddress(ip []byte, port uint16) (netip.AddrPort, bool) {
	a, _ := netip.AddrFromSlice(ip)
	p := netip.AddrPortFrom(a, port)
	return p, usable(p)
}

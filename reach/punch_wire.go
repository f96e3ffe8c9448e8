package reach

import (
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/nat"
)

// The protocol "punch", one attempt a stream, messages of strict CBOR:
//
//	begins  [nonce 16, situation, fan]
//	answers [code, nonce, situation, fan]
//
// The situation, with the candidates, is in nat's own encoding (nat/strategy.go), as a byte string.
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
	punchMax               = nat.SituationMax + 32 // bytes of a message
	punchTimeout           = 5 * time.Second
)

var punchTexts = [...]string{"agreed", "another attempt was under way", "too many attempts", "the offer made no sense"}

type punchOffer struct {
	_         struct{} `cbor:",toarray"`
	Nonce     []byte
	Situation []byte // nat.Situation, encoded
	Fan       bool
}

type punchAnswer struct {
	_         struct{} `cbor:",toarray"`
	Code      punchCode
	Nonce     []byte
	Situation []byte
	Fan       bool
}

// linkAddresses is where the underlay's own links live (RFC 6666): nobody outside may name one.
var linkAddresses = netip.MustParsePrefix("100::/64")

// usable reports whether an address can be that of another machine's node, in its plain form.
func usable(p netip.AddrPort) bool {
	a := p.Addr()
	return a.IsValid() && p.Port() != 0 && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && !a.IsLoopback() &&
		!linkAddresses.Contains(a) && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

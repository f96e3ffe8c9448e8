package nat

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"net/netip"
	"testing"

	"github.com/pion/stun/v3"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

var (
	testKey   = PairKey{1, 2, 3}
	testID    = TransactionID{9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2}
	testNode  = identity.WireGuardKey{4, 5, 6}
	mapped4   = netip.MustParseAddrPort("192.0.2.7:51820")
	mapped6   = netip.MustParseAddrPort("[2001:db8::7]:51820")
	allChecks = map[string][]byte{
		"opening":           CheckRequest{Transaction: testID, Sender: testNode, Key: &testKey, Opening: true}.Encode(),
		"unkeyed opening":   CheckRequest{Transaction: testID, Sender: testNode, Opening: true}.Encode(),
		"challenge":         CheckRequest{Transaction: testID, Sender: testNode, Key: &testKey}.Encode(),
		"response":          CheckResponse{Transaction: testID, Sender: testNode, Mapped: mapped4, Key: testKey}.Encode(),
		"response, IPv6":    CheckResponse{Transaction: testID, Sender: testNode, Mapped: mapped6, Validated: true, Key: testKey}.Encode(),
		"probe of 1440":     CheckRequest{Transaction: testID, Sender: testNode, Key: &testKey, Size: 1440 + 32}.Encode(),
		"probe of 9168":     CheckRequest{Transaction: testID, Sender: testNode, Key: &testKey, Size: 9168}.Encode(),
		"report":            CheckResponse{Transaction: testID, Sender: testNode, Mapped: mapped6, Validated: true, Report: &Report{1 << 31, 7}, Key: testKey}.Encode(),
		"plain":             PlainRequest(testID),
		"padded":            PaddedRequest(testID),
		"plain response":    PlainResponse(testID, mapped4, 1000),
		"plain response v6": PlainResponse(testID, mapped6, 1000),
	}
)

func TestChecksSurviveTheTrip(t *testing.T) {
	for name, b := range allChecks {
		m, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Transaction != testID || m.HasSender && m.Sender != testNode {
			t.Errorf("%s: %+v", name, m)
		}
		if m.Keyed && m.Verify(testKey) != nil {
			t.Errorf("%s: integrity refused", name)
		}
		if !m.Keyed && m.Verify(testKey) == nil {
			t.Errorf("%s: verified without integrity", name)
		}
		// Another implementation of the standard reads the same.
		var other stun.Message
		if err := stun.Decode(b, &other); err != nil {
			t.Errorf("%s: pion/stun: %v", name, err)
		}
		if m.Kind == Response {
			var x stun.XORMappedAddress
			if err := x.GetFrom(&other); err != nil || !x.IP.Equal(m.Mapped.Addr().AsSlice()) || x.Port != int(m.Mapped.Port()) {
				t.Errorf("%s: pion/stun reads %v, %v; we %v", name, x, err, m.Mapped)
			}
		}
	}
	m, _ := Parse(allChecks["response, IPv6"])
	if m.Mapped != mapped6 || !m.Validated {
		t.Errorf("response %+v", m)
	}
	if m.HasReport {
		t.Error("a report where none was given")
	}
	if m, _ := Parse(allChecks["report"]); !m.HasReport || m.Report != (Report{Packets: 1 << 31, Large: 7}) {
		t.Errorf("report %+v", m)
	}
}

// TestIntegrityIsThatOfTheRFC computes RFC 8489 §14.6 the long way: over the message up to the attribute, with the length field
// counting the attribute.
func TestIntegrityIsThatOfTheRFC(t *testing.T) {
	b := allChecks["challenge"] // the integrity is last, so the length field counts it already
	h := hmac.New(sha256.New, testKey[:])
	h.Write(b[:len(b)-attrHeader-integritySize])
	if !bytes.Equal(h.Sum(nil), b[len(b)-integritySize:]) {
		t.Error("another integrity")
	}
}

func TestSizesKeepThePromise(t *testing.T) {
	for name, want := range map[string]int{"opening": OpeningSize, "unkeyed opening": OpeningSize, "challenge": ChallengeSize, "response, IPv6": ResponseSize,
		"report": reportedSize, "probe of 1440": 1472, "probe of 9168": 9168} {
		if got := len(allChecks[name]); got != want {
			t.Errorf("%s: %d bytes, want %d", name, got, want)
		}
	}
	if !Budget(OpeningSize, ResponseSize) {
		t.Error("an opening does not pay for answer and challenge")
	}
	if Budget(ChallengeSize, len(allChecks["response"])) {
		t.Error("a challenge pays for a challenge: two nodes would challenge each other for ever")
	}
	if PlainResponse(testID, mapped4, len(PlainRequest(testID))) != nil {
		t.Error("a bare request is answered with more than it asked with")
	}
	for _, a := range []netip.AddrPort{mapped4, mapped6} {
		if PlainResponse(testID, a, len(PaddedRequest(testID))) == nil {
			t.Errorf("a padded request is not answered to %s", a)
		}
	}
}

func TestEveryChangedBitIsNoticed(t *testing.T) {
	for _, name := range []string{"opening", "challenge", "response", "response, IPv6", "report"} {
		b := allChecks[name]
		for i := range len(b) * 8 {
			forged := bytes.Clone(b)
			forged[i/8] ^= 1 << (i % 8)
			if m, err := Parse(forged); err == nil && m.Verify(testKey) == nil {
				t.Errorf("%s: bit %d changed and nobody noticed", name, i)
			}
		}
		if m, _ := Parse(b); m.Verify(PairKey{7}) == nil {
			t.Errorf("%s: verified under another key", name)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	join := func(parts ...[]byte) []byte {
		m := message(bytes.Join(parts, nil))
		m[2], m[3] = byte((len(m)-headerSize)>>8), byte(len(m)-headerSize)
		return m
	}
	challenge := allChecks["challenge"]
	header, sender, tail := challenge[:20], challenge[20:56], challenge[56:]
	for name, b := range map[string][]byte{
		"nothing":              {},
		"a header cut short":   challenge[:19],
		"a body cut short":     challenge[:60],
		"a trailing byte":      append(bytes.Clone(challenge), 0),
		"an indication":        join([]byte{0, 0x11}, header[2:], sender),
		"another method":       join([]byte{0, 3}, header[2:], sender),
		"two senders":          join(header, sender, sender, tail),
		"a short sender":       join(header, []byte{0xc3, 0x51, 0, 4, 1, 2, 3, 4}),
		"something after it":   join(header, sender, tail, []byte{0x80, 0x22, 0, 0}),
		"integrity twice":      join(header, sender, tail, tail),
		"short integrity":      join(header, sender, []byte{0, 0x1c, 0, 4, 1, 2, 3, 4}),
		"an overlong attr":     join(header, []byte{0x80, 0x22, 0, 9, 1, 2, 3, 4}),
		"half an attr header":  join(header, []byte{0x80, 0x22}),
		"a flag of two":        join(header, []byte{0xc3, 0x52, 0, 1, 2, 0, 0, 0}),
		"a mapped address":     join(header, []byte{0, 0x20, 0, 4, 0, 1, 1, 1}),
		"family 3":             join(header, []byte{0, 0x20, 0, 8, 0, 3, 1, 1, 1, 1, 1, 1}),
		"a short report":       join(header, []byte{0xc3, 0x53, 0, 4, 1, 2, 3, 4}),
		"two reports":          join(header, []byte{0xc3, 0x53, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8}, []byte{0xc3, 0x53, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8}),
		"more than any packet": join(header, make([]byte, ProbeMax)),
	} {
		if _, err := Parse(b); !errors.Is(err, ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckPlan(t *testing.T) {
	addrs := make([]netip.AddrPort, 20)
	for i := range addrs {
		addrs[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1)
	}
	plan := CheckPlan(addrs)
	if want := PlanAddressesMax * len(planRepeats); len(plan) != want {
		t.Fatalf("%d steps, want %d", len(plan), want)
	}
	for i, s := range plan {
		if i > 0 && s.At < plan[i-1].At {
			t.Errorf("step %d is before the one before it", i)
		}
		if s.At >= PlanLength {
			t.Errorf("step %d at %v is after the plan's end", i, s.At)
		}
	}
	// All addresses are checked within 30 ms, each burst small.
	if plan[PlanAddressesMax-1].At != 3*planPace || plan[planBurst-1].At != 0 || plan[planBurst].At != planPace {
		t.Errorf("the first round: %v", plan[:PlanAddressesMax])
	}
	if len(CheckPlan(nil)) != 0 {
		t.Error("a plan for no address")
	}
}

func FuzzParse(f *testing.F) {
	for _, b := range allChecks {
		f.Add(b)
	}
	f.Add(ChangeRequest(testID, Change{IP: true, Port: true}))
	f.Add(behaviourResponse(otherAttr, originAttr))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrForm) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if m.Size != len(b) || m.Size > ProbeMax {
			t.Fatalf("size %d of %d bytes", m.Size, len(b))
		}
		m.Verify(testKey)
	})
}

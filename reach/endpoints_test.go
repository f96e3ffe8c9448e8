package reach

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/peer"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func aps(s string) (out []netip.AddrPort) {
	for _, f := range strings.Fields(s) {
		out = append(out, ap(f))
	}
	return out
}

func TestEndpointsComeLikeliestFirst(t *testing.T) {
	for name, c := range map[string]struct {
		in   addresses
		want string
	}{
		"nothing is known":     {addresses{}, ""},
		"a LAN":                {addresses{Local: aps("192.168.1.2:1")}, "192.168.1.2:1/local"},
		"a public machine":     {addresses{Local: aps("203.0.113.1:1 10.0.0.1:1")}, "203.0.113.1:1/local 10.0.0.1:1/local"},
		"outside and LAN":      {addresses{Local: aps("192.168.1.2:1"), Mapped: aps("203.0.113.1:9")}, "203.0.113.1:9/mapped 192.168.1.2:1/local"},
		"a port by hand first": {addresses{Local: aps("192.168.1.2:1"), Mapped: aps("203.0.113.1:9"), PortMapped: aps("203.0.113.1:8"), Advertised: aps("203.0.113.1:7")}, "203.0.113.1:7/port-mapped 192.168.1.2:1/local 203.0.113.1:8/port-mapped 203.0.113.1:9/mapped"},
		"IPv6 needs no NAT":    {addresses{Local: aps("192.168.1.2:1 [2001:db8::1]:1"), Mapped: aps("203.0.113.1:9")}, "[2001:db8::1]:1/local 192.168.1.2:1/local 203.0.113.1:9/mapped"},
		"each once":            {addresses{Local: aps("203.0.113.1:1"), Mapped: aps("203.0.113.1:1 [::ffff:203.0.113.1]:1")}, "203.0.113.1:1/local"},
	} {
		var got []string
		for _, e := range c.in.endpoints() {
			got = append(got, fmt.Sprintf("%s/%s", e.Addr, e.Kind))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, s, c.want)
		}
	}
}

func TestEndpointsAreNeverMoreThanARecordHolds(t *testing.T) {
	var a addresses
	for i := range 20 {
		a.Local = append(a.Local, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1))
		a.Mapped = append(a.Mapped, netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 1))
	}
	got := a.endpoints()
	if len(got) != peer.EndpointsMax || got[0].Kind != peer.Mapped || got[1].Kind != peer.Local {
		t.Errorf("%d endpoints: %v", len(got), got)
	}
}

func TestOneLiarPublishesNothing(t *testing.T) {
	claims := map[netip.AddrPort]claim{
		ap("203.0.113.1:1"):  {Members: 2},
		ap("198.51.100.9:1"): {Members: 1}, // the liar's
		ap("203.0.113.2:1"):  {Server: true},
	}
	for _, c := range []struct {
		nat    peer.NAT
		others int
		want   string
	}{
		{peer.NATEasy, 5, "203.0.113.1:1 203.0.113.2:1"},
		{peer.NATEasy, 1, "203.0.113.1:1 198.51.100.9:1 203.0.113.2:1"}, // nobody else to ask
		{peer.NATHard, 5, ""},
	} {
		var got []string
		for _, a := range believed(claims, c.nat, c.others) {
			got = append(got, a.String())
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s, %d others: %s, want %s", c.nat, c.others, s, c.want)
		}
	}
}

func TestWhoOffersToRelayAndWhoNeedsRelays(t *testing.T) {
	both := evidence{OurV4: true, OurV6: true}
	with := func(change func(*evidence)) evidence { e := both; change(&e); return e }
	for name, c := range map[string]struct {
		e             evidence
		offers, needs bool
	}{
		"no NAT":                         {with(func(e *evidence) { e.NAT = peer.NATNone }), true, false},
		"easy NAT":                       {with(func(e *evidence) { e.NAT = peer.NATEasy }), false, true},
		"hard NAT":                       {with(func(e *evidence) { e.NAT = peer.NATHard }), false, true},
		"UDP blocked":                    {with(func(e *evidence) { e.NAT = peer.NATBlocked }), false, true},
		"not known yet":                  {both, false, true},
		"easy NAT, port mapped":          {with(func(e *evidence) { e.NAT, e.PortMapped = peer.NATEasy, true }), true, false},
		"hard NAT, port mapped":          {with(func(e *evidence) { e.NAT, e.PortMapped = peer.NATHard, true }), true, false},
		"hard NAT, port by hand":         {with(func(e *evidence) { e.NAT, e.Advertised = peer.NATHard, true }), true, false},
		"easy NAT, reached unsolicited":  {with(func(e *evidence) { e.NAT, e.Unsolicited = peer.NATEasy, 2 }), true, false},
		"hard NAT, reached unsolicited":  {with(func(e *evidence) { e.NAT, e.Unsolicited = peer.NATHard, 2 }), false, true},
		"IPv4 only, some are IPv6 only":  {with(func(e *evidence) { e.NAT, e.OurV6, e.OnlyV6 = peer.NATNone, false, true }), true, true},
		"IPv6 only, some are IPv4 only":  {with(func(e *evidence) { e.NAT, e.OurV4, e.OnlyV4 = peer.NATNone, false, true }), true, true},
		"IPv4 only, and so is everybody": {with(func(e *evidence) { e.NAT, e.OurV6, e.OnlyV4 = peer.NATNone, false, true }), true, false},
	} {
		if got := c.e.offersRelay(false); got != c.offers {
			t.Errorf("%s: offers %v", name, got)
		}
		if got := c.e.needsRelays(); got != c.needs {
			t.Errorf("%s: needs %v", name, got)
		}
		if c.e.offersRelay(true) {
			t.Errorf("%s: offers although it was told not to", name)
		}
	}
}

func TestRetriesBecomeRare(t *testing.T) {
	var p pace
	now := epoch
	var gaps []time.Duration
	for range 6 {
		if !p.due(now) {
			t.Fatal("not due")
		}
		p.attempted(now)
		gaps = append(gaps, p.next.Sub(now))
		now = p.next
	}
	if got := fmt.Sprint(gaps); got != "[5s 15s 1m0s 5m0s 5m0s 5m0s]" {
		t.Errorf("gaps %s", got)
	}
	p.renew(now.Add(-time.Minute))
	if p.attempts != 0 || p.next.Sub(now) > 0 {
		t.Error("news about the network do not bring the next attempt forward")
	}
}

func TestAMemberCannotMakeUsPunchAllTheTime(t *testing.T) {
	var p pace
	admitted := 0
	for second := range 600 {
		p.renew(epoch.Add(time.Duration(second) * time.Second)) // it changes its record all the time
		if p.admit(epoch.Add(time.Duration(second) * time.Second)) {
			admitted++
		}
	}
	if most := punchBurst + 600/15; admitted > most {
		t.Errorf("%d attempts in ten minutes, at most %d", admitted, most)
	}
}

func TestAnAttemptThatIsPutOffCostsNothing(t *testing.T) {
	var p pace
	now := epoch
	for range 10 {
		if !p.due(now) || !p.admit(now) {
			t.Fatalf("no attempt %v on", now.Sub(epoch))
		}
		p.putOff(now, time.Second)
		if p.due(now) {
			t.Fatal("it may ask again at once")
		}
		now = p.next
	}
	if p.attempts != 0 {
		t.Errorf("%d failures counted", p.attempts)
	}
	for range 2 * punchBurst {
		p.putOff(now, 0)
	}
	if p.budget > punchBurst {
		t.Errorf("putting off filled the budget to %v", p.budget)
	}
}

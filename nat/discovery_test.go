package nat

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/peer"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// box is a NAT, or none, and what stands behind the servers on its other side.
type box struct {
	mapping, filtering Dependence
	hairpin            bool
	direct             netip.AddrPort // our own address if there is no NAT
	blocked            bool
	silent             []string          // servers that do not answer
	lies               map[string]string // server: what it says
	behaviour          map[string]string // server: its other address
}

// external is what the box maps us to when we send there.
func (b box) external(to netip.AddrPort) netip.AddrPort {
	if b.direct.IsValid() {
		return b.direct
	}
	port := 40000
	switch a := int(to.Addr().As16()[15]); b.mapping {
	case AddressDependent:
		port += a
	case AddressAndPortDependent:
		port += 16*a + int(to.Port()%16)
	}
	return netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), uint16(port))
}

// reply is what comes back, if anything does.
func (b box) reply(a Ask) (Reply, bool) {
	r := Reply{Number: a.Number, From: a.To, Mapped: b.external(a.To)}
	if a.Test == TestHairpin {
		return r, b.hairpin
	}
	if b.blocked || slices.Contains(b.silent, a.To.String()) {
		return r, false
	}
	if lie, ok := b.lies[a.To.String()]; ok {
		r.Mapped = netip.MustParseAddrPort(lie)
	}
	if other, ok := b.behaviour[a.To.String()]; ok {
		r.Other = netip.MustParseAddrPort(other)
		ip, port := r.From.Addr(), r.From.Port()
		if a.Change.IP {
			ip = r.Other.Addr()
		}
		if a.Change.Port {
			port = r.Other.Port()
		}
		r.From = netip.AddrPortFrom(ip, port)
		return r, !a.Change.IP && !a.Change.Port || b.filtering == EndpointIndependent || b.filtering == AddressDependent && !a.Change.IP
	}
	return r, true
}

var (
	us   = netip.MustParseAddrPort("192.168.1.5:51820")
	open = netip.MustParseAddrPort("203.0.113.50:51820")
)

func addrs(s ...string) (out []Server) {
	for _, a := range s {
		out = append(out, Server{Addr: netip.MustParseAddrPort(a), Member: strings.HasSuffix(a, ":51820")})
	}
	return out
}

var (
	members  = []string{"198.51.100.1:51820", "198.51.100.2:51820", "192.0.2.3:51820", "192.0.3.4:51820"}
	stun1    = "192.0.2.33:3478"
	twoFaces = map[string]string{stun1: "192.0.2.34:3479"}
)

// discoveries are the worlds; what is asked in which order, and what follows, is in testdata/discovery.txt.
var discoveries = []struct {
	name    string
	local   string
	servers []string
	box     box
	kind    peer.NAT
}{
	{"easy NAT, members", "", members, box{mapping: EndpointIndependent, hairpin: true}, peer.NATEasy},
	{"easy NAT, two members", "", members[:2], box{mapping: EndpointIndependent}, peer.NATEasy},
	{"hard NAT, members", "", members, box{mapping: AddressAndPortDependent}, peer.NATHard},
	{"no NAT", open.String(), members, box{direct: open}, peer.NATNone},
	{"blocked", "", members, box{blocked: true}, peer.NATBlocked},
	{"nobody to ask", "", nil, box{}, peer.NATUnknown},
	{"one server, easy", "", members[:1], box{mapping: EndpointIndependent}, peer.NATUnknown},
	{"one server, silent", "", members[:1], box{blocked: true}, peer.NATUnknown},
	{"RFC 5780, address-dependent", "", []string{stun1}, box{mapping: AddressDependent, filtering: AddressDependent, behaviour: twoFaces}, peer.NATHard},
	{"RFC 5780, full cone", "", []string{stun1}, box{mapping: EndpointIndependent, filtering: EndpointIndependent, hairpin: true, behaviour: twoFaces}, peer.NATEasy},
	{"RFC 5780, hard", "", []string{stun1}, box{mapping: AddressAndPortDependent, filtering: AddressAndPortDependent, behaviour: twoFaces}, peer.NATHard},
	{"RFC 5780, other address among the servers", "", []string{stun1, "192.0.2.34:3478"}, box{mapping: EndpointIndependent, filtering: AddressDependent, behaviour: twoFaces}, peer.NATEasy},
	{"a server that sends us elsewhere", "", []string{stun1}, box{mapping: EndpointIndependent, behaviour: map[string]string{stun1: "192.168.1.1:53"}}, peer.NATUnknown},
	{"one of three lies", "", members[:3], box{mapping: EndpointIndependent, lies: map[string]string{members[0]: "198.51.100.99:1"}}, peer.NATEasy},
	{"one of two lies", "", members[:2], box{mapping: EndpointIndependent, lies: map[string]string{members[0]: "198.51.100.99:1"}}, peer.NATHard},
	{"one of four lies, one is silent", "", members, box{mapping: EndpointIndependent, silent: members[1:2], lies: map[string]string{members[0]: "198.51.100.99:1"}}, peer.NATEasy},
	// Who knows what another server sees can make a hard NAT look easy, until a fourth is asked: checks then go to a port that is not open.
	{"a liar copies what a hard NAT gave another", "", members[:3], box{mapping: AddressAndPortDependent, lies: map[string]string{members[0]: "203.0.113.9:40060"}}, peer.NATEasy},
	{"private addresses as mapped", "", members[:3], box{mapping: EndpointIndependent, lies: map[string]string{members[0]: "192.168.1.5:51820", members[1]: "127.0.0.1:1"}}, peer.NATUnknown},
	{"the first are silent", "", append([]string{"203.0.113.70:51820", "203.0.114.70:51820"}, members...), box{mapping: EndpointIndependent, silent: []string{"203.0.113.70:51820", "203.0.114.70:51820", members[0]}}, peer.NATEasy},
	{"a server of our own LAN does not see the NAT", "", []string{"192.168.1.7:51820", members[0], members[2]}, box{mapping: EndpointIndependent, lies: map[string]string{"192.168.1.7:51820": "192.168.1.5:51820"}}, peer.NATEasy},
	{"only a private network", "", []string{"10.0.0.7:51820", "10.0.1.7:51820"}, box{direct: us}, peer.NATNone},
	{"provider's NAT", "100.70.1.2:51820", members, box{mapping: EndpointIndependent}, peer.NATEasy},
}

// play lets the discovery run against the box in made-up time; an answer takes 20 ms.
func (b box) play(d *Discovery, trace *strings.Builder) time.Duration {
	type arrival struct {
		at time.Time
		Reply
	}
	start := time.Unix(1e9, 0)
	now := start
	var coming []arrival
	ask, next := d.Step(nil, now)
	for {
		for _, a := range ask {
			fmt.Fprintf(trace, "  %4d ms  ask %s for %s\n", now.Sub(start).Milliseconds(), a.To, a.Test)
			if r, ok := b.reply(a); ok {
				coming = append(coming, arrival{now.Add(20 * time.Millisecond), r})
			}
		}
		if next.IsZero() {
			return now.Sub(start)
		}
		if len(coming) > 0 && !coming[0].at.After(next) {
			now = coming[0].at
			r := coming[0].Reply
			coming = coming[1:]
			ask, next = d.Step(&r, now)
			continue
		}
		now = next
		ask, next = d.Step(nil, now)
	}
}

func TestDiscoveriesGoAsWrittenDown(t *testing.T) {
	var all strings.Builder
	for _, c := range discoveries {
		local := us
		if c.local != "" {
			local = netip.MustParseAddrPort(c.local)
		}
		fmt.Fprintf(&all, "%s\n", c.name)
		d := NewDiscovery(addrs(c.servers...), []netip.AddrPort{local})
		took := c.box.play(d, &all)
		b := d.Behaviour()
		fmt.Fprintf(&all, "  %4d ms  %s: mapping %s, filtering %s, hairpin %s, UDP %s, mapped %v\n",
			took.Milliseconds(), b.Kind(), b.Mapping, b.Filtering, b.Hairpin, b.UDP, b.Mapped)
		for _, r := range b.Reasons {
			fmt.Fprintf(&all, "           %s\n", r)
		}
		if b.Kind() != c.kind {
			t.Errorf("%s: %s, want %s", c.name, b.Kind(), c.kind)
		}
		if took > discoveryLength {
			t.Errorf("%s: took %v", c.name, took)
		}
	}
	const golden = "testdata/discovery.txt"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if all.String() != string(want) {
		t.Errorf("differs from %s (go test ./nat -rewrite, then look at the difference):\n%s", golden, all.String())
	}
}

func TestAForgedReplyChangesNothing(t *testing.T) {
	d := NewDiscovery(addrs(members[:2]...), []netip.AddrPort{us})
	now := time.Unix(1e9, 0)
	ask, _ := d.Step(nil, now)
	for _, r := range []Reply{
		{Number: 99, From: ask[0].To, Mapped: us},
		{Number: -1, From: ask[0].To, Mapped: us},
		{Number: 0, From: netip.MustParseAddrPort("192.0.2.99:1"), Mapped: us},
	} {
		d.Step(&r, now)
	}
	if n := len(d.Evidence().Observations); n != 0 {
		t.Errorf("%d observations", n)
	}
	real := box{mapping: EndpointIndependent}
	for _, a := range ask {
		r, _ := real.reply(a)
		d.Step(&r, now)
		r.Mapped = netip.MustParseAddrPort("198.51.100.99:1") // a second answer
		d.Step(&r, now)
	}
	if b := d.Behaviour(); b.Kind() != peer.NATEasy || b.Mapped[0].Port() != 40000 {
		t.Errorf("%+v", b)
	}
}

func TestServersOfOtherNetworksComeFirst(t *testing.T) {
	got := OrderServers(addrs("192.168.1.7:51820", "198.51.100.1:51820", "198.51.100.2:51820", "198.51.100.1:3478", "192.0.2.1:51820",
		"127.0.0.1:51820", "[2001:db8::1]:51820", "[2001:db8:0:1::1]:51820", us.String()), []netip.AddrPort{us})
	want := addrs("198.51.100.1:51820", "192.0.2.1:51820", "[2001:db8::1]:51820", "198.51.100.2:51820", "[2001:db8:0:1::1]:51820", "192.168.1.7:51820")
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestARouterBehindAnotherNATIsRecognised(t *testing.T) {
	seen := []Observation{
		{netip.MustParseAddrPort(members[0]), netip.MustParseAddrPort("203.0.113.9:40000")},
		{netip.MustParseAddrPort(members[2]), netip.MustParseAddrPort("203.0.113.9:40000")},
	}
	for _, c := range []struct {
		router, local string
		carrier       bool
	}{
		{"203.0.113.9", "192.168.1.5:51820", false},
		{"", "192.168.1.5:51820", false},
		{"100.64.3.4", "192.168.1.5:51820", true},
		{"192.168.0.2", "192.168.1.5:51820", true},
		{"203.0.113.77", "192.168.1.5:51820", true},
		{"", "100.64.3.4:51820", true},
	} {
		e := Evidence{Observations: seen, Local: []netip.AddrPort{netip.MustParseAddrPort(c.local)}}
		if c.router != "" {
			e.Router = netip.MustParseAddr(c.router)
		}
		if b := Assess(e); b.CarrierNAT != c.carrier || c.carrier && len(b.Reasons) < 2 {
			t.Errorf("router %q, local %s: %+v", c.router, c.local, b)
		}
	}
}

func TestBothFamiliesAreReported(t *testing.T) {
	six := netip.MustParseAddrPort("[2001:db8:7::5]:51820")
	b := Assess(Evidence{Local: []netip.AddrPort{us, six}, Observations: []Observation{
		{netip.MustParseAddrPort(members[0]), netip.MustParseAddrPort("203.0.113.9:40000")},
		{netip.MustParseAddrPort(members[2]), netip.MustParseAddrPort("203.0.113.9:40000")},
		{netip.MustParseAddrPort("[2001:db8::1]:51820"), six},
	}})
	if b.Kind() != peer.NATEasy || b.IPv6 != Yes || !slices.Contains(b.Mapped, six) || len(b.Mapped) != 2 {
		t.Errorf("%+v", b)
	}
	b = Assess(Evidence{Local: []netip.AddrPort{six}, Observations: []Observation{{netip.MustParseAddrPort("[2001:db8::1]:51820"), six}}})
	if b.Kind() != peer.NATNone {
		t.Errorf("IPv6 alone: %+v", b)
	}
}

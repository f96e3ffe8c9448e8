package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/policy"
)

const (
	in  = dataplane.Inbound
	out = dataplane.Outbound
)

// member number i has the addresses 10.86.0.i and fd12::i.
func member(i int, tags ...string) policy.Member {
	return policy.Member{ID: identity.NodeID{byte(i), byte(i >> 8), 9}, Name: fmt.Sprint("n", i), Tags: tags, Addresses: []netip.Addr{addr4(i), addr6(i)}}
}

func addr4(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 86, byte(i >> 8), byte(i)}) }
func addr6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfd, 0x12, 14: byte(i >> 8), 15: byte(i)})
}

// us is the node under test; two peers.
var mesh = []policy.Member{member(1, "us"), member(2, "friend"), member(3, "other")}

func compile(t testing.TB, rules string, members []policy.Member) *policy.Matcher {
	t.Helper()
	p, err := policy.Parse([]byte("rules:\n" + rules))
	if err != nil {
		t.Fatal(err)
	}
	return policy.Compile(p, members[0].ID, members)
}

const friendly = `
  - {from: tag:friend, to: tag:us, allow: [tcp/22, udp/53, icmp]}
  - {from: tag:us, to: tag:friend, allow: [tcp/80, udp/123, icmp]}
`

func guard(t testing.TB, rules string) *Firewall {
	t.Helper()
	f := New()
	f.Set(compile(t, rules, mesh))
	return f
}

// ip wraps a transport packet, by the family of the addresses.
func ip(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	if src.Is4() {
		b := make([]byte, headerLen4, headerLen4+len(payload))
		b[0], b[8], b[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(b[2:], uint16(headerLen4+len(payload)))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		return append(b, payload...)
	}
	b := make([]byte, headerLen6, headerLen6+len(payload))
	b[0], b[6], b[7] = 0x60, protocol, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

func tcp(src, dst netip.Addr, sport, dport uint16, flags byte) []byte {
	b := make([]byte, headerLenTCP)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b[12], b[13] = 5<<4, flags
	return ip(src, dst, protocolTCP, b)
}

func udp(src, dst netip.Addr, sport, dport uint16) []byte {
	b := make([]byte, headerLenUDP+4)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	return ip(src, dst, protocolUDP, b)
}

func echo(src, dst netip.Addr, id uint16, reply bool) []byte {
	b := make([]byte, headerLenICMP)
	binary.BigEndian.PutUint16(b[4:], id)
	protocol := byte(protocolICMP4)
	switch {
	case src.Is6() && reply:
		protocol, b[0] = protocolICMP6, echoReply6
	case src.Is6():
		protocol, b[0] = protocolICMP6, echoRequest6
	case !reply:
		b[0] = echoRequest4
	}
	return ip(src, dst, protocol, b)
}

func icmpFailure(src, dst netip.Addr, about []byte) []byte {
	b := append(make([]byte, headerLenICMP), about...)
	if src.Is6() {
		b[0] = 1
		return ip(src, dst, protocolICMP6, b)
	}
	b[0] = unreachable4
	return ip(src, dst, protocolICMP4, b)
}

// story is a sequence of packets, each with what becomes of it.
type story struct {
	t *testing.T
	f *Firewall
}

func (s story) pass(d dataplane.Direction, packet []byte, what string) {
	s.t.Helper()
	if !s.f.Allow(d, packet) {
		s.t.Errorf("%s: dropped", what)
	}
}

func (s story) drop(d dataplane.Direction, packet []byte, what string) {
	s.t.Helper()
	if s.f.Allow(d, packet) {
		s.t.Errorf("%s: passed", what)
	}
}

// over runs a story over both families, in virtual time, with a firewall old enough to take no segment for an answer.
func over(t *testing.T, rules string, tell func(s story, us, friend netip.Addr)) {
	for name, pair := range map[string][2]netip.Addr{"IPv4": {addr4(1), addr4(2)}, "IPv6": {addr6(1), addr6(2)}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := guard(t, rules)
				time.Sleep((looseFor + 1) * time.Second)
				tell(story{t, f}, pair[0], pair[1])
			})
		})
	}
}

func TestAConnectionThatIsAllowedPassesBothWaysAndNoOther(t *testing.T) {
	over(t, friendly, func(s story, us, friend netip.Addr) {
		s.drop(out, tcp(us, friend, 22, 5000, flagSYN|flagACK), "an answer to nothing")
		s.pass(in, tcp(friend, us, 5000, 22, flagSYN), "SYN to an open port")
		s.pass(out, tcp(us, friend, 22, 5000, flagSYN|flagACK), "its answer")
		s.pass(in, tcp(friend, us, 5000, 22, flagACK), "data")
		s.pass(out, tcp(us, friend, 22, 5000, flagACK), "data back")
		s.drop(in, tcp(friend, us, 5000, 23, flagSYN), "SYN to another port")
		s.drop(out, tcp(us, friend, 22, 5001, flagACK), "another port back")
		s.drop(out, tcp(us, friend, 22, 5000, flagSYN), "a new connection back over the ports of the old one")
		s.drop(out, tcp(us, friend, 4000, 22, flagSYN), "the service is allowed here, not there")
		s.pass(out, tcp(us, friend, 4000, 80, flagSYN), "what we may open")
		s.pass(in, tcp(friend, us, 80, 4000, flagSYN|flagACK), "and its answer")
		s.pass(in, tcp(friend, us, 6000, 22, flagACK), "a connection from before, in the direction that is allowed")
		s.pass(out, tcp(us, friend, 22, 6000, flagACK), "and its answer")
		s.pass(in, udp(friend, us, 7000, 53), "a question")
		s.pass(out, udp(us, friend, 53, 7000), "its answer")
		s.drop(out, udp(us, friend, 53, 7001), "an answer to nobody")
		s.drop(in, ip(friend, us, 132, make([]byte, 20)), "a protocol that nobody allowed")
	})
}

func TestPingsOfBothSidesWithOneIdentifierAreTwoFlows(t *testing.T) {
	rules := "  - {from: tag:friend, to: tag:us, allow: [icmp]}\n"
	over(t, rules, func(s story, us, friend netip.Addr) {
		s.drop(out, echo(us, friend, 7, true), "a reply to nothing")
		s.pass(in, echo(friend, us, 7, false), "ping")
		s.pass(out, echo(us, friend, 7, true), "its reply")
		s.drop(out, echo(us, friend, 7, false), "a ping back")
		s.drop(in, echo(friend, us, 7, true), "its reply")
	})
}

func TestErrorsPassWhenTheyAreAboutAFlow(t *testing.T) {
	over(t, friendly, func(s story, us, friend netip.Addr) {
		question := udp(us, friend, 9000, 123)
		s.drop(in, icmpFailure(friend, us, question), "about what was not sent")
		s.pass(out, question, "a question")
		s.pass(in, icmpFailure(friend, us, question), "nobody is there")
		header := headerLen4
		if us.Is6() {
			header = headerLen6
		}
		s.pass(in, icmpFailure(friend, us, question[:header+quotedLen]), "the same, cut")
		s.drop(in, icmpFailure(friend, us, question[:header+quotedLen-1]), "cut too short")
		s.drop(in, icmpFailure(friend, us, udp(us, friend, 9001, 123)), "about another flow")
		s.drop(in, icmpFailure(friend, us, udp(friend, us, 9000, 123)), "about their own packet")
		s.drop(in, icmpFailure(friend, us, icmpFailure(us, friend, question)), "about an error")
		s.pass(in, udp(friend, us, 9000, 53), "a question to us")
		s.pass(out, icmpFailure(us, friend, udp(friend, us, 9000, 53)), "nobody is here")
	})
}

func TestWhoIsNotTheAddresseeGetsNothing(t *testing.T) {
	f := guard(t, "  - {from: '*', to: '*', allow: ['*']}\n")
	s := story{t, f}
	s.pass(in, udp(addr4(2), addr4(1), 1, 2), "from a member to us")
	s.drop(in, udp(addr4(2), addr4(3), 1, 2), "to another member")
	s.drop(in, udp(addr4(9), addr4(1), 1, 2), "from no member")
	s.drop(out, udp(addr4(9), addr4(2), 1, 2), "from an address that is not ours")
	s.pass(out, udp(addr4(1), addr4(9), 1, 2), "to nobody: the plane answers")
	f.Set(nil)
	s.pass(in, udp(addr4(2), addr4(3), 1, 2), "without a policy")
	if f.Stats().Flows != 0 {
		t.Error("flows without a policy")
	}
}

func TestFlowsEndWithTheirTime(t *testing.T) {
	over(t, friendly, func(s story, us, friend netip.Addr) {
		after := func(d time.Duration) { time.Sleep(d) }
		s.pass(in, udp(friend, us, 7000, 53), "a question")
		after(179 * time.Second)
		s.pass(out, udp(us, friend, 53, 7000), "a late answer")
		after(182 * time.Second)
		s.drop(out, udp(us, friend, 53, 7000), "too late")

		s.pass(in, tcp(friend, us, 5000, 22, flagSYN), "SYN")
		after(62 * time.Second)
		s.drop(out, tcp(us, friend, 22, 5000, flagSYN|flagACK), "an answer after a minute")
		s.pass(in, tcp(friend, us, 5000, 22, flagSYN), "SYN")
		s.pass(out, tcp(us, friend, 22, 5000, flagSYN|flagACK), "answer")
		after(2 * time.Hour)
		s.pass(out, tcp(us, friend, 22, 5000, flagACK), "after two quiet hours")
		s.pass(out, tcp(us, friend, 22, 5000, flagFIN|flagACK), "FIN")
		s.pass(in, tcp(friend, us, 5000, 22, flagFIN|flagACK), "FIN back")
		s.pass(out, tcp(us, friend, 22, 5000, flagACK), "the last ACK")
		after(122 * time.Second)
		s.drop(out, tcp(us, friend, 22, 5000, flagACK), "long after the end")
	})
}

func TestANewPolicyCutsWhatItDoesNotAllow(t *testing.T) {
	over(t, friendly, func(s story, us, friend netip.Addr) {
		s.pass(in, tcp(friend, us, 5000, 22, flagSYN), "ssh")
		s.pass(out, tcp(us, friend, 4000, 80, flagSYN), "http")
		if cut := s.f.WouldCut(compile(s.t, "  - {from: tag:us, to: tag:friend, allow: [tcp/80]}\n", mesh)); len(cut) != 1 || cut[0].LocalPort != 22 || !cut[0].Inbound {
			s.t.Errorf("would cut %+v", cut)
		}
		if n := s.f.Set(compile(s.t, "  - {from: tag:us, to: tag:friend, allow: [tcp/80]}\n", mesh)); n != 1 {
			s.t.Errorf("%d flows ended, want 1", n)
		}
		s.drop(in, tcp(friend, us, 5000, 22, flagACK), "ssh goes on")
		s.drop(out, tcp(us, friend, 22, 5000, flagACK), "ssh answers")
		s.pass(in, tcp(friend, us, 80, 4000, flagSYN|flagACK), "http goes on")
		s.f.Set(compile(s.t, friendly, mesh))
		s.pass(in, tcp(friend, us, 80, 4000, flagACK), "http still goes on")
		// A member that is gone takes its flows along.
		s.f.Set(compile(s.t, friendly, mesh[:1]))
		if n := s.f.Stats().Flows; n != 0 {
			s.t.Errorf("%d flows of nobody", n)
		}
	})
}

func TestConnectionsSurviveARestartEvenIfTheOtherSideSpeaksFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := story{t, guard(t, friendly)}
		us, friend := addr4(1), addr4(2)
		s.pass(in, tcp(friend, us, 80, 4000, flagACK), "a download that we began before")
		s.pass(out, tcp(us, friend, 4000, 80, flagACK), "its acknowledgement")
		s.drop(in, tcp(friend, us, 80, 4001, flagSYN), "a connection is not an answer")
		s.drop(in, tcp(friend, us, 81, 4001, flagACK), "from a port that we may not use")
		s.drop(in, udp(friend, us, 123, 4001), "UDP answers must have been asked for")
		time.Sleep((looseFor + 1) * time.Second)
		s.pass(in, tcp(friend, us, 80, 4000, flagACK), "the download goes on")
		s.drop(in, tcp(friend, us, 80, 4002, flagACK), "another one begins too late")
	})
}

func TestFragmentsFollowTheirFirst(t *testing.T) {
	whole4 := func(id, offset uint16, more bool, payload []byte) []byte {
		b := ip(addr4(2), addr4(1), protocolUDP, payload)
		binary.BigEndian.PutUint16(b[4:], id)
		if more {
			offset |= 0x2000
		}
		binary.BigEndian.PutUint16(b[6:], offset)
		return b
	}
	question := udp(addr4(2), addr4(1), 7000, 53)[headerLen4:]
	f6 := func(id uint32, offset uint16, more bool, payload []byte) []byte {
		h := make([]byte, 8)
		h[0] = protocolUDP
		field := offset << 3
		if more {
			field |= 1
		}
		binary.BigEndian.PutUint16(h[2:], field)
		binary.BigEndian.PutUint32(h[4:], id)
		return ip(addr6(2), addr6(1), protocolFragment, append(h, payload...))
	}
	synctest.Test(t, func(t *testing.T) {
		s := story{t, guard(t, friendly)}
		s.drop(in, whole4(1, 3, true, make([]byte, 8)), "a later fragment alone")
		s.pass(in, whole4(1, 0, true, question), "the first")
		s.pass(in, whole4(1, 3, true, make([]byte, 8)), "a later one")
		s.drop(in, whole4(2, 3, true, make([]byte, 8)), "of another datagram")
		s.drop(in, whole4(1, 1, true, make([]byte, 8)), "one that overwrites the header")
		s.drop(in, whole4(3, 0, true, question[:4]), "a first without ports")
		s.drop(in, whole4(4, 0, true, udp(addr4(2), addr4(1), 7000, 54)[headerLen4:]), "a first to a closed port")
		s.drop(in, whole4(4, 3, false, make([]byte, 8)), "and what follows it")
		s.drop(out, whole4(1, 3, true, make([]byte, 8)), "the other way")
		time.Sleep((fragmentLife + 1) * time.Second)
		s.drop(in, whole4(1, 3, true, make([]byte, 8)), "much later")

		s.pass(in, f6(9, 0, false, question), "one that is whole after all (RFC 6946)")
		s.drop(in, f6(9, 3, true, make([]byte, 8)), "and has no others")
		s.pass(in, f6(10, 0, true, question), "the first")
		s.pass(in, f6(10, 3, false, make([]byte, 8)), "the last")
	})
}

func TestExtensionHeadersAreFollowedWithinBounds(t *testing.T) {
	ext := func(kinds ...byte) []byte {
		payload := udp(addr6(2), addr6(1), 7000, 53)[headerLen6:]
		next := byte(protocolUDP)
		for i := len(kinds) - 1; i >= 0; i-- {
			h := make([]byte, 8)
			h[0], h[2] = next, 4
			payload, next = append(h, payload...), kinds[i]
		}
		return ip(addr6(2), addr6(1), next, payload)
	}
	s := story{t, guard(t, friendly)}
	s.pass(in, ext(protocolHopByHop, protocolDestination, protocolRouting), "three headers")
	s.drop(in, ext(protocolHopByHop, 60, 60, 60, 60, 60, 60), "seven headers")
	old := ext(protocolRouting)
	old[headerLen6+2] = 0
	s.drop(in, old, "routing type 0")
	cut := ext(protocolDestination)
	cut[headerLen6+1] = 200
	s.drop(in, cut, "a header beyond the end")
}

// flood has a peer open flows until it has n, or can get no more.
func flood(f *Firewall, from, n int) {
	for i := range n {
		f.Allow(in, udp(addr4(from), addr4(1), uint16(i), uint16(1+i>>16)))
	}
}

func TestAMembersFloodDrivesOutItsOwnFlowsOnly(t *testing.T) {
	members := []policy.Member{member(1, "us")}
	for i := 2; i < 14; i++ {
		members = append(members, member(i))
	}
	f := New()
	f.Set(compile(t, "  - {from: '*', to: tag:us, allow: [udp, tcp]}\n", members))
	s := story{t, f}
	s.pass(in, tcp(addr4(2), addr4(1), 5000, 22, flagSYN), "the victim's connection")
	s.pass(out, tcp(addr4(1), addr4(2), 22, 5000, flagSYN|flagACK), "answer")
	flood(f, 3, 3*peerFlowsMax)
	if n := f.Stats().Flows; n != peerFlowsMax+1 {
		t.Errorf("%d flows, want %d", n, peerFlowsMax+1)
	}
	for i := 4; i < 13; i++ {
		flood(f, i, 2*peerFlowsMax)
	}
	if n := f.Stats().Flows; n != flowsMax {
		t.Errorf("%d flows, want %d", n, flowsMax)
	}
	s.pass(out, tcp(addr4(1), addr4(2), 22, 5000, flagACK), "the victim's connection goes on")
	for i := range 50 { // a newcomer finds room
		s.pass(in, udp(addr4(13), addr4(1), uint16(1000+i), 53), "a newcomer's question")
	}
	for i := range 50 {
		s.pass(out, udp(addr4(1), addr4(13), 53, uint16(1000+i)), "and the answer")
	}
	if n := f.Stats().Flows; n != flowsMax {
		t.Errorf("%d flows, want %d", n, flowsMax)
	}
	total := 0
	for _, tb := range f.tables {
		total += len(tb.flows)
	}
	if total != f.Stats().Flows {
		t.Errorf("%d flows are there, %d counted", total, f.Stats().Flows)
	}
	if f.Stats().Evicted == 0 {
		t.Error("evictions are not counted")
	}
}

func TestWatchingCutsNothingAndSeesWhatAPolicyWould(t *testing.T) {
	f := New()
	all := compile(t, "  - {from: '*', to: '*', allow: ['*']}\n", mesh)
	f.Watch(all)
	s := story{t, f}
	s.pass(in, []byte{1, 2, 3}, "nonsense")
	s.pass(in, tcp(addr4(2), addr4(1), 22, 4000, flagACK), "from the middle of a connection that we opened")
	s.pass(out, tcp(addr4(1), addr4(2), 4001, 445, flagSYN), "another")
	s.pass(in, udp(addr4(3), addr4(1), 9, 53), "a question")
	cut := f.WouldCut(compile(t, "  - {from: tag:us, to: tag:friend, allow: [tcp/22]}\n", mesh))
	var got []string
	for _, c := range cut {
		got = append(got, fmt.Sprint(c.Protocol, c.LocalPort, c.RemotePort))
	}
	if text := strings.Join(got, ";"); len(cut) != 2 || !strings.Contains(text, "6 4001 445") || !strings.Contains(text, "17 53 9") {
		t.Errorf("would cut %v", got)
	}
	f.Set(compile(t, friendly, mesh))
	if f.Stats().Flows != 0 {
		t.Error("guessed flows outlive the watch")
	}
}

func TestDropsAreCountedAndTheLastOnesKept(t *testing.T) {
	f := guard(t, friendly)
	for i := range dropsKept + 3 {
		f.Allow(in, tcp(addr4(2), addr4(1), 1000, uint16(2000+i), flagSYN))
	}
	f.Allow(out, []byte{0x45})
	s := f.Stats()
	if s.Dropped[in]["no_rule"] != dropsKept+3 || s.Dropped[out]["malformed"] != 1 {
		t.Errorf("%+v", s)
	}
	last := f.LastDrops()
	if len(last) != dropsKept || last[0].Reason != "malformed" || last[1].Port != 2000+dropsKept+2 || last[1].From != addr4(2) {
		t.Errorf("%+v", last)
	}
}

func FuzzPacket(f *testing.F) {
	for i := 1; i < 3; i++ {
		for _, src := range []netip.Addr{addr4(2), addr6(2)} {
			dst := addr4(1)
			if src.Is6() {
				dst = addr6(1)
			}
			q := udp(src, dst, 7000, 53)
			for _, p := range [][]byte{q, tcp(src, dst, 5000, 22, flagSYN), echo(src, dst, 7, false), icmpFailure(src, dst, udp(dst, src, 53, 7000)),
				ip(src, dst, protocolFragment, append([]byte{17, 0, 0, 1, 0, 0, 0, 1}, q...)), ip(src, dst, protocolHopByHop, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, q...))} {
				f.Add(p)
			}
		}
	}
	fw := guard(f, "  - {from: tag:friend, to: tag:us, allow: [tcp/22, udp/53, icmp]}\n")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, d := range []dataplane.Direction{in, out} {
			before := string(b)
			ok := fw.Allow(d, b)
			if string(b) != before {
				t.Fatal("the packet was changed")
			}
			var h header
			if readable := h.parse(b, false); ok && !readable {
				t.Fatal("an unreadable packet passed")
			}
			if ok && d == in && h.part != later && h.kind != icmpError && h.protocol == protocolUDP && h.dport != 53 {
				t.Fatalf("UDP to port %d passed", h.dport)
			}
			if ok && d == in && (h.src != addr4(2) && h.src != addr6(2) || h.dst != addr4(1) && h.dst != addr6(1)) {
				t.Fatalf("from %v to %v passed", h.src, h.dst)
			}
		}
		var h header
		h.parse(b, true)
	})
}

// thousand is a firewall with 1,000 rules in a mesh of 100 nodes.
func thousand(t testing.TB) *Firewall {
	var rules strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&rules, "  - {from: [tag:t%d, node:n%d], to: [tag:t%d], allow: [tcp/%d, tcp/%d-%d, udp/%d]}\n", i%50, i%100, (i+1)%50, i+1, 2000+i*10, 2005+i*10, i+1)
	}
	var members []policy.Member
	for i := range 100 {
		members = append(members, member(i, fmt.Sprint("t", i%50)))
	}
	members[0], members[1] = members[1], members[0]
	f := New()
	f.Set(compile(t, rules.String(), members))
	return f
}

// Node 1 has the tag t1; node 0, of t0, may open tcp/1, tcp/51, … there.
func BenchmarkPacketOfAFlow1000Rules(b *testing.B) {
	f := thousand(b)
	syn, data, back := tcp(addr4(0), addr4(1), 5000, 51, flagSYN), tcp(addr4(0), addr4(1), 5000, 51, flagACK), tcp(addr4(1), addr4(0), 51, 5000, flagACK)
	if !f.Allow(in, syn) || !f.Allow(out, back) {
		b.Fatal("not allowed")
	}
	b.ReportAllocs()
	for b.Loop() {
		f.Allow(in, data)
		f.Allow(out, back)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2, "ns/packet")
}

func BenchmarkDeniedPacket1000Rules(b *testing.B) {
	f := thousand(b)
	syn := tcp(addr6(0), addr6(1), 5000, 52, flagSYN)
	b.ReportAllocs()
	for b.Loop() {
		if f.Allow(in, syn) {
			b.Fatal("allowed")
		}
	}
}

// BenchmarkNewFlow1000Rules opens flows until the peer's bound, and from there on in place of others.
func BenchmarkNewFlow1000Rules(b *testing.B) {
	f := thousand(b)
	syn := tcp(addr4(0), addr4(1), 5000, 51, flagSYN)
	n := uint16(0)
	b.ReportAllocs()
	for b.Loop() {
		n++
		binary.BigEndian.PutUint16(syn[headerLen4:], n)
		f.Allow(in, syn)
	}
}

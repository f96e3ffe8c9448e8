package reach

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

var allNATs = []peer.NAT{peer.NATUnknown, peer.NATNone, peer.NATEasy, peer.NATHard, peer.NATBlocked}

func factsFor(ours, theirs peer.NAT) facts {
	return facts{
		Path: Path{Kind: Relayed, Via: identity.NodeID{1}, RTT: 30 * time.Millisecond}, Port: 51820, Mapper: true,
		Ours:      Side{Name: "this machine", NAT: ours, IPv4: true},
		Theirs:    Side{Name: "nas", NAT: theirs, IPv4: true},
		Relays:    []RelayConsidered{{ID: identity.NodeID{1}, Name: "vps", InUse: true}},
		GoodRelay: "pi",
	}
}

// TestEveryCellOfTheGridIsExplained compares what is said for each pair of NATs with what is on record.
func TestEveryCellOfTheGridIsExplained(t *testing.T) {
	var out bytes.Buffer
	for _, ours := range allNATs {
		for _, theirs := range allNATs {
			x := explain(identity.NodeID{2}, factsFor(ours, theirs))
			fmt.Fprintf(&out, "## %s here, %s there\n%s\n", ours, theirs, x.Summary)
			for _, a := range x.Advice {
				fmt.Fprintf(&out, "- %s\n", a)
			}
			fmt.Fprintln(&out)
		}
	}
	golden(t, "why.txt", out.Bytes())
}

func TestAdviceNamesWhatHelps(t *testing.T) {
	says := func(f facts, what string) bool { return strings.Contains(strings.Join(f.advice(), "\n"), what) }
	for _, ours := range allNATs {
		for _, theirs := range allNATs {
			f := factsFor(ours, theirs)
			cell := fmt.Sprintf("%s, %s", ours, theirs)
			easyOrHard := func(n peer.NAT) bool { return n == peer.NATEasy || n == peer.NATHard || n == peer.NATUnknown }
			port := "UDP"
			if theirs == peer.NATBlocked {
				port = "TCP"
			}
			if says(f, "forward "+port+" port 51820") != easyOrHard(ours) {
				t.Errorf("%s: forwarding here", cell)
			}
			if says(f, "router of nas") != easyOrHard(theirs) {
				t.Errorf("%s: forwarding there", cell)
			}
			if says(f, "allow outgoing UDP in this machine's network") != (ours == peer.NATBlocked) {
				t.Errorf("%s: UDP blocked here", cell)
			}
			if !says(f, "pi would make a good relay") {
				t.Errorf("%s: the good relay", cell)
			}
			if len(f.advice()) == 0 || f.summary() == "" {
				t.Errorf("%s: nothing to say", cell)
			}
			f.Path.Kind = Direct
			if len(f.advice()) > 0 {
				t.Errorf("%s: advice for a direct path", cell)
			}
		}
	}
}

func TestAdviceOnIPv6(t *testing.T) {
	for _, c := range []struct {
		ours, theirs bool
		want         string
	}{
		{false, false, "neither this machine nor nas has it"},
		{true, false, "this machine has it, nas does not"},
		{false, true, "nas has it, this machine does not"},
		{true, true, "both have IPv6, yet it does not get through"},
	} {
		f := factsFor(peer.NATHard, peer.NATHard)
		f.Ours.IPv6, f.Theirs.IPv6 = c.ours, c.theirs
		if got := strings.Join(f.advice(), "\n"); !strings.Contains(got, c.want) {
			t.Errorf("%v %v: %s", c.ours, c.theirs, got)
		}
	}
	f := factsFor(peer.NATNone, peer.NATNone)
	f.Ours.IPv4, f.Ours.IPv6 = false, true
	if got := f.summary(); !strings.Contains(got, "one of the two has only IPv4 and the other only IPv6") {
		t.Errorf("no family in common: %s", got)
	}
}

func TestAPortThatWorksNeedsNoAdvice(t *testing.T) {
	f := factsFor(peer.NATEasy, peer.NATEasy)
	f.Ours.PortMapped, f.Theirs.PortMapped = true, true
	if got := strings.Join(f.advice(), "\n"); strings.Contains(got, "forward") && strings.Contains(got, "router") && strings.Contains(got, "UPnP") {
		t.Errorf("%s", got)
	}
	f = factsFor(peer.NATEasy, peer.NATEasy)
	f.Mapper = false
	if got := strings.Join(f.advice(), "\n"); !strings.Contains(got, "without --no-port-mapping") {
		t.Errorf("%s", got)
	}
}

func TestSummariesOfOtherPaths(t *testing.T) {
	for kind, want := range map[PathKind]string{
		Direct: "packets go to nas directly, at 203.0.113.1:1", Pipe: "over TCP: UDP is blocked by this machine's network",
		NoPath: "there is no path to nas: UDP is blocked by this machine's network", Relayed: "through the relay vps",
	} {
		f := factsFor(peer.NATBlocked, peer.NATEasy)
		f.Path.Kind, f.Path.Addr = kind, ap("203.0.113.1:1")
		if got := f.summary(); !strings.Contains(got, want) {
			t.Errorf("%v: %s", kind, got)
		}
	}
}

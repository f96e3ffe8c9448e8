package nat

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

var fanSeen = netip.MustParseAddrPort("198.51.100.1:40000")

func TestAFanInTriesEachPortOnceWithinItsBounds(t *testing.T) {
	for _, seen := range []netip.AddrPort{fanSeen, netip.MustParseAddrPort("[2001:db8::1]:65530"), netip.MustParseAddrPort("198.51.100.1:7"), {}} {
		plan := FanInPlan(seen, [32]byte{1})
		if len(plan) != FanPacketsMax {
			t.Fatalf("%s: %d packets, want %d", seen, len(plan), FanPacketsMax)
		}
		ports := map[uint16]bool{}
		last := time.Duration(0)
		for _, s := range plan {
			if s.To.Addr() != seen.Addr() || s.To.Port() < fanPortMin || ports[s.To.Port()] {
				t.Fatalf("%s: step to %s", seen, s.To)
			}
			if s.At < last || s.At > FanLength {
				t.Fatalf("%s: step at %v after %v", seen, s.At, last)
			}
			ports[s.To.Port()], last = true, s.At
		}
	}
}

func TestAFanInBeginsWithTheNextPorts(t *testing.T) {
	plan := FanInPlan(fanSeen, [32]byte{1})
	for i := range fanNext {
		if got := plan[i].To.Port(); got != 40000+uint16(i) {
			t.Fatalf("step %d goes to port %d", i, got)
		}
	}
}

func TestAFanInIsDrawnFromItsSeed(t *testing.T) {
	if !slices.Equal(FanInPlan(fanSeen, [32]byte{1}), FanInPlan(fanSeen, [32]byte{1})) {
		t.Error("one seed gives two plans")
	}
	if slices.Equal(FanInPlan(fanSeen, [32]byte{1}), FanInPlan(fanSeen, [32]byte{2})) {
		t.Error("two seeds give one plan")
	}
}

// TestAFanInFindsAnOpenPort holds the figure in FanPacketsMax: the ports hit, in 200 draws, when 256 random ones are open.
func TestAFanInFindsAnOpenPort(t *testing.T) {
	found := 0
	for i := range 200 {
		open := map[uint16]bool{}
		for _, s := range FanInPlan(netip.AddrPort{}, [32]byte{byte(i), 1})[:FanSocketsMax+fanNext] {
			open[s.To.Port()] = true
		}
		if slices.ContainsFunc(FanInPlan(fanSeen, [32]byte{byte(i), 2}), func(s Step) bool { return open[s.To.Port()] }) {
			found++
		}
	}
	if found < 190 {
		t.Errorf("found a port in %d of 200 draws", found)
	}
}

func TestAFanOutSendsTwiceFromEachSocket(t *testing.T) {
	for _, c := range []struct{ ask, sockets int }{{3, 3}, {FanSocketsMax + 1, FanSocketsMax}, {0, 0}, {-1, 0}} {
		plan := FanOutPlan(c.ask)
		count := map[int]int{}
		last := time.Duration(-1)
		for _, s := range plan {
			if s.At < last && s.Socket != 0 {
				t.Errorf("%d sockets: step at %v after %v", c.ask, s.At, last)
			}
			count[s.Socket]++
			last = s.At
		}
		if len(count) != c.sockets || len(plan) != 2*c.sockets || last > FanLength {
			t.Errorf("%d sockets: %d steps from %d, the last at %v", c.ask, len(plan), len(count), last)
		}
	}
}

package nat

import (
	"net/netip"
	"time"
)

// Step is one transmission of a check plan: after At from the plan's start, send a check to To.
type Step struct {
	At time.Duration
	To netip.AddrPort
}

// Plan is which addresses of a node to check and when, in the order of sending. It is a value: tests compare it, people can be
// shown it, and the underlay carries it out, skipping what an answer has made superfluous.
type Plan []Step

const (
	// PlanAddressesMax is the number of addresses checked for one node: eight it announces and as many from hints.
	PlanAddressesMax = 16
	// planBurst addresses are checked at once and planPace separates the bursts, so that a burst of 4×320 bytes fits any access link.
	planBurst = 4
	planPace  = 10 * time.Millisecond
	// PlanLength is how long an address gets to answer from the plan's start, all transmissions included.
	PlanLength = 5 * time.Second
)

// planRepeats are the transmissions to one address: the first retransmission covers a lost packet on a fast path, and the gaps
// double from there (RFC 8489 §6.2.1), so that six packets an address, 2 KB, is all that an unreachable one costs.
var planRepeats = [...]time.Duration{0, 150 * time.Millisecond, 450 * time.Millisecond, 1050 * time.Millisecond, 2 * time.Second, PlanLastRepeat}

// CheckPlan plans the checks of the addresses, the likeliest first. Addresses beyond [PlanAddressesMax] are left out.
func CheckPlan(addrs []netip.AddrPort) Plan {
	addrs = addrs[:min(len(addrs), PlanAddressesMax)]
	plan := make(Plan, 0, len(addrs)*len(planRepeats))
	for _, repeat := range planRepeats {
		for i, a := range addrs {
			plan = append(plan, Step{At: repeat + time.Duration(i/planBurst)*planPace, To: a})
		}
	}
	return plan
}

// PlanLastRepeat is when the last transmission to an address is due, from the plan's start.
const PlanLastRepeat = 3500 * time.Millisecond

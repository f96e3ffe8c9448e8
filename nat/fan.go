package nat

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// Many-port probing, for a hard NAT (address-and-port-dependent mapping, RFC 4787 §4.1) against an easy one. Nobody can know which
// port the hard NAT will give to packets towards the easy side, so both sides guess: behind the hard one, packets to the easy side's
// address leave from many sockets, each of which gets a port of its own (fan out); the easy side sends to many ports (fan in). The
// first port that both have chosen is a hole through both filters.
const (
	// FanSocketsMax is how many sockets the hard side opens. Each is a mapping that its router has to remember, and cheap ones
	// remember no more than a few thousand.
	FanSocketsMax = 256
	// FanPacketsMax is how many ports the easy side tries. Of 64,512 ports, 256 open ones are missed by 1,024 random tries with a
	// probability of (1-256/64512)^1024 = 2 %.
	FanPacketsMax = 1024
	// FanLength is the time from the plan's first packet to its last: 1,024 packets of 312 bytes in 3 s are 0.85 Mbit/s, which
	// the uplinks of this world carry beside other traffic.
	FanLength = 3 * time.Second
	// fanNext ports above the one last seen are tried first: some NATs take their ports in order.
	fanNext = 64
	// fanBurst packets go at once.
	fanBurst = 8
	// fanPortMin is the first port tried: NATs leave the well-known ones alone (RFC 4787 §4.2.2).
	fanPortMin = 1024
	// fanOutPace separates the sockets of a fan out, and fanOutRepeat the two rounds: the second covers what was lost.
	fanOutPace   = 4 * time.Millisecond
	fanOutRepeat = 1500 * time.Millisecond
)

// FanInPlan plans checks of many ports of the address at which a hard NAT was last seen, the likeliest first: no port twice, at most
// [FanPacketsMax] in [FanLength]. The same seed gives the same plan.
func FanInPlan(seen netip.AddrPort, seed [32]byte) Plan {
	order := rand.New(rand.NewChaCha8(seed)).Perm(1<<16 - fanPortMin)
	tried := make(map[uint16]bool, FanPacketsMax)
	plan := make(Plan, 0, FanPacketsMax)
	try := func(port int) {
		if port < fanPortMin || port > 1<<16-1 || tried[uint16(port)] || len(plan) == FanPacketsMax {
			return
		}
		tried[uint16(port)] = true
		at := FanLength / (FanPacketsMax / fanBurst) * time.Duration(len(plan)/fanBurst)
		plan = append(plan, Step{At: at, To: netip.AddrPortFrom(seen.Addr(), uint16(port))})
	}
	for i := range fanNext {
		try(int(seen.Port()) + i)
	}
	for _, p := range order {
		try(fanPortMin + p)
	}
	return plan
}

// FanOutStep is one transmission of a fan out: after At, a check from the socket with the number.
type FanOutStep struct {
	At     time.Duration
	Socket int
}

// FanOutPlan plans the checks from many sockets to one address: one from each, paced, then a second round. At most [FanSocketsMax]
// sockets take part.
func FanOutPlan(sockets int) []FanOutStep {
	sockets = min(max(sockets, 0), FanSocketsMax)
	var plan []FanOutStep
	for round := range 2 {
		for i := range sockets {
			plan = append(plan, FanOutStep{At: time.Duration(round)*fanOutRepeat + time.Duration(i)*fanOutPace, Socket: i})
		}
	}
	return plan
}

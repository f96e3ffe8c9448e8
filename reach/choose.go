package reach

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// The pure core of the relays at hand. What a relay costs is its round trip, longer the busier it is; two are chosen so that one failure, of a
// machine or of its network, leaves the other.
const (
	// relaysAtHand is one in use and one in reserve, as many as a record lists.
	relaysAtHand = peer.RelaysMax
	// loadFull is the load from which a relay is not newly chosen, in percent.
	loadFull = 95
	// switchGain and switchShare: another relay must be better by both than one that is at hand. Moving costs a registration and a new record in
	// everybody's table, while a few milliseconds more cost a relayed packet next to nothing.
	switchGain  = 10 * time.Millisecond
	switchShare = 0.7
	// settled is how long a relay stays at hand at least while it works, however good others look: rounds of probes differ.
	settled = 10 * time.Minute
	// sameNetwork is what a second relay costs more if it stands in the network of the first.
	sameNetwork = 50 * time.Millisecond
	// unappointed is what a relay costs more that the mesh has not appointed (coordinator.DecideRelays), where others are: those appointed stand in
	// several networks and are watched for load. A member next door that offers to relay may still be clearly nearer.
	unappointed = 20 * time.Millisecond
	// busyCost is what a relay that calls itself busy costs more to who is not there yet. Nobody leaves it for that: all would leave at once.
	busyCost = 50 * time.Millisecond
	// failedFor is how long a relay that refused or did not answer is passed over.
	failedFor = time.Minute
)

// candidate is a member that offers to relay, as this node knows it.
type candidate struct {
	ID      identity.NodeID
	RTT     time.Duration // zero: it did not answer a probe, or was not asked yet
	Load    uint8         // percent, from its last answer
	Network netip.Prefix  // /24 or /48 of its address
	Failed  time.Time     // when it last refused or was lost; zero: never

	Busy        bool // by its own word
	Unappointed bool // while others are appointed
}

// atHand is a relay at which this node is registered.
type atHand struct {
	ID    identity.NodeID
	Since time.Time
}

// cost is the round trip to c, longer the busier it is: at full load it counts twice.
func (c candidate) cost() time.Duration {
	cost := c.RTT + c.RTT*time.Duration(min(c.Load, 100))/100
	if c.Unappointed {
		cost += unappointed
	}
	return cost
}

// chooseRelays returns the relays to be registered at, the better first: at most two. Those at hand stay unless they are gone or another is
// clearly better.
func chooseRelays(all []candidate, current []atHand, now time.Time) []identity.NodeID {
	type scored struct {
		candidate
		held bool
		cost time.Duration
	}
	var usable []scored
	for _, c := range all {
		i := slices.IndexFunc(current, func(h atHand) bool { return h.ID == c.ID })
		s := scored{candidate: c, held: i >= 0, cost: c.cost()}
		switch {
		case s.held && now.Sub(current[i].Since) < settled:
			s.cost = 0 // no other is better
		case s.held:
			s.cost = min(time.Duration(float64(s.cost)*switchShare), max(0, s.cost-switchGain))
		case c.RTT <= 0, c.Load >= loadFull, !c.Failed.IsZero() && now.Sub(c.Failed) < failedFor:
			continue
		case c.Busy:
			s.cost += busyCost
		}
		usable = append(usable, s)
	}
	var out []identity.NodeID
	var networks []netip.Prefix
	for len(out) < relaysAtHand && len(usable) > 0 {
		best := slices.MinFunc(usable, func(a, b scored) int {
			return cmp.Or(
				cmp.Compare(a.cost+crowding(a.candidate, networks), b.cost+crowding(b.candidate, networks)),
				cmp.Compare(a.candidate.cost(), b.candidate.cost()), a.ID.Compare(b.ID))
		})
		out, networks = append(out, best.ID), append(networks, best.Network)
		usable = slices.DeleteFunc(usable, func(s scored) bool { return s.ID == best.ID })
	}
	return out
}

// crowding is what a relay costs more beside those already chosen.
func crowding(c candidate, chosen []netip.Prefix) time.Duration {
	if c.Network.IsValid() && slices.Contains(chosen, c.Network) {
		return sameNetwork
	}
	return 0
}

// probesAtOnce bounds the relays whose round trip is measured in one round.
const probesAtOnce = 8

// toProbe says which of the members that offer to relay are to be measured now: those at hand, then those appointed that never were, then those not
// measured for longest, at most eight. asked is when each was last.
func toProbe(offering []identity.NodeID, current []atHand, asked map[identity.NodeID]time.Time, appointed func(identity.NodeID) bool) []identity.NodeID {
	held := func(id identity.NodeID) bool {
		return slices.ContainsFunc(current, func(h atHand) bool { return h.ID == id })
	}
	out := slices.Clone(offering)
	slices.SortFunc(out, func(a, b identity.NodeID) int {
		if held(a) != held(b) {
			if held(a) {
				return -1
			}
			return 1
		}
		if first := asked[a].IsZero() && appointed(a); first != (asked[b].IsZero() && appointed(b)) {
			if first {
				return -1
			}
			return 1
		}
		return cmp.Or(asked[a].Compare(asked[b]), a.Compare(b))
	})
	return out[:min(len(out), probesAtOnce)]
}

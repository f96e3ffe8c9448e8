package coordinator

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Offer is a member's own word that it relays for others.
type Offer struct {
	Busy    bool         // it carries about as much as it can
	Network netip.Prefix // that fails as one, as far as its addresses tell; invalid: unknown
}

const (
	// relaysLeast is what every region wants: a member keeps two at hand.
	relaysLeast = 2
	// membersPerRelay: were all of them behind hard NATs, with two relays at hand each, a relay would be half full (reach.DefaultCapacity).
	membersPerRelay = 64
	// relayTenure is how long one that is no longer needed stays at least, so that load that comes and goes does not take the relays with it.
	relayTenure = time.Hour
)

// What is done to the relays of a region.
const (
	AppointRelay Action = "appoint-relay"
	DismissRelay Action = "dismiss-relay"
)

// DecideRelays appoints the members that relay for every region, from those that offer to:
//
//  1. Who is no longer a member, gone for Timing.Grace, or does not offer it any more is dismissed.
//  2. Enough: two, and one more for every 64 members above 128; one more when all there are have become busy.
//  3. Near: of the region itself. Only while it has fewer than two, others help out, those first that do so for the fewest regions.
//  4. Spread: of networks that have none yet, first.
//  5. One too many goes when none is busy: who is of another region at once, else the youngest after an hour.
//
// One change a region at a time.
func DecideRelays(s *State, o Observation) []Proposal {
	members := s.activeRegions()
	var out []Proposal
	names := make([]string, 0, len(members))
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, r := range s.Relays.List {
		if members[r.Region] == 0 {
			out = append(out, r.dismissal("the region has no members"))
		}
	}
	for _, name := range names {
		if p, ok := decideRelays(s, o, name, members[name]); ok {
			out = append(out, p)
		}
	}
	return out
}

func (r Relay) dismissal(why string) Proposal {
	return Proposal{Action: DismissRelay, Region: r.Region, Node: r.Node, Why: why}
}

// relaysFor is how many relays a region of so many members wants.
func relaysFor(members int) int {
	return min(max(relaysLeast, (members+membersPerRelay-1)/membersPerRelay), relaysPerRegion)
}

func decideRelays(s *State, o Observation, region string, members int) (Proposal, bool) {
	serving, busy, foreign := s.Relays.Of(region), 0, 0
	for _, r := range serving {
		if why := unfit(s, o, r); why != "" {
			return r.dismissal(why), true
		}
		if o.Offers[r.Node].Busy {
			busy++
		}
		if s.RegionOf(r.Node) != region {
			foreign++
		}
	}
	wanted, why := relaysFor(members), "the region wants one more"
	if n := len(serving); n >= wanted && busy == n && n < relaysPerRegion {
		wanted, why = n+1, "all others are busy"
	}
	next, found := bestRelay(s, o, region, serving)
	switch own := found && s.RegionOf(next) == region; {
	case found && len(s.Relays.List) < maxRelays && len(serving) < wanted && (own || len(serving) < relaysLeast):
		return Proposal{Action: AppointRelay, Region: region, Node: next, Why: why}, true
	case own && foreign > 0 && len(s.Relays.List) < maxRelays && len(serving) < relaysPerRegion:
		return Proposal{Action: AppointRelay, Region: region, Node: next, Why: "the region has one of its own"}, true
	case len(serving) > wanted && busy == 0:
		return surplus(s, o, region, serving)
	}
	return Proposal{}, false
}

// unfit says why a member cannot relay any more; empty: it can.
func unfit(s *State, o Observation, r Relay) string {
	_, offers := o.Offers[r.Node]
	since, alive := o.Alive[r.Node]
	switch {
	case !s.Active(r.Node):
		return "no longer a member"
	case o.goneFor(r.Node) >= o.Timing.Grace:
		return "gone"
	case alive && !offers && o.Now.Sub(since) >= o.Timing.Stable: // who has just come back does not know yet that it can
		return "it relays no more"
	}
	return ""
}

// bestRelay is who should relay for a region next.
func bestRelay(s *State, o Observation, region string, serving []Relay) (identity.NodeID, bool) {
	var networks []netip.Prefix
	for _, r := range serving {
		networks = append(networks, o.Offers[r.Node].Network)
	}
	duties := map[identity.NodeID]int{}
	for _, r := range s.Relays.List {
		duties[r.Node]++
	}
	var list []identity.NodeID
	for _, m := range s.Members {
		offer, offers := o.Offers[m.ID]
		since, alive := o.Alive[m.ID]
		if m.Status == Active && offers && alive && o.Now.Sub(since) >= o.Timing.Stable && !s.Relays.Appointed(region, m.ID) &&
			(!offer.Busy || len(serving) == 0) {
			list = append(list, m.ID)
		}
	}
	if len(list) == 0 {
		return identity.NodeID{}, false
	}
	crowded := func(id identity.NodeID) bool {
		n := o.Offers[id].Network
		return n.IsValid() && slices.Contains(networks, n)
	}
	return slices.MinFunc(list, func(a, b identity.NodeID) int {
		return cmp.Or(
			falseFirst(s.RegionOf(a) != region, s.RegionOf(b) != region),
			falseFirst(o.Offers[a].Busy, o.Offers[b].Busy),
			falseFirst(crowded(a), crowded(b)),
			cmp.Compare(duties[a], duties[b]),
			o.Alive[a].Compare(o.Alive[b]),
			a.Compare(b))
	}), true
}

// surplus dismisses one that is not needed.
func surplus(s *State, o Observation, region string, serving []Relay) (Proposal, bool) {
	youngest := serving[0]
	for _, r := range serving {
		if s.RegionOf(r.Node) != region {
			return r.dismissal("the region has enough of its own"), true
		}
		if r.Since.After(youngest.Since) {
			youngest = r
		}
	}
	if o.Wall.Sub(youngest.Since) < relayTenure {
		return Proposal{}, false
	}
	return youngest.dismissal("the others are enough"), true
}

// changeRelays proposes what DecideRelays wants. That the ledger has changed meanwhile is no error: the decider looks again.
func (g *Group) changeRelays(ctx context.Context, r *replica, p Proposal) error {
	if err := g.ready(ctx, r); err != nil {
		return err
	}
	command, err := g.author().Relay(p)
	if err != nil {
		return err
	}
	_, err = g.proposeCommand(ctx, r, command)
	if errors.Is(err, errConflict) {
		return nil
	}
	return err
}

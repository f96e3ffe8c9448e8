package coordinator

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// ElectRegion has a node coordinate a region, in a term; nobody if the node is zero.
const ElectRegion Action = "elect"

// DecideRegions keeps one coordinator in every region that has members:
//
//  1. A region without members is taken off the list.
//  2. Who coordinates stays, whoever else may be better, as long as it answers the leader: a change costs every member of the region
//     more than the best choice gains.
//  3. If it does not answer, has left, moved away, or yields, the best of its region takes over (best), in the next term.
//  4. If nobody of the region can be reached, that is noted once it has lasted for Timing.Shrink: a region of one laptop would
//     otherwise change with every nap.
func DecideRegions(s *State, o Observation) []Proposal {
	members := s.activeRegions()
	var out []Proposal
	for _, r := range s.Regions.List {
		if members[r.Name] == 0 {
			out = append(out, Proposal{Action: ElectRegion, Region: r.Name, Term: s.nextTerm(r.Name), Why: "no members"})
		}
	}
	names := make([]string, 0, len(members))
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if p, ok := decideRegion(s, o, name); ok {
			out = append(out, p)
		}
	}
	return out
}

func decideRegion(s *State, o Observation, region string) (Proposal, bool) {
	r, known := s.Regions.Get(region)
	if !known && len(s.Regions.List) >= maxRegions {
		return Proposal{}, false
	}
	present, _, held := s.RegionCoordinator(region)
	why := "the region has none"
	switch {
	case held && o.Yielding[present]:
		why = "the one before goes"
	case held && o.Silent[present]:
		why = "the one before does not answer"
	case held && o.goneFor(present) >= o.Timing.Grace: // it answers the leader, perhaps, and nobody else
		why = "the one before is gone"
	case held:
		return Proposal{}, false
	case !r.Coordinator.IsZero():
		why = "the one before is not of the region any more"
	}
	next, found := best(s, o, region, present)
	switch {
	case found:
		return Proposal{Action: ElectRegion, Region: region, Node: next, Term: s.nextTerm(region), Why: why}, true
	case !held && !r.Coordinator.IsZero(), held && o.goneFor(present) >= o.Timing.Shrink:
		return Proposal{Action: ElectRegion, Region: region, Term: s.nextTerm(region), Why: why + ", nobody else is there"}, true
	}
	return Proposal{}, false
}

// best is who of a region should coordinate it: a voter, for it has the ledger and is watched by the leader already; then who others reach
// easily; then who has been alive for longest; then the lowest node ID. The present coordinator, which has just been found wanting, is no candidate.
func best(s *State, o Observation, region string, present identity.NodeID) (identity.NodeID, bool) {
	var list []identity.NodeID
	for _, m := range s.Members {
		if m.Status == Active && m.ID != present && o.alive(m.ID) && !o.Silent[m.ID] && !o.Yielding[m.ID] && s.RegionOf(m.ID) == region {
			list = append(list, m.ID)
		}
	}
	if len(list) == 0 {
		return identity.NodeID{}, false
	}
	return slices.MinFunc(list, func(a, b identity.NodeID) int {
		return cmp.Or(
			falseFirst(!slices.Contains(o.Voters, a), !slices.Contains(o.Voters, b)),
			falseFirst(o.Poor[a], o.Poor[b]),
			o.Alive[a].Compare(o.Alive[b]),
			a.Compare(b))
	}), true
}

// electRegion proposes what DecideRegions wants. That the ledger has changed meanwhile is no error: the decider looks again.
func (g *Group) electRegion(ctx context.Context, r *replica, p Proposal) error {
	if err := r.begun(ctx); err != nil {
		return err
	}
	command, err := g.author().Region(p)
	if err != nil {
		return err
	}
	_, err = g.proposeCommand(ctx, r, command)
	if errors.Is(err, errConflict) {
		return nil
	}
	return err
}

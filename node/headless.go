package node

import (
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip/bulletin"
)

// A region is headless while its coordinator is lost and nobody is elected in its place, as the group has no quorum: then another of it speaks. Who is to
// believe that one must know that the coordinator is lost, which is seen in the wide pool alone:
//
//   - who is in it goes by what it sees;
//   - who speaks for its region from outside goes by what a voter believes, who answers its posts;
//   - all others go by the horizon of who speaks for their own region, and by nothing else. They ask nobody: what a rumour has them ask, all members of a
//     region ask at once, and who spreads the rumour may lie.

// outlook is how this node knows whether other regions' coordinators are lost. It is guarded by abroad.mu.
type outlook struct {
	told    bool            // by the horizon of speaker; else it sees for itself, or by answer
	speaker identity.NodeID // who speaks for our region
	answer  map[string]bool // regions that the voter who answered last holds for headless; nil: none has, or this node does not go by that
}

// lookOut notes how this node knows of other regions' coordinators from now on, and takes what it has refused because of what it knew before.
func (a *abroad) lookOut(connects, speaks bool, speaker identity.NodeID) {
	a.outlook.told, a.outlook.speaker = !connects && !speaks, speaker
	if connects || !speaks {
		a.outlook.answer = nil
	}
	for _, raw := range a.board.Reconsider() {
		a.hearLocked(raw)
	}
}

// presides tells whether a region's coordinator is held alive here.
func (a *abroad) presides(region string, coordinator identity.NodeID) bool {
	switch o := &a.outlook; {
	case region == a.own: // whose pool this node is in
	case o.told:
		return !a.board.Headless(a.own, o.speaker, region)
	case o.answer != nil:
		return !o.answer[region]
	}
	return a.m.alive(coordinator)
}

// headless tells whether who has said something has said it for a region whose coordinator is lost.
func (a *abroad) headless(state *coordinator.State, m bulletin.Mark) bool {
	id, lost := inPlaceOf(state, m)
	return lost && !a.presides(m.Region, id)
}

// inPlaceOf tells in whose place somebody has spoken who is not the region's coordinator.
func inPlaceOf(state *coordinator.State, m bulletin.Mark) (identity.NodeID, bool) {
	id, term, ok := state.RegionCoordinator(m.Region)
	return id, ok && term == m.Term && id != m.Author && state.RegionOf(m.Author) == m.Region
}

// believe notes which regions are headless to a voter, by the bulletins that it believes. Without a place in the wide pool it would be no better witness
// than this node.
func (a *abroad) believe(state *coordinator.State, voter identity.NodeID, bulletins [][]byte) {
	if !a.m.mayBeWide(voter) {
		return
	}
	a.outlook.answer = map[string]bool{}
	for _, raw := range bulletins {
		if b, err := bulletin.Parse(raw); err == nil {
			if _, lost := inPlaceOf(state, b.Mark); lost {
				a.outlook.answer[b.Region] = true
			}
		}
	}
}

package node

import (
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/gossip/bulletin"
	"github.com/phantommesh/phantommesh/peer"
)

// Which regions are in sight, and what that makes of their members in the peer table.

// judgeRegions finds out which regions are lost.
func (a *abroad) judgeRegions(state *coordinator.State, now time.Time) {
	connects := a.m.gossip.Pool(gossip.Wide) != nil
	speaker, speaks := a.speaker(state)
	if speaks && !a.speech.speaks {
		a.speech.since = now
	}
	a.speech.speaks = speaks
	a.lookOut(connects, speaks, speaker)
	for _, n := range a.board.Notices() {
		if n.Region == a.own {
			continue
		}
		if id, _, ok := state.RegionCoordinator(n.Region); ok && connects && a.board.Deposed(n.Mark) {
			a.fetchLocked(id, n.Region) // its coordinator may have said it all before
		}
		dark := false
		switch {
		case connects:
			dark = a.gone(n, now)
		case speaks: // and is not let into the wide pool
			dark = now.Sub(later(a.posts.answered, a.speech.since)) >= postLost
		default:
			dark = a.board.OutOfSight(a.own, speaker, n.Region)
		}
		changed := dark != a.dark[n.Region]
		if changed {
			a.m.node.log.Info("region in sight", "region", n.Region, "seen", !dark)
			a.dark[n.Region] = dark
		}
		if changed || a.vouches(n.Author) == a.wideKnows(n.Author) {
			a.apply(n.Region, now)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// wideKnows tells whether the wide pool, if this node is in it, has a word on whoever speaks for a region. Then the region's bulletins have none: see
// apply. When this node joins or leaves the pool, or it hears of the speaker there, that changes without a new bulletin.
func (a *abroad) wideKnows(id identity.NodeID) bool {
	// Who should not be there has left it, and what the pool knew of that one is over.
	return a.m.shouldBeWide(id) && a.m.gossip.Pool(gossip.Wide) != nil && a.m.node.peers.Verdict(wideVerdict, id) != peer.Unknown
}

// vouches tells whether the peer table has a word of bulletins on a member.
func (a *abroad) vouches(id identity.NodeID) bool {
	return a.m.node.peers.Verdict(verdictOfBulletins, id) != peer.Unknown
}

// gone tells whether whoever speaks for a region has been lost to the wide pool for darkAfter. Who speaks without having a place in it does so
// again and again.
func (a *abroad) gone(n bulletin.Notice, now time.Time) bool {
	switch a.m.node.peers.Verdict(wideVerdict, n.Author) {
	case peer.Alive, peer.Suspect:
		delete(a.lost, n.Region)
		return false
	}
	if !a.m.shouldBeWide(n.Author) {
		return now.Sub(a.heard[n.Region]) >= actingLife
	}
	since, ok := a.lost[n.Region]
	if !ok {
		a.lost[n.Region] = now
		return false
	}
	return now.Sub(since) >= darkAfter
}

// wideVerdict is the source of what the wide pool says.
var wideVerdict = gossip.Source(gossip.Wide)

// apply enters into the peer table what is known of a region's members.
func (a *abroad) apply(region string, now time.Time) {
	n, ok := a.board.Notice(region)
	if !ok || region == a.own {
		return
	}
	list, ok := a.board.Members(n)
	if !ok {
		return // by a list that we never had; there will be another
	}
	here := map[identity.NodeID]bool{}
	for _, id := range a.members[region] {
		here[id] = true
	}
	for i, id := range list {
		if !here[id] || id == a.m.node.ID() {
			continue
		}
		state := peer.Alive
		switch {
		case id == n.Author && a.wideKnows(id):
			state = peer.Unknown // of itself nobody can say that it is dead; the wide pool can
		case n.Left[i]:
			state = peer.Left
		case n.Away[i] || a.dark[region]:
			state = peer.Dead
		}
		a.enter(id, state, now)
	}
}

// enter enters what a bulletin says of one member, and tells whom it concerns.
func (a *abroad) enter(id identity.NodeID, state peer.State, now time.Time) {
	n := a.m.node
	before, _ := n.peers.Get(id)
	n.peers.Report(verdictOfBulletins, id, state, now)
	after, ok := n.peers.Get(id)
	if !ok || before.State == after.State {
		return
	}
	n.log.Info("member of another region is "+after.State.String(), "peer", id.Short(), "before", before.State.String())
	a.news = append(a.news, transition{id: id, state: after.State})
}

// settleOwn takes back what bulletins said of members that are of our own region now, once its pool has its own word on them.
func (a *abroad) settleOwn(now time.Time) {
	source := gossip.Source(gossip.Scope(a.own))
	for _, id := range a.members[a.own] {
		if a.m.node.peers.Verdict(verdictOfBulletins, id) == peer.Unknown {
			continue
		}
		e, _ := a.m.node.peers.Get(id)
		if a.m.node.peers.Verdict(source, id) != peer.Unknown || now.Sub(e.Since) >= followTable {
			a.m.node.peers.Report(verdictOfBulletins, id, peer.Unknown, now)
		}
	}
}

// sight tells of which other regions something is heard, and which are lost, by name.
func (a *abroad) sight() (seen, lost []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.several {
		return nil, nil
	}
	for region := range a.members {
		_, heard := a.board.Notice(region)
		switch {
		case region == a.own:
		case heard && !a.dark[region]:
			seen = append(seen, region)
		default:
			lost = append(lost, region)
		}
	}
	slices.Sort(seen)
	slices.Sort(lost)
	return seen, lost
}

package node

import (
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/gossip/bulletin"
	"github.com/phantommesh/phantommesh/peer"
)

// Whoever speaks for a region tells the others who is alive in it, and its own members which other regions are out of sight: the region's
// coordinator; while there is none that is alive, the voter with the lowest ID, or else the member.

const (
	// bulletinEvery and bulletinBurst bound how often a region's bulletin changes, so that members that come and go do not make the whole mesh
	// talk: what happens meanwhile is in the next. Horizons have a pace of their own, the same.
	bulletinEvery = 10 * time.Second
	bulletinBurst = 6
	// speakAfter is how long a node must have been in its region's pool to say who is missing there; less, if nobody is.
	speakAfter = 5 * time.Second
	// actingEvery is how often one who speaks without being let into the wide pool says it again, and actingLife how long that counts.
	actingEvery = 30 * time.Second
	actingLife  = 3 * actingEvery
)

// speech is what this node has said for its region. It is guarded by abroad.mu.
type speech struct {
	pace   *rate.Limiter
	when   time.Time // the last one
	speaks bool      // it spoke for the region when it last looked
	since  time.Time // it does so

	horizons *rate.Limiter // the pace of those
}

// speaker is who speaks for our region, and whether this node does.
func (a *abroad) speaker(state *coordinator.State) (identity.NodeID, bool) {
	self := a.m.node.ID()
	own := state.RegionOf(self)
	coordinator, _, ok := state.RegionCoordinator(own)
	if ok && coordinator == self {
		return self, true
	}
	var voter, member identity.NodeID
	for _, p := range a.m.homeMembers() { // by ID
		if p.State != peer.Alive || state.RegionOf(p.ID) != own {
			continue
		}
		if ok && p.ID == coordinator {
			return coordinator, false
		}
		if voter.IsZero() && state.Coordinators.Voter(p.ID) {
			voter = p.ID
		}
		if member.IsZero() {
			member = p.ID
		}
	}
	if !voter.IsZero() {
		return voter, voter == self
	}
	return member, member == self
}

// speakFor says for our region what there is to say, if this node speaks for it, and returns when to look again.
func (a *abroad) speakFor(state *coordinator.State, now time.Time) time.Duration {
	if _, speaks := a.speaker(state); !speaks {
		return abroadLook
	}
	a.mu.Lock()
	defer a.unlock()
	b, ready := a.compose(state, now)
	if !ready {
		return time.Second
	}
	held, known := a.board.Notice(a.own)
	again := a.repeats(state) && now.Sub(a.speech.when) >= actingEvery
	if !known || again || a.board.Outbid(a.own) || !sameBulletin(b, held.Bulletin) || held.Author != a.m.node.ID() {
		if a.speech.pace == nil {
			a.speech.pace = rate.NewLimiter(rate.Every(bulletinEvery), bulletinBurst)
		}
		if !a.speech.pace.AllowN(now, 1) {
			return time.Second
		}
		a.issue(state, b, now)
	}
	return a.tellHorizon(state, now)
}

// repeats reports whether what this node says for its region holds for a while only: nobody in the wide pool knows when it is gone.
func (a *abroad) repeats(state *coordinator.State) bool { return !a.m.connects(state) }

// compose says who is alive in our region. It is not ready in a pool that has only just been joined. A coordinator that is suspected is away: this
// node speaks in its place, and whoever took it for alive would believe only itself.
func (a *abroad) compose(state *coordinator.State, now time.Time) (b bulletin.Bulletin, ready bool) {
	list := a.members[a.own]
	states := map[identity.NodeID]gossip.Member{}
	for _, p := range a.m.homeMembers() {
		states[p.ID] = p
	}
	coordinator, term, _ := state.RegionCoordinator(a.own)
	b = bulletin.Bulletin{
		Mark:    bulletin.Mark{Region: a.own, Author: a.m.node.ID(), Term: term},
		Version: state.Version, Roll: bulletin.RollOf(list), Away: make([]bool, len(list)), Left: make([]bool, len(list)),
		Keys: state.Keyring.Version,
	}
	ready = true
	for i, id := range list {
		p, known := states[id]
		switch {
		case id == a.m.node.ID():
		case known && (p.State == peer.Alive || p.State == peer.Suspect && id != coordinator):
			if p.Record.StateVersion < state.Keyring.Version {
				b.Keys = 0
			}
		default:
			b.Away[i], b.Left[i] = true, known && p.State == peer.Left
			ready = ready && known
		}
	}
	return b, ready || now.Sub(a.m.poolSince(gossip.Scope(a.own))) >= speakAfter
}

// sameBulletin reports whether two bulletins of one region say the same.
func sameBulletin(a, b bulletin.Bulletin) bool {
	return a.Term == b.Term && a.Roll == b.Roll && a.Keys == b.Keys && slices.Equal(a.Away, b.Away) && slices.Equal(a.Left, b.Left)
}

// issue signs a bulletin and spreads it.
func (a *abroad) issue(state *coordinator.State, b bulletin.Bulletin, now time.Time) {
	n := a.m.node
	b.Number = a.board.NextNumber(a.own)
	raw, err := b.Sign(state.Mesh.ID, n.key)
	if err == nil {
		_, err = a.board.Take(raw)
	}
	if err != nil {
		n.log.Debug("no bulletin of our region", "region", a.own, "err", err)
		return
	}
	a.speech.when = now
	a.share()
	a.spread(a.own, raw)
}

// spread starts the rumour of a bulletin; of one that fits none, that there is one to fetch.
func (a *abroad) spread(region string, raw []byte) {
	topic, payload := topicBulletin, raw
	if len(raw) > gossip.RumourMax {
		topic, payload = topicLargeBulletin, []byte(region)
	}
	if err := a.m.gossip.Rumour(topic, payload); err != nil {
		a.m.node.log.Debug("rumour not spread", "err", err)
	}
}

// tellHorizon tells our region which others are out of sight or headless, when that has changed or another has told it before, and returns when to look
// again. A region where nobody was ever out of sight hears nothing.
func (a *abroad) tellHorizon(state *coordinator.State, now time.Time) time.Duration {
	var dark, headless []bulletin.Dark
	for _, n := range a.board.Notices() {
		switch {
		case a.dark[n.Region]:
			dark = append(dark, bulletin.DarkOf(n.Region))
		case a.headless(state, n.Mark):
			headless = append(headless, bulletin.HeadlessOf(n.Region))
		}
	}
	dark = append(dark, headless...)
	dark = dark[:min(len(dark), bulletin.DarkMax)]
	if !a.board.Untold(a.own, a.m.node.ID(), dark) {
		return abroadLook
	}
	if a.speech.horizons == nil {
		a.speech.horizons = rate.NewLimiter(rate.Every(bulletinEvery), bulletinBurst)
	}
	if !a.speech.horizons.AllowN(now, 1) {
		return time.Second
	}
	_, term, _ := state.RegionCoordinator(a.own)
	h := bulletin.Horizon{Mark: bulletin.Mark{Region: a.own, Author: a.m.node.ID(), Term: term, Number: a.board.NextNumber(a.own)}, Dark: dark}
	raw, err := h.Sign(state.Mesh.ID, a.m.node.key)
	if err == nil {
		err = a.board.TakeHorizon(raw, a.own)
	}
	if err != nil {
		a.m.node.log.Debug("no horizon of our region", "region", a.own, "err", err)
		return abroadLook
	}
	a.share()
	if p := a.m.gossip.Pool(gossip.Scope(a.own)); p != nil {
		if err := p.LocalRumour(topicHorizon, raw); err != nil {
			a.m.node.log.Debug("rumour not spread", "err", err)
		}
	}
	return abroadLook
}

// putForward are the members of our region that the leader may want to give duties to, beyond those whose records it has anyway: at most
// putForwardMax, those appointed to relay first, then those that others reach easily and that offer to.
func (a *abroad) putForward(state *coordinator.State) []gossip.Member {
	var out []gossip.Member
	for _, p := range a.m.homeMembers() {
		if p.State == peer.Alive && !state.Coordinators.Voter(p.ID) && state.RegionOf(p.ID) == a.ownRegion() {
			out = append(out, p)
		}
	}
	worth := func(p gossip.Member) int {
		w := 0
		if isNotable(state, p.ID) {
			w += 8
		}
		if p.Record.NAT != peer.NATHard && p.Record.NAT != peer.NATBlocked {
			w += 4
		}
		if p.Record.Relay {
			w += 2
		}
		if !p.Record.Busy {
			w++
		}
		return w
	}
	slices.SortStableFunc(out, func(a, b gossip.Member) int { return worth(b) - worth(a) })
	return out[:min(len(out), putForwardMax)]
}

func (a *abroad) ownRegion() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.own
}

package node

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// Where a member of another region is, a node asks when it wants to reach it: whoever coordinates that region, its own coordinator and the
// leader, side by side. The hash table is asked too, and slower (dht.go).

const (
	// lookupsMax bounds the members being looked for at once, and lookupEvery is the least time between two searches for one.
	lookupsMax  = 32
	lookupEvery = 2 * time.Second
	// lookupAsked is how many members a search asks.
	lookupAsked = 3
	// lookupsKept bounds the searches that are remembered.
	lookupsKept = 1024
)

// searches are those for members of other regions. It is guarded by abroad.mu.
type searches struct {
	running int
	begun   map[identity.NodeID]time.Time
	total   uint64
	found   uint64
}

func newSearches() searches { return searches{begun: map[identity.NodeID]time.Time{}} }

// seek looks for a member of another region, and calls then afterwards with whether somebody knew where it is, unless there is no search: then it
// returns false.
func (a *abroad) seek(id identity.NodeID, then func(found bool)) bool {
	if !a.foreign(id) {
		return false
	}
	asked := a.whomToAsk(id)
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.search.begun) >= lookupsKept {
		maps.DeleteFunc(a.search.begun, func(_ identity.NodeID, at time.Time) bool { return now.Sub(at) >= lookupEvery })
	}
	if len(asked) == 0 || a.search.running >= lookupsMax || now.Sub(a.search.begun[id]) < lookupEvery || len(a.search.begun) >= lookupsKept ||
		a.closed {
		return false
	}
	a.search.running++
	a.search.total++
	a.search.begun[id] = now
	a.m.loops.Go(func() {
		found := a.lookUp(id, asked)
		a.mu.Lock()
		a.search.running--
		if found {
			a.search.found++
		}
		a.mu.Unlock()
		then(found)
	})
	return true
}

// whomToAsk are those that may know where a member is, the likeliest first.
func (a *abroad) whomToAsk(id identity.NodeID) []identity.NodeID {
	state := a.m.group.State()
	self := a.m.node.ID()
	var out []identity.NodeID
	add := func(other identity.NodeID) {
		if !other.IsZero() && other != self && other != id && !slices.Contains(out, other) && len(out) < lookupAsked {
			out = append(out, other)
		}
	}
	region := state.RegionOf(id)
	if c, _, ok := state.RegionCoordinator(region); ok {
		add(c)
	}
	if own, speaks := a.speaker(state); !speaks {
		add(own)
	}
	for _, v := range state.Coordinators.Voters {
		if state.RegionOf(v) == region {
			add(v)
		}
	}
	add(state.Coordinators.Leader)
	return out
}

// lookUp asks where a member is, and returns when one has told, or none has.
func (a *abroad) lookUp(id identity.NodeID, asked []identity.NodeID) bool {
	ctx, cancel := a.within(newsWait)
	defer cancel()
	answers := make(chan bool, len(asked))
	for _, other := range asked {
		a.m.loops.Go(func() {
			answer, err := a.m.node.askNews(ctx, other, newsQuestion{Kind: newsWhere, Nodes: []identity.NodeID{id}})
			if err != nil {
				a.m.node.log.Debug("no answer where a member is", "peer", id.Short(), "asked", other.Short(), "err", err)
			}
			told := false
			for _, r := range answer.Records {
				if r.ID == id {
					a.learn(id, r.Signed)
					told = true
				}
			}
			answers <- told
		})
	}
	for range asked {
		if <-answers {
			return true
		}
	}
	return false
}

// where answers who asks for members: what is known here of those of our region and of those that connect regions; of others, what their
// coordinator answers.
func (a *abroad) where(ctx context.Context, from identity.NodeID, q newsQuestion) []recordWire {
	out := []recordWire{}
	ask := map[identity.NodeID][]identity.NodeID{}
	state := a.m.group.State()
	for _, id := range q.Nodes {
		if signed, ok := a.signed(id); ok {
			out = append(out, recordWire{ID: id, Signed: signed})
			continue
		}
		c, _, ok := state.RegionCoordinator(state.RegionOf(id))
		if !q.Forwarded && ok && c != from && c != a.m.node.ID() && state.Active(id) {
			ask[c] = append(ask[c], id)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, newsForward)
	defer cancel()
	for _, c := range slices.SortedFunc(maps.Keys(ask), identity.NodeID.Compare) {
		ids := ask[c]
		answer, err := a.m.node.askNews(ctx, c, newsQuestion{Kind: newsWhere, Nodes: ids, Forwarded: true})
		if err != nil {
			continue
		}
		for _, r := range answer.Records {
			if slices.Contains(ids, r.ID) && len(r.Signed) <= peer.RecordMax {
				out = append(out, r)
			}
		}
	}
	return out
}

// signed is a member's record as it signed it: of our pools, or of those that have told it all regions, or what was heard last.
func (a *abroad) signed(id identity.NodeID) ([]byte, bool) {
	if signed, ok := a.m.gossip.Signed(id); ok {
		return signed, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r, ok := a.records[id]; ok {
		return r.signed, true
	}
	signed, ok := a.learned[id]
	return signed, ok
}

// askAbout asks a member that was found by other means where those of our region are, as far as it knows: they may all have moved.
func (a *abroad) askAbout(other identity.NodeID) {
	if !a.foreign(other) {
		return
	}
	var ids []identity.NodeID
	state := a.m.group.State()
	own := state.RegionOf(a.m.node.ID())
	for _, id := range state.MembersOf()[own] {
		if id != a.m.node.ID() && len(ids) < whereMax {
			ids = append(ids, id)
		}
	}
	ctx, cancel := a.within(newsWait)
	defer cancel()
	answer, err := a.m.node.askNews(ctx, other, newsQuestion{Kind: newsWhere, Nodes: ids})
	if err != nil {
		a.m.node.log.Debug("a member of another region knows nothing of ours", "peer", other.Short(), "err", err)
	}
	for _, r := range answer.Records {
		a.learn(r.ID, r.Signed)
	}
}

// fetchLarge fetches a bulletin that fits no rumour, from who spoke of it.
func (a *abroad) fetchLarge(from identity.NodeID, region string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fetchLocked(from, region)
}

// fetchLocked fetches a region's bulletin.
func (a *abroad) fetchLocked(from identity.NodeID, region string) {
	if !a.several || len(a.members[region]) == 0 || a.search.running >= lookupsMax || a.closed {
		return
	}
	a.search.running++
	a.m.loops.Go(func() {
		ctx, cancel := a.within(newsWait)
		defer cancel()
		answer, err := a.m.node.askNews(ctx, from, newsQuestion{Kind: newsAbout, Region: region})
		if err != nil {
			a.m.node.log.Debug("a bulletin was not fetched; gossip's exchanges bring it", "region", region, "err", err)
		}
		for _, raw := range answer.Bulletins {
			a.hear(raw)
		}
		a.mu.Lock()
		a.search.running--
		a.mu.Unlock()
	})
}

package node

import (
	"runtime"

	use "github.com/phantommesh/phantommesh/internal/held"
	"github.com/phantommesh/phantommesh/reach"
)

var (
	descHeld    = desc("held", "Entries of queues and tables now, by what they are of.", "of")
	descHeldMax = desc("held_max", "The most entries that a queue or table may have.", "of")
	descRoutine = desc("goroutines", "Goroutines of the process.")
)

// Held tells how full the node's queues and tables are, and what bounds them.
func (n *Node) Held() []use.Use {
	n.petitions.mu.Lock()
	waiting, places := len(n.petitions.byID), len(n.petitions.places)
	n.petitions.mu.Unlock()
	out := append(append(n.socket.Held(), n.control.Held()...),
		use.Use{Of: "relay_pairs", Now: n.socket.RelayStats().Channels, Max: reach.DefaultCapacity.Channels},
		use.Use{Of: "requests_waiting", Now: waiting, Max: petitionsMax},
		use.Use{Of: "requests_places", Now: places, Max: placesMax},
	)
	m := n.online.Load()
	if m == nil {
		return out
	}
	out = append(append(out, m.gossip.Held()...), m.abroad.held()...)
	if d := m.dht.Load(); d != nil {
		out = append(out, d.Held()...)
	}
	return out
}

func (a *abroad) held() []use.Use {
	a.posts.paces.mu.Lock()
	paces := len(a.posts.paces.of)
	a.posts.paces.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	return []use.Use{
		use.Queue("region_merges", a.merges),
		{Of: "region_bulletins", Now: len(a.board.Notices()), Max: len(a.members)},
		{Of: "region_records", Now: len(a.records), Max: sharedRecordsMax},
		{Of: "region_records_learned", Now: len(a.learned), Max: learnedMax},
		{Of: "region_lookups", Now: a.search.running, Max: lookupsMax},
		{Of: "region_lookups_kept", Now: len(a.search.begun), Max: lookupsKept},
		{Of: "region_askers", Now: paces, Max: newsPacesMax},
	}
}

func (n *Node) collectHeld(gauge emitGauge) {
	for _, u := range n.Held() {
		gauge(descHeld, float64(u.Now), u.Of)
		gauge(descHeldMax, float64(u.Max), u.Of)
	}
	gauge(descRoutine, float64(runtime.NumGoroutine()))
}

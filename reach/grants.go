package reach

import (
	"sync"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Capacity bounds what a relay takes on. The rate in bytes is the underlay's business.
type Capacity struct {
	Peers    int // members registered
	Channels int // pairs it forwards between
	PerPeer  int // of these, opened by one member
}

// DefaultCapacity is what a relay takes on unless it is told otherwise. A registration costs a stream and a path that is kept alive, some 20 KB; a channel a
// stream and a queue of at most 64 KB: 5 MB and 64 MB at worst.
var DefaultCapacity = Capacity{Peers: 256, Channels: 1024, PerPeer: 64}

// perPeerRegistrations is how many streams of one member may be registered: the one in use, and one that its node forgot when it was restarted,
// until the connection's idle timeout finds out.
const perPeerRegistrations = 4

// grants is what a relay has granted now. It is safe for concurrent use.
type grants struct {
	capacity Capacity

	mu         sync.Mutex
	registered map[identity.NodeID]int
	opened     map[identity.NodeID]int // by who opened
	channels   int
}

func newGrants(c Capacity) *grants {
	return &grants{capacity: c, registered: map[identity.NodeID]int{}, opened: map[identity.NodeID]int{}}
}

// register takes a member in, or says why not.
func (g *grants) register(id identity.NodeID) RefusalCode {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, known := g.registered[id]
	switch {
	case !known && len(g.registered) >= g.capacity.Peers:
		return RefusedFull
	case n >= perPeerRegistrations:
		return RefusedTooMany
	}
	g.registered[id]++
	return 0
}

func (g *grants) unregister(id identity.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.registered[id]--; g.registered[id] <= 0 {
		delete(g.registered, id)
	}
}

func (g *grants) isRegistered(id identity.NodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.registered[id] > 0
}

// open takes a place for a channel that the member asks for, or says why not.
func (g *grants) open(id identity.NodeID) RefusalCode {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.channels >= g.capacity.Channels:
		return RefusedFull
	case g.opened[id] >= g.capacity.PerPeer:
		return RefusedTooMany
	}
	g.channels++
	g.opened[id]++
	return 0
}

func (g *grants) close(id identity.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.channels--
	if g.opened[id]--; g.opened[id] <= 0 {
		delete(g.opened, id)
	}
}

// load is how full the relay is, in percent: the scarcest of places and rate counts.
func (g *grants) load(rate int) uint8 {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := max(0, rate)
	if g.capacity.Peers > 0 {
		out = max(out, 100*len(g.registered)/g.capacity.Peers)
	}
	if g.capacity.Channels > 0 {
		out = max(out, 100*g.channels/g.capacity.Channels)
	}
	return uint8(min(out, 100))
}

package control

import (
	"context"
	"slices"
	"sync"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// events tells watchers which peers are connected. Changes are marked, not queued: the one goroutine that calls the watchers
// compares what it last told them with what is true now, so a peer that comes and goes quickly costs one entry and no order can be
// got wrong.
type events struct {
	signal chan struct{} // 1 deep: something is marked

	mu       sync.Mutex
	marked   map[identity.NodeID]Peer
	watchers []func(Peer, bool)

	// Owned by run.
	told map[identity.NodeID]bool
	live func(identity.NodeID) bool
}

func newEvents() *events {
	return &events{
		signal: make(chan struct{}, 1), marked: map[identity.NodeID]Peer{}, told: map[identity.NodeID]bool{},
	}
}

// mark notes that a peer's connections have changed.
func (e *events) mark(p Peer) {
	e.mu.Lock()
	e.marked[p.ID] = p
	e.mu.Unlock()
	select {
	case e.signal <- struct{}{}:
	default:
	}
}

// run calls the watchers until ctx ends.
func (e *events) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.signal:
		}
		e.mu.Lock()
		marked, watchers := e.marked, slices.Clone(e.watchers)
		e.marked = map[identity.NodeID]Peer{}
		e.mu.Unlock()
		for id, p := range marked {
			up := e.live(id)
			if up == e.told[id] {
				continue
			}
			if e.told[id] = up; !up {
				delete(e.told, id)
			}
			for _, f := range watchers {
				f(p, up)
			}
		}
	}
}

// OnConnection registers f to be called when a peer, member or stranger, gets its first connection and when it has lost its last.
// Calls come one after the other from one goroutine; f must not block, and must not call Close. Register before connections exist:
// what has been is not told again.
func (h *Host) OnConnection(f func(p Peer, up bool)) {
	h.events.mu.Lock()
	defer h.events.mu.Unlock()
	h.events.watchers = append(h.events.watchers, f)
}

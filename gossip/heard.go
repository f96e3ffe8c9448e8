package gossip

import (
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

const (
	// heardMax bounds the rumours remembered, about 1.5 MB of them; heardPerOrigin those of one member: more than one every
	// second for as long as one lives is no rumour but a flood. So it takes sixteen members in collusion to push the others'
	// rumours out early, and then these are heard twice, not lost.
	heardMax       = 16 * heardPerOrigin
	heardPerOrigin = 1024
)

// rumourName names a rumour.
type rumourName struct {
	origin   identity.NodeID
	sequence uint64
}

// heard remembers which rumours have been heard, until they are too old to be taken again. It is pure: time comes in.
type heard struct {
	names  map[rumourName]struct{}
	counts map[identity.NodeID]int
	order  []remembered // by arrival, oldest first; order[0] is at begin
	begin  int
}

type remembered struct {
	name  rumourName
	until time.Time
}

func newHeard() *heard {
	return &heard{names: map[rumourName]struct{}{}, counts: map[identity.NodeID]int{}}
}

// admits reports whether a rumour is new and its origin has not said too much.
func (h *heard) admits(n rumourName, now time.Time) (why refusal, ok bool) {
	for h.begin < len(h.order) && h.order[h.begin].until.Before(now) {
		h.dropOldest()
	}
	if _, again := h.names[n]; again {
		return refusedRepeat, false
	}
	if h.counts[n.origin] >= heardPerOrigin {
		return refusedFlood, false
	}
	return 0, true
}

// add remembers a rumour that was admitted.
func (h *heard) add(n rumourName, until time.Time) {
	if len(h.names) >= heardMax {
		h.dropOldest()
	}
	h.names[n] = struct{}{}
	h.counts[n.origin]++
	h.order = append(h.order, remembered{n, until})
}

func (h *heard) dropOldest() {
	n := h.order[h.begin].name
	delete(h.names, n)
	if h.counts[n.origin]--; h.counts[n.origin] == 0 {
		delete(h.counts, n.origin)
	}
	if h.begin++; h.begin > len(h.order)/2 {
		h.order = append(h.order[:0], h.order[h.begin:]...)
		h.begin = 0
	}
}

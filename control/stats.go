package control

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// counters count since the start.
type counters struct {
	dials, established, served   atomic.Uint64
	refused, turnedAway          atomic.Uint64
	streamsRefused, unresponsive atomic.Uint64
}

// Stats are a Host's figures: numbers now, and counts since it started.
type Stats struct {
	Connections    int    // now
	Strangers      int    // now, those still in their hello included
	Dials          uint64 // begun by us
	Established    uint64 // connections whose hello succeeded, either way
	Served         uint64 // streams handed to a handler
	Refused        uint64 // peers we turned away by their hello
	TurnedAway     uint64 // connection attempts over a limit
	StreamsRefused uint64 // streams over a limit
	Unresponsive   uint64 // connections dropped because streams were not answered
}

// Stats returns the figures.
func (h *Host) Stats() Stats {
	h.mu.Lock()
	connections := len(h.allLocked())
	h.mu.Unlock()
	return Stats{
		Connections:    connections,
		Strangers:      h.gate.strangers(),
		Dials:          h.counters.dials.Load(),
		Established:    h.counters.established.Load(),
		Served:         h.counters.served.Load(),
		Refused:        h.counters.refused.Load(),
		TurnedAway:     h.counters.turnedAway.Load(),
		StreamsRefused: h.counters.streamsRefused.Load(),
		Unresponsive:   h.counters.unresponsive.Load(),
	}
}

// Conn describes one live connection.
type Conn struct {
	Peer    identity.NodeID
	Member  bool // the peer has proven to be one
	Dialed  bool // by us
	Streams int  // in use
	RTT     time.Duration
}

// Conns returns the live connections, sorted by peer.
func (h *Host) Conns() []Conn {
	h.mu.Lock()
	all := h.allLocked()
	h.mu.Unlock()
	out := make([]Conn, 0, len(all))
	for _, c := range all {
		if !c.alive() {
			continue
		}
		out = append(out, Conn{
			Peer: c.peer.ID, Member: c.peer.Member != nil, Dialed: c.dialed, Streams: int(c.open.Load()),
			RTT: c.quic.ConnectionStats().SmoothedRTT,
		})
	}
	slices.SortStableFunc(out, func(a, b Conn) int { return a.Peer.Compare(b.Peer) })
	return out
}

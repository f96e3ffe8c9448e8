package gossip

import (
	"sync/atomic"

	"github.com/phantommesh/phantommesh/peer"
)

// refusal is why something that came was not taken.
type refusal uint8

// The reasons, in the order of the way in.
const (
	refusedSeal      refusal = iota // the packet does not open under any key
	refusedForm                     // malformed packet
	refusedBusy                     // a bounded queue was full
	refusedStream                   // stream of a non-member, one too many, or malformed
	refusedName                     // says it is about something that is no node ID, or at a foreign address
	refusedVersion                  // speaks another version of memberlist's protocol
	refusedStranger                 // about a node that is not a member as far as we know
	refusedRevoked                  // from or about a revoked member
	refusedScope                    // for a pool that is not here, or from or about a member that does not belong into it
	refusedExpired                  // about a member whose certificate has ended
	refusedSignature                // a record that its node has not signed
	refusedConflict                 // two addresses for one node
	refusedRumour                   // a malformed rumour, or one not signed by its origin
	refusedStale                    // a rumour too old, or from too far in the future
	refusedRepeat                   // a rumour heard before; the normal end of each
	refusedFlood                    // a rumour of an origin that has had its share
	refusedAhead                    // more of a node's incarnation than it can have
	refusalReasons
)

var refusalNames = [refusalReasons]string{
	"seal", "form", "busy", "stream", "name", "version", "stranger", "revoked", "scope", "expired", "signature", "conflict",
	"rumour", "stale", "repeat", "flood", "ahead",
}

// String returns the reason as metrics label it.
func (r refusal) String() string { return refusalNames[r] }

// counters are the pool's own counts. They only grow.
type counters struct {
	packetsIn, packetsOut, packetsLost   atomic.Uint64
	bytesIn, bytesOut                    atomic.Uint64
	streamsIn, streamsOut, streamsFailed atomic.Uint64
	streamBytesIn, streamBytesOut        atomic.Uint64
	rumoursIn, rumoursOut                atomic.Uint64
	eventsLost, rumoursLost              atomic.Uint64
	rejoins                              atomic.Uint64
	probesSpared, drifts                 atomic.Uint64
	refused                              [refusalReasons]atomic.Uint64
}

func (c *counters) refuse(r refusal) { c.refused[r].Add(1) }

// Stats is a pool in numbers, or all pools of a node. All but Members and Health grow from the start.
type Stats struct {
	// Members by state, as this node sees it, itself included.
	Members map[peer.State]int
	// Health is Lifeguard's score: 0 is well, 7 says that this node misses its own deadlines.
	Health int

	// Packets and their bytes, sealed, without UDP and IP headers. PacketsLost had no path.
	PacketsSent, PacketsReceived, PacketsLost uint64
	BytesSent, BytesReceived                  uint64
	// Streams for push/pull and fallback pings, and the bytes in them before TLS.
	StreamsOpened, StreamsAccepted, StreamsFailed uint64
	StreamBytesSent, StreamBytesReceived          uint64
	// RumoursSent are our own, RumoursHeard those of others, each counted once.
	RumoursSent, RumoursHeard uint64
	// EventsLost and RumoursLost were not read in time from their channels.
	EventsLost, RumoursLost uint64
	// Rejoins counts attempts to synchronise with members that were not alive here.
	Rejoins uint64
	// ProbesSpared were not sent because all was calm; Drifts are exchanges because another node's digest differed.
	ProbesSpared, Drifts uint64
	// Refused counts what was not taken, by reason.
	Refused map[string]uint64
}

// Stats returns the pool's numbers.
func (p *Pool) Stats() Stats {
	s := p.stats.read()
	s.Health = p.list.GetHealthScore()
	for _, m := range p.Members() {
		s.Members[m.State]++
	}
	return s
}

func (c *counters) read() Stats {
	s := Stats{
		Members:     map[peer.State]int{},
		PacketsSent: c.packetsOut.Load(), PacketsReceived: c.packetsIn.Load(), PacketsLost: c.packetsLost.Load(),
		BytesSent: c.bytesOut.Load(), BytesReceived: c.bytesIn.Load(),
		StreamsOpened: c.streamsOut.Load(), StreamsAccepted: c.streamsIn.Load(), StreamsFailed: c.streamsFailed.Load(),
		StreamBytesSent: c.streamBytesOut.Load(), StreamBytesReceived: c.streamBytesIn.Load(),
		RumoursSent: c.rumoursOut.Load(), RumoursHeard: c.rumoursIn.Load(),
		EventsLost: c.eventsLost.Load(), RumoursLost: c.rumoursLost.Load(),
		Rejoins: c.rejoins.Load(), ProbesSpared: c.probesSpared.Load(), Drifts: c.drifts.Load(), Refused: map[string]uint64{},
	}
	for r := range refusalReasons {
		s.Refused[r.String()] = c.refused[r].Load()
	}
	return s
}

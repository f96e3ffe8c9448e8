package underlay

import "sync/atomic"

// dropReason says why a packet was dropped.
type dropReason uint8

const (
	dropUnknown     dropReason = iota // no protocol of ours
	dropStranger                      // QUIC, WireGuard or a relay frame from a source without a validated path
	dropNotListened                   // arrived on a local address that Listen does not name
	dropLimited                       // over a stranger's rate limit
	dropQueueFull                     // nobody took the packets before it in time
	dropMalformed                     // STUN or a relay frame that does not parse
	dropForged                        // STUN whose integrity does not match
	dropUnasked                       // a STUN response to nothing we asked, or from another address than we asked
	dropRelay                         // a relay frame of no channel that is open, or inside another
	dropNoDevice                      // WireGuard, and no device is attached
	dropNoPath                        // to be sent, and there is no path
	dropBogus                         // UDP from an address that only a link can have
	dropNoLink                        // delivered on a link that is gone
	dropTooLarge                      // larger than any packet of ours
	dropStale                         // waited too long in a pipe
	dropReasons
)

var dropNames = [dropReasons]string{
	"unknown", "stranger", "not_listened", "limited", "queue_full", "malformed", "forged", "unasked", "relay", "no_device", "no_path",
	"bogus", "no_link", "too_large", "stale",
}

var classNames = [classes]string{"unknown", "wireguard", "stun", "quic", "gossip", "relay", "keepalive"}

// Stats are counters since the socket was opened.
type Stats struct {
	// Received counts the packets that arrived, by class: unknown, wireguard, stun, quic, gossip, relay, keepalive.
	Received map[string]uint64
	// Dropped counts the packets that were not passed on, by reason.
	Dropped map[string]uint64
	// Checks are the path checks sent, Answers the keyed answers that arrived to them.
	Checks, Answers uint64
	// Nodes is the number of nodes with a path or a search for one, Strangers how many of them are not members.
	Nodes, Strangers int
}

// counters are the live form of Stats.
type counters struct {
	received [classes]atomic.Uint64
	dropped  [dropReasons]atomic.Uint64
	checks   atomic.Uint64
	answers  atomic.Uint64
}

func (c *counters) drop(why dropReason, n int) { c.dropped[why].Add(uint64(n)) }

// Stats returns the counters of now.
func (s *Socket) Stats() Stats {
	st := Stats{Received: map[string]uint64{}, Dropped: map[string]uint64{}, Checks: s.stats.checks.Load(), Answers: s.stats.answers.Load()}
	for i := range s.stats.received {
		st.Received[classNames[i]] = s.stats.received[i].Load()
	}
	for i := range s.stats.dropped {
		st.Dropped[dropNames[i]] = s.stats.dropped[i].Load()
	}
	s.nodes.mu.Lock()
	defer s.nodes.mu.Unlock()
	st.Nodes = len(s.nodes.byKey)
	for _, n := range s.nodes.byKey {
		if n.member.Load() == nil {
			st.Strangers++
		}
	}
	return st
}

package underlay

import "github.com/phantommesh/phantommesh/internal/held"

// Held tells how full the socket's tables and queues are.
func (s *Socket) Held() []held.Use {
	return []held.Use{
		held.Queue("underlay_quic", s.quic),
		held.Queue("underlay_gossip", s.gossip),
		held.Queue("underlay_checks", s.checks),
		held.Queue("underlay_knocks", s.strange),
		{Of: "underlay_strangers", Now: s.Stats().Strangers, Max: strangersMax},
		{Of: "relay_bytes", Now: s.RelayStats().QueuedBytes, Max: flowsMemory},
	}
}

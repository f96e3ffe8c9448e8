package gossip

import "github.com/phantommesh/phantommesh/internal/held"

// Held tells how full the queues and tables of the node's gossip are; of what every pool has, the fullest.
func (h *Host) Held() []held.Use {
	out := []held.Use{
		held.Queue("gossip_events", h.events),
		held.Queue("gossip_rumours_in", h.rumours.in),
		held.Queue("gossip_rumours_out", h.rumours.out),
		{Of: "gossip_rumours_heard", Now: int(h.rumours.remembered.Load()), Max: heardMax},
	}
	shared := len(out)
	for i, p := range h.Pools() {
		for k, u := range p.held() {
			if i == 0 {
				out = append(out, u)
			}
			at := &out[shared+k]
			at.Now = max(at.Now, u.Now)
		}
	}
	return out
}

func (p *Pool) held() []held.Use {
	t := p.transport
	t.mu.Lock()
	tellers, inbound := len(t.tellers), 0
	for _, n := range t.serving {
		inbound = max(inbound, n)
	}
	t.mu.Unlock()
	p.admission.mu.Lock()
	pending, verified := len(p.admission.pending), len(p.admission.verified)
	p.admission.mu.Unlock()
	return []held.Use{
		held.Queue("gossip_arrived", t.arrived),
		held.Queue("gossip_nudges", t.nudges),
		// One more is there always, see newQueue, and one while the queue is cut.
		{Of: "gossip_rumours_spread", Now: p.spreading.NumQueued(), Max: rumoursSpreadMax + 2},
		{Of: "gossip_streams_of_one", Now: inbound, Max: inboundPerMember},
		{Of: "gossip_tellers", Now: tellers, Max: pendingMax},
		{Of: "gossip_pending", Now: pending, Max: pendingMax},
		{Of: "gossip_incarnations", Now: t.incarnations.size(), Max: membersMax},
		{Of: "gossip_verified", Now: verified, Max: membersMax},
	}
}

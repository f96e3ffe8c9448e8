package control

import "github.com/phantommesh/phantommesh/internal/held"

// Held tells how full the host's tables are: connections and the streams that are served on the busiest of them.
func (h *Host) Held() []held.Use {
	h.mu.Lock()
	all := h.allLocked()
	h.mu.Unlock()
	of, most, busiest := map[string]int{}, 0, int32(0)
	for _, c := range all {
		if !c.alive() {
			continue
		}
		of[c.peer.ID.String()]++
		most = max(most, of[c.peer.ID.String()])
		busiest = max(busiest, c.serving.Load())
	}
	return []held.Use{
		{Of: "control_connections", Now: len(all), Max: connectionsMax},
		{Of: "control_connections_of_one", Now: most, Max: connectionsPerPeerMax},
		{Of: "control_strangers", Now: h.gate.strangers(), Max: strangersMax},
		{Of: "control_streams_of_one", Now: int(busiest), Max: streamsMax},
	}
}

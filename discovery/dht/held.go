package dht

import "github.com/phantommesh/phantommesh/internal/held"

// Held tells how full the table's stores and queues are.
func (d *DHT) Held() []held.Use {
	d.gate.mu.Lock()
	serving, callers := d.gate.serving, len(d.gate.callers)
	d.gate.mu.Unlock()
	return []held.Use{
		{Of: "dht_records", Now: d.store.Len(), Max: recordsMax},
		{Of: "dht_serving", Now: serving, Max: servingMax},
		{Of: "dht_callers", Now: callers, Max: callersMax},
		{Of: "dht_seek", Now: len(d.seek), Max: cap(d.seek)},
	}
}

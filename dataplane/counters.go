package dataplane

import (
	"sync/atomic"
	"time"
)

// Stats are what the plane has counted since it was made.
type Stats struct {
	// Packets from the host that went nowhere, by reason.
	DroppedOffOverlay  uint64 // to an address outside the mesh, multicast, or no IP packet
	DroppedNoMember    uint64 // to an address of the mesh that nobody has; answered with ICMP
	DroppedNoTunnel    uint64 // to a member to whom no tunnel could be made; answered with ICMP
	DroppedWaitTooLong uint64 // waited for a tunnel in vain; answered with ICMP
	DroppedQueueFull   uint64 // too many waited for the tunnel already
	DroppedByFilter    uint64 // in either direction
	DroppedTooLarge    uint64 // larger than the path carries; answered with ICMP

	Exchanges       uint64        // key exchanges that we began and that gave a key
	ExchangesFailed uint64        // those that did not
	ExchangeTime    time.Duration // all successful ones together
}

type dropCounters struct {
	offOverlay, noMember, noTunnel, waitedTooLong, queueFull, filtered, tooLarge atomic.Uint64
}

type exchangeCounters struct {
	exchanges, exchangesFailed atomic.Uint64
	exchangeNanos              atomic.Int64
}

func (c *exchangeCounters) exchanged(took time.Duration) {
	c.exchanges.Add(1)
	c.exchangeNanos.Add(int64(took))
}

// Stats returns the counters.
func (p *Plane) Stats() Stats {
	return Stats{
		DroppedOffOverlay: p.drops.offOverlay.Load(), DroppedNoMember: p.drops.noMember.Load(),
		DroppedNoTunnel: p.drops.noTunnel.Load(), DroppedWaitTooLong: p.drops.waitedTooLong.Load(),
		DroppedQueueFull: p.drops.queueFull.Load(), DroppedByFilter: p.drops.filtered.Load(),
		DroppedTooLarge: p.drops.tooLarge.Load(),
		Exchanges:       p.counts.exchanges.Load(), ExchangesFailed: p.counts.exchangesFailed.Load(),
		ExchangeTime: time.Duration(p.counts.exchangeNanos.Load()),
	}
}

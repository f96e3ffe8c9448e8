package control

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/time/rate"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// gate bounds what those who have not proven to be members can make us do. Who comes in takes a ticket before the first
// cryptographic operation and gives it back when proven to be a member or when the connection ends.
type gate struct {
	rate *rate.Limiter // handshakes with unknown keys

	mu    sync.Mutex
	all   int // connections of any kind
	total int // strangers
	by    map[identity.WireGuardKey]int
}

func newGate() *gate {
	return &gate{rate: rate.NewLimiter(strangerRate, strangerBurst), by: map[identity.WireGuardKey]int{}}
}

// ticket is a stranger's place among those the gate counts.
type ticket struct {
	gate   *gate
	key    identity.WireGuardKey
	known  bool // the key is a member's: only counted by address
	proven bool // given back; guarded by gate.mu
}

// errFull is what quic-go turns into CONNECTION_REFUSED.
var errFull = errors.New("control: no room for another connection")

// enter admits a connection attempt from an address, or not. A member's known key does not compete with strangers for places,
// only with itself: whoever floods with unknown keys keeps no member out.
func (g *gate) enter(ctx context.Context, key identity.WireGuardKey, known bool) (*ticket, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.all >= connectionsMax, g.by[key] >= strangersPerAddrMax:
		return nil, errFull
	case !known && (g.total >= strangersMax || !g.rate.Allow()):
		return nil, errFull
	}
	t := &ticket{gate: g, key: key, known: known}
	g.all++
	g.by[key]++
	if !known {
		g.total++
	}
	context.AfterFunc(ctx, t.end)
	return t, nil
}

// prove gives the stranger's place back: the peer is a member.
func (t *ticket) prove() {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.proveLocked()
}

func (t *ticket) proveLocked() {
	if t.proven {
		return
	}
	t.proven = true
	if t.gate.by[t.key]--; t.gate.by[t.key] == 0 {
		delete(t.gate.by, t.key)
	}
	if !t.known {
		t.gate.total--
	}
}

// end gives everything back when the connection is over.
func (t *ticket) end() {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.proveLocked()
	t.gate.all--
}

// strangers returns how many connections have not proven to be members'.
func (g *gate) strangers() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// ticketKey is where the ticket travels in a connection's context.
type ticketKey struct{}

func ticketOf(ctx context.Context) *ticket {
	t, _ := ctx.Value(ticketKey{}).(*ticket)
	return t
}

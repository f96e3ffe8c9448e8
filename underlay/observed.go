package underlay

import (
	"net/netip"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// observed are our addresses as members see them.
type observed struct {
	mu     sync.Mutex
	byAddr map[netip.AddrPort]map[identity.NodeID]instant
}

const (
	observedMax     = 8  // addresses
	observersMax    = 16 // members that say so, for each
	observationLife = 10 * time.Minute
)

// note records that the member id sees us at addr.
func (o *observed) note(addr netip.AddrPort, id identity.NodeID, now instant) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byAddr == nil {
		o.byAddr = map[netip.AddrPort]map[identity.NodeID]instant{}
	}
	o.forgetLocked(now)
	who := o.byAddr[addr]
	if who == nil {
		if len(o.byAddr) >= observedMax {
			return
		}
		who = map[identity.NodeID]instant{}
		o.byAddr[addr] = who
	}
	if _, again := who[id]; again || len(who) < observersMax {
		who[id] = now
	}
}

func (o *observed) forgetLocked(now instant) {
	for addr, who := range o.byAddr {
		for id, at := range who {
			if now-at >= observationLife {
				delete(who, id)
			}
		}
		if len(who) == 0 {
			delete(o.byAddr, addr)
		}
	}
}

// Observed returns the addresses at which members have seen our packets come from lately, and how many say so. Behind a NAT these
// are the mapped ones. A member can lie about it: an address that only one reports deserves less trust.
func (s *Socket) Observed() map[netip.AddrPort]int {
	o := &s.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forgetLocked(s.now())
	out := map[netip.AddrPort]int{}
	for addr, who := range o.byAddr {
		out[addr] = len(who)
	}
	return out
}

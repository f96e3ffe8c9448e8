package firewall

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/policy"
)

// reason is why a packet was dropped.
type reason uint8

const (
	passes        reason = iota
	noRule               // nothing allows it
	malformed            // its headers cannot be read
	strayFragment        // its first fragment did not pass, or came later
	foreign              // not between this node and a member
	unrelated            // an ICMP error about no known flow
	reasons
)

// reasonWords are the words for why packets are dropped, in metrics.
var reasonWords = [reasons]string{noRule: "no_rule", malformed: "malformed", strayFragment: "fragment", foreign: "foreign", unrelated: "unrelated_error"}

// String is the reason's word in metrics.
func (r reason) String() string { return reasonWords[r] }

// Stats are what the firewall has counted since it was made.
type Stats struct {
	Dropped [2]map[string]uint64 // by dataplane.Direction and reason
	Flows   int                  // remembered now
	Evicted uint64               // flows that were forgotten for want of room
}

// Stats returns the counters.
func (f *Firewall) Stats() Stats {
	s := Stats{Flows: int(f.sizes.flows.Load()), Evicted: f.sizes.evicted.Load()}
	for d := range f.drops {
		s.Dropped[d] = map[string]uint64{}
		for r := noRule; r < reasons; r++ {
			s.Dropped[d][r.String()] = f.drops[d][r].Load()
		}
	}
	return s
}

// Drop is a packet that was dropped.
type Drop struct {
	At        time.Time
	Direction dataplane.Direction
	Reason    string
	From, To  netip.Addr
	Protocol  uint8
	Port      uint16 // destination, of TCP and UDP
}

// dropsKept is how many drops are remembered for people.
const dropsKept = 16

// lastDrops is a ring.
type lastDrops struct {
	mu   sync.Mutex
	next int
	ring [dropsKept]Drop
}

// drop counts a packet and reports false, or true while the firewall only watches.
func (f *Firewall) drop(b *book, d dataplane.Direction, why reason, h *header) bool {
	if b.watching {
		return true
	}
	f.drops[d][why].Add(1)
	if h.protocol != protocolTCP && h.protocol != protocolUDP {
		h.dport = 0
	}
	if f.last.mu.TryLock() {
		f.last.ring[f.last.next%dropsKept] = Drop{At: time.Now(), Direction: d, Reason: why.String(), From: h.src, To: h.dst, Protocol: h.protocol, Port: h.dport}
		f.last.next++
		f.last.mu.Unlock()
	}
	return false
}

// LastDrops returns the last packets that were dropped, the newest first.
func (f *Firewall) LastDrops() []Drop {
	f.last.mu.Lock()
	defer f.last.mu.Unlock()
	var out []Drop
	for i := f.last.next - 1; i >= 0 && i >= f.last.next-dropsKept; i-- {
		out = append(out, f.last.ring[i%dropsKept])
	}
	return out
}

// Flow is a live flow, for people.
type Flow struct {
	Peer       identity.NodeID
	IPv6       bool
	Inbound    bool // the peer opened it
	Protocol   uint8
	LocalPort  uint16 // of TCP and UDP
	RemotePort uint16
	Idle       time.Duration
}

// Flows returns the live flows, those that were silent for the shortest time first.
func (f *Firewall) Flows() []Flow {
	return f.collect(func(*table, flowKey, *flow) bool { return true })
}

// WouldCut returns the live flows that a policy would end.
func (f *Firewall) WouldCut(m *policy.Matcher) []Flow {
	rules := map[netip.Addr]policy.PeerRules{}
	if m != nil {
		rules = m.Peers
	}
	byTable := map[*table][2]policy.PeerRules{}
	if b := f.book.Load(); b != nil {
		for a, p := range b.peers {
			pair := byTable[p.table]
			pair[familyIndex(a.Is6())] = rules[a]
			byTable[p.table] = pair
		}
	}
	return f.collect(func(t *table, k flowKey, fl *flow) bool {
		r := byTable[t][familyIndex(k.v6())]
		allows := func(inbound bool) bool {
			s := r.Out
			if inbound {
				s = r.In
			}
			return s.Allows(k.protocol(), k.port(inbound))
		}
		return !allows(fl.inbound) && !(fl.guessed && allows(!fl.inbound))
	})
}

func familyIndex(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

func (f *Firewall) collect(wanted func(*table, flowKey, *flow) bool) []Flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	var out []Flow
	for id, t := range f.tables {
		t.mu.Lock()
		for k, fl := range t.flows {
			if fl.expired(now) || !wanted(t, k, &fl) {
				continue
			}
			out = append(out, Flow{Peer: id, IPv6: k.v6(), Inbound: fl.inbound, Protocol: k.protocol(), LocalPort: k.localPort(), RemotePort: k.remotePort(),
				Idle: time.Duration(now-fl.seen) * time.Second})
		}
		t.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Flow) int { return int(a.Idle - b.Idle) })
	return out
}

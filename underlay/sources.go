package underlay

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
)

// source is an address from which a node has given a keyed answer to our challenge. Packets from it belong to that node.
type source struct {
	node *node
	addr netip.AddrPort
	// received is when the last packet came from here, an instant.
	received atomic.Int64
	// WireGuard packets, all and the large ones, since the source was entered: those that came from here, for the reports in our
	// answers, and those that we sent here, to be held against theirs (report.go).
	got, sent packetCounter
	// What the system said of packets to here, until the owner takes it: it refused one of so many bytes as too large; it knows no way.
	refused atomic.Int32
	failed  atomic.Bool
	// gone marks a source that was removed, for the readers that still have it at hand.
	gone atomic.Bool
}

// sourceShards splits the map so that a change copies 1/64 of it: with 10,000 paths, 160 entries.
const sourceShards = 64

// sources maps addresses to nodes. Reading takes no lock and allocates nothing: every shard is an immutable map that writers replace.
type sources struct {
	mu     sync.Mutex // serialises writers
	shards [sourceShards]atomic.Pointer[map[netip.AddrPort]*source]
}

func (s *sources) shard(addr netip.AddrPort) *atomic.Pointer[map[netip.AddrPort]*source] {
	b := addr.Addr().As16()
	h := uint32(addr.Port())
	for i := 0; i < len(b); i += 4 {
		h = h*31 + (uint32(b[i])<<24 | uint32(b[i+1])<<16 | uint32(b[i+2])<<8 | uint32(b[i+3]))
	}
	h ^= h >> 16
	return &s.shards[(h^h>>8)%sourceShards]
}

// get returns the source with the address, nil if it is nobody's.
func (s *sources) get(addr netip.AddrPort) *source {
	if m := s.shard(addr).Load(); m != nil {
		return (*m)[addr]
	}
	return nil
}

// put gives the address to the node and returns its source. If it was another's, it is that node's no more: the newest keyed
// answer says who sits there now.
func (s *sources) put(addr netip.AddrPort, n *node, now instant) *source {
	s.mu.Lock()
	defer s.mu.Unlock()
	shard := s.shard(addr)
	old := shard.Load()
	if old != nil {
		if src := (*old)[addr]; src != nil {
			if src.node == n {
				return src
			}
			src.gone.Store(true)
		}
	}
	src := &source{node: n, addr: addr}
	src.received.Store(int64(now))
	next := map[netip.AddrPort]*source{}
	if old != nil {
		next = maps.Clone(*old)
	}
	next[addr] = src
	shard.Store(&next)
	return src
}

// remove takes the address from the node, if it is still the node's.
func (s *sources) remove(addr netip.AddrPort, n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	shard := s.shard(addr)
	old := shard.Load()
	if old == nil || (*old)[addr] == nil || (*old)[addr].node != n {
		return
	}
	(*old)[addr].gone.Store(true)
	next := maps.Clone(*old)
	delete(next, addr)
	shard.Store(&next)
}

// countSent counts WireGuard packets that are about to be sent to the source.
func (src *source) countSent(bufs [][]byte) {
	large := uint32(0)
	for _, b := range bufs {
		if len(b) > largePacket {
			large++
		}
	}
	src.sent.add(counts{uint32(len(bufs)), large})
}

// packetCounter holds counts in one word, so that counting is one operation: the large packets in the upper half. Every 2³² packets one carries
// over into the upper half, which nobody notices.
type packetCounter struct{ word atomic.Uint64 }

func (p *packetCounter) add(c counts) { p.word.Add(uint64(c.large)<<32 + uint64(c.packets)) }

func (p *packetCounter) load() counts {
	w := p.word.Load()
	return counts{packets: uint32(w), large: uint32(w >> 32)}
}

// countsOf counts one packet.
func countsOf(b []byte) counts {
	if len(b) > largePacket {
		return counts{1, 1}
	}
	return counts{1, 0}
}

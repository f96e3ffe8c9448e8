package firewall

import (
	"sync"
	"sync/atomic"
)

// Bounds of the flows that are remembered. A flow takes about 40 bytes.
const (
	flowsMax     = 131_072 // of all peers: about 5 MB
	peerFlowsMax = 16_384  // of one peer: a reverse proxy with as many open connections to one backend
	// reservedFlows: a peer with fewer finds room even when flowsMax is reached, at the cost of who has most.
	reservedFlows = 256
	// sampled is how many flows are looked at to find the one that has to go. The best of 16 is among the worst sixth with 95 %.
	sampled = 16
	// sweepInterval is how often, in seconds, a table that grows is cleared of what has expired.
	sweepInterval = 60
	// fragmentsMax bounds the fragmented datagrams under way with one peer in one direction.
	fragmentsMax = 32
	// fragmentLife in seconds is how long the fragments of a datagram may follow: half of what RFC 8200 §4.5 gives reassembly.
	fragmentLife = 30
)

// state is where a flow stands. Its number is the index of its timeout.
type state uint8

const (
	tcpOpening state = iota // nothing came back yet
	tcpEstablished
	tcpClosing // both have sent FIN, or one RST
	udpFlow
	icmpFlow
	otherFlow
)

// timeouts are how long a flow may be silent, in seconds.
var timeouts = [...]uint32{
	tcpOpening:     60,
	tcpEstablished: 7440, // RFC 5382 REQ-5: two hours and four minutes
	tcpClosing:     120,  // two MSL, so that a lost last ACK can be repeated
	udpFlow:        180,  // RFC 4787 REQ-5: two minutes at least
	icmpFlow:       60,   // RFC 5508 REQ-2
	otherFlow:      600,
}

// flowKey tells the flows of one peer apart: protocol, family, for ICMP echoes who asks, our port, the peer's port.
type flowKey uint64

func makeKey(protocol uint8, v6 bool, local, remote uint16) flowKey {
	k := flowKey(protocol)<<32 | flowKey(local)<<16 | flowKey(remote)
	if v6 {
		k |= 1 << 40
	}
	return k
}

const echoInbound flowKey = 1 << 41

func (k flowKey) protocol() uint8    { return uint8(k >> 32) }
func (k flowKey) v6() bool           { return k&(1<<40) != 0 }
func (k flowKey) localPort() uint16  { return uint16(k >> 16) }
func (k flowKey) remotePort() uint16 { return uint16(k) }
func (k flowKey) port(in bool) uint16 { // that the flow was opened to
	if in {
		return k.localPort()
	}
	return k.remotePort()
}

// flow is what is remembered of a flow. It is small and without pointers: a table of them is nothing to the garbage collector.
type flow struct {
	seen    uint32 // seconds since the firewall was made
	book    uint32 // under which it was judged last
	state   state
	inbound bool  // the peer opened it
	replied bool  // packets went both ways
	guessed bool  // who opened it was not seen
	fins    uint8 // bit 0: from who opened it, bit 1: from the other
}

func (f *flow) expired(now uint32) bool { return now-f.seen > timeouts[f.state] }

// fragment is a datagram of which the first fragment has passed.
type fragment struct {
	datagram uint32
	until    uint32 // zero: free
	chain    uint8
	v6       bool
}

// table holds the flows of one peer.
type table struct {
	mu        sync.Mutex // guards all; never taken while another table's is held, except by TryLock
	flows     map[flowKey]flow
	swept     uint32
	fragments [2][fragmentsMax]fragment // by direction
	next      [2]uint8                  // of fragments to overwrite
	gone      bool                      // its peer is no member any more: nothing is entered
}

// sizes are shared by all tables.
type sizes struct {
	flows   atomic.Int64
	evicted atomic.Uint64
}

// removeLocked takes a flow out.
func (t *table) removeLocked(k flowKey, s *sizes) {
	delete(t.flows, k)
	s.flows.Add(-1)
}

// sweepLocked removes what has expired.
func (t *table) sweepLocked(now uint32, s *sizes) {
	t.swept = now
	for k, f := range t.flows {
		if f.expired(now) {
			t.removeLocked(k, s)
		}
	}
}

// evictLocked makes room for one flow: an expired one goes first, then one that was never answered, then the one that has been silent
// for longest, of a sample. It reports false if there is none.
func (t *table) evictLocked(now uint32, s *sizes) bool {
	var worst flowKey
	var rank uint64
	n := 0
	for k, f := range t.flows {
		r := uint64(now - f.seen)
		if !f.replied {
			r += 1 << 32
		}
		if f.expired(now) {
			r += 1 << 33
		}
		if n == 0 || r > rank {
			worst, rank = k, r
		}
		if n++; n == sampled {
			break
		}
	}
	if n == 0 {
		return false
	}
	t.removeLocked(worst, s)
	if rank < 1<<33 {
		s.evicted.Add(1)
	}
	return true
}

// passedFirst notes that the first fragment of a datagram has passed.
func (t *table) passedFirst(direction int, h *header, now uint32) {
	slot := &t.fragments[direction][t.next[direction]%fragmentsMax]
	t.next[direction]++
	*slot = fragment{datagram: h.datagram, until: now + fragmentLife, chain: h.chain, v6: h.src.Is6()}
}

// follows tells whether a later fragment is of a datagram that may pass.
func (t *table) follows(direction int, h *header, now uint32) bool {
	for i := range t.fragments[direction] {
		f := &t.fragments[direction][i]
		if f.datagram == h.datagram && f.chain == h.chain && f.v6 == h.src.Is6() && now < f.until {
			return true
		}
	}
	return false
}

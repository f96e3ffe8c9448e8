package underlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// A relay takes frames of one member to another. It does so for the pairs that were registered ([Socket.RelayPair]) and for nobody else:
//
//  1. The goroutine that read looks the frame's number up. It must have been given to the member over whose validated path the frame came.
//  2. It copies the frame, with the number of the other end, into the queue of the member that sent it (fairqueue.go).
//  3. The forwarder drains the queues by turns and within the rate, and sends to each destination over its own path, never over one that is
//     relayed itself.
//
// What is in a frame is not looked at. For every frame that comes in, at most one of the same size goes out, to a member whose path is
// validated.

// RelayCapacity says how much this node relays for others.
type RelayCapacity struct {
	// BytesPerSecond bounds what is forwarded, frames without IP and UDP headers; 0: no bound.
	BytesPerSecond int
	// Channels is the number of pairs, Peers that of members in them. 0: this node is no relay.
	Channels, Peers int
}

// RelayGrant is a pair of members that the relay connects: the channel number that either of them uses, in both directions.
type RelayGrant struct{ ForA, ForB uint32 }

// RelayStats says what the relay did since the socket was opened, and does now.
type RelayStats struct {
	// Packets and Bytes were forwarded; bytes without IP and UDP headers.
	Packets, Bytes uint64
	// Dropped counts the frames that were not, by reason: unknown (no channel of that number, or another member's), queue_full, ended,
	// no_path, too_large, send.
	Dropped map[string]uint64
	// Channels is the number of pairs, Peers that of members in them.
	Channels, Peers int
	// QueuedPackets and QueuedBytes wait to be forwarded.
	QueuedPackets, QueuedBytes int
}

// ErrRelayFull: the relay has no room for another pair, or is none.
var ErrRelayFull = errors.New("underlay: the relay has no room for another pair")

type relayDrop uint8

const (
	relayUnknown relayDrop = iota
	relayQueueFull
	relayEnded
	relayNoPath
	relayTooLarge
	relaySend
	relayDrops
)

var relayDropNames = [relayDrops]string{"unknown", "queue_full", "ended", "no_path", "too_large", "send"}

const (
	// relayIdle without a frame a pair makes room for another: three keepalives.
	relayIdle = 75 * time.Second
	// askerMin is how many pairs any one member may ask for, however small the relay; else it is askerShare of them.
	askerMin   = 8
	askerShare = 4
	// relayBatch is how many frames are taken at a time.
	relayBatch = 64
)

// leg is one direction of a pair.
type leg struct {
	number   uint32 // what from calls it
	from, to *node
	back     *leg
	flow     *flow
	used     atomic.Int64
	ended    atomic.Bool
}

// pair is two members that are connected. a has asked for it.
type pair struct {
	a, b identity.NodeID
	leg  *leg // from a
}

// relayPeer is a member for which we relay.
type relayPeer struct {
	flow  flow
	pairs int
	asked int
}

// relay is the server's half.
type relay struct {
	socket   *Socket
	capacity RelayCapacity
	legs     *slots[leg]
	signal   chan struct{} // capacity 1: something was queued

	packets, bytes atomic.Uint64
	dropped        [relayDrops]atomic.Uint64

	mu    sync.Mutex
	pairs map[[2]identity.NodeID]*pair // by the two IDs in order
	peers map[*node]*relayPeer
	queue fairQueue
}

func newRelay(s *Socket, c RelayCapacity) (*relay, error) {
	var seed [4]byte
	if err := s.fillRandom(seed[:]); err != nil {
		return nil, err
	}
	if c.Channels <= 0 || c.Peers <= 0 {
		c = RelayCapacity{}
	}
	r := &relay{socket: s, capacity: c, signal: make(chan struct{}, 1), pairs: map[[2]identity.NodeID]*pair{}, peers: map[*node]*relayPeer{}}
	// Numbers begin anywhere, so that those from before a restart are not taken for new ones.
	r.legs = newSlots[leg](2*c.Channels, binary.BigEndian.Uint32(seed[:]))
	r.queue.rate = c.BytesPerSecond
	r.queue.tokens = r.queue.depth()
	return r, nil
}

func orderedPair(a, b identity.NodeID) [2]identity.NodeID {
	if bytes.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	return [2]identity.NodeID{a, b}
}

// RelayPair connects two members through this node, for the member a, which asked for it. A pair that is connected already is given the
// same numbers. If there is no room, the pair that has been idle the longest makes some. Errors: [ErrUnknownNode], [ErrRelayFull].
func (s *Socket) RelayPair(a, b identity.NodeID) (RelayGrant, error) {
	from, to := s.memberNode(a), s.memberNode(b)
	if from == nil || to == nil || from == to {
		return RelayGrant{}, fmt.Errorf("underlay: relay between %s and %s: %w", a.Short(), b.Short(), ErrUnknownNode)
	}
	g, err := s.relay.connect(from, to, [2]identity.NodeID{a, b})
	if err != nil {
		return RelayGrant{}, fmt.Errorf("underlay: relay between %s and %s: %w", a.Short(), b.Short(), err)
	}
	if !s.nodes.has(from) || !s.nodes.has(to) { // revoked meanwhile
		s.RelayEnd(g)
		return RelayGrant{}, fmt.Errorf("underlay: relay between %s and %s: %w", a.Short(), b.Short(), ErrUnknownNode)
	}
	return g, nil
}

func (r *relay) connect(from, to *node, ids [2]identity.NodeID) (RelayGrant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := orderedPair(ids[0], ids[1])
	if p := r.pairs[key]; p != nil {
		if p.leg.from == from && p.leg.to == to {
			return RelayGrant{p.leg.number, p.leg.back.number}, nil
		}
		if p.leg.from == to && p.leg.to == from {
			return RelayGrant{p.leg.back.number, p.leg.number}, nil
		}
		r.endLocked(p) // of a node that was revoked and is another now
	}
	if asker := r.peers[from]; asker != nil && asker.asked >= max(askerMin, r.capacity.Channels/askerShare) {
		return RelayGrant{}, ErrRelayFull
	}
	for !r.roomLocked(from, to) {
		if !r.evictLocked() {
			return RelayGrant{}, ErrRelayFull
		}
	}
	there, back := &leg{from: from, to: to}, &leg{from: to, to: from}
	there.back, back.back = back, there
	for _, l := range []*leg{there, back} {
		peer := r.peers[l.from]
		if peer == nil {
			peer = &relayPeer{}
			r.peers[l.from] = peer
		}
		peer.pairs++
		l.flow = &peer.flow
		l.used.Store(int64(r.socket.now()))
		r.legs.put(l, func(number uint32) { l.number = number }) // there is room: two for each pair
	}
	r.peers[from].asked++
	r.pairs[key] = &pair{a: ids[0], b: ids[1], leg: there}
	return RelayGrant{there.number, back.number}, nil
}

// roomLocked reports whether another pair of these two fits.
func (r *relay) roomLocked(from, to *node) bool {
	fresh := 0
	for _, n := range []*node{from, to} {
		if r.peers[n] == nil {
			fresh++
		}
	}
	return len(r.pairs) < r.capacity.Channels && len(r.peers)+fresh <= r.capacity.Peers
}

// evictLocked ends the pair that has been idle the longest, if it has been for relayIdle.
func (r *relay) evictLocked() bool {
	var oldest *pair
	last := func(p *pair) int64 { return max(p.leg.used.Load(), p.leg.back.used.Load()) }
	for _, p := range r.pairs {
		if oldest == nil || last(p) < last(oldest) {
			oldest = p
		}
	}
	if oldest == nil || r.socket.now()-instant(last(oldest)) < relayIdle {
		return false
	}
	r.endLocked(oldest)
	return true
}

// RelayEnd disconnects a pair. What of it is queued is dropped.
func (s *Socket) RelayEnd(g RelayGrant) {
	r := s.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pairs {
		if n := (RelayGrant{p.leg.number, p.leg.back.number}); n == g || n == (RelayGrant{g.ForB, g.ForA}) {
			r.endLocked(p)
			return
		}
	}
}

func (r *relay) endLocked(p *pair) {
	delete(r.pairs, orderedPair(p.a, p.b))
	for _, l := range []*leg{p.leg, p.leg.back} {
		l.ended.Store(true)
		r.legs.remove(l.number)
		if peer := r.peers[l.from]; peer != nil {
			if l == p.leg {
				peer.asked--
			}
			if peer.pairs--; peer.pairs == 0 {
				delete(r.peers, l.from)
			}
		}
	}
}

// endAll disconnects all pairs of a node.
func (r *relay) endAll(n *node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers[n] == nil {
		return
	}
	for _, p := range r.pairs {
		if p.leg.from == n || p.leg.to == n {
			r.endLocked(p)
		}
	}
}

func (r *relay) drop(why relayDrop, n int) { r.dropped[why].Add(uint64(n)) }

// accept queues a frame that a member sent. It runs in the goroutine that read and does not keep the frame.
func (r *relay) accept(from *node, number uint32, frame []byte, now instant) {
	l := r.legs.get(number)
	if l == nil || l.from != from {
		r.drop(relayUnknown, 1)
		return
	}
	pool := bufferPool(len(frame))
	if pool == nil {
		r.drop(relayTooLarge, 1)
		return
	}
	l.used.Store(int64(now))
	p := parcel{leg: l, delivery: delivery{pool: pool, box: pool.Get().(*[]byte)}}
	p.buf = (*p.box)[:copy(*p.box, frame)]
	r.mu.Lock()
	// Under the lock: the way there can be found before the way back has its number (connect).
	putFrameHeader(p.buf, l.back.number|fromRelay)
	queued := !l.ended.Load() && r.queue.push(l.flow, p)
	r.mu.Unlock()
	if !queued {
		p.release()
		r.drop(relayQueueFull, 1)
		return
	}
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// run is the forwarder. It ends when the socket closes.
func (r *relay) run() {
	f := &forwarder{relay: r}
	for {
		select {
		case <-r.signal:
		case <-r.socket.done:
			return
		}
		for {
			r.mu.Lock()
			n, wait := r.queue.take(r.socket.now(), f.batch[:])
			r.mu.Unlock()
			if n == 0 && wait == 0 {
				break
			}
			f.ship(f.batch[:n])
			if wait > 0 {
				timer := time.NewTimer(wait)
				select {
				case <-timer.C:
				case <-r.socket.done:
					timer.Stop()
					return
				}
			}
		}
	}
}

// forwarder is the forwarding goroutine's memory.
type forwarder struct {
	*relay
	batch [relayBatch]parcel
	bufs  [relayBatch][]byte
}

// ship sends a batch, all frames of one destination at a time and in their order, and releases it.
func (f *forwarder) ship(batch []parcel) {
	for i := range batch {
		if batch[i].leg == nil {
			continue // went with an earlier one
		}
		to := batch[i].leg.to
		n, size := 0, 0
		for j := i; j < len(batch); j++ {
			p := &batch[j]
			if p.leg == nil || p.leg.to != to {
				continue
			}
			if p.leg.ended.Load() {
				f.drop(relayEnded, 1)
			} else {
				f.bufs[n] = p.buf
				n++
				size += len(p.buf)
			}
			p.leg = nil
		}
		if n > 0 {
			f.send(to, f.bufs[:n], size)
		}
	}
	for i := range batch {
		batch[i].release()
		batch[i] = parcel{}
		f.bufs[i] = nil
	}
}

// send sends frames to a member.
func (f *forwarder) send(to *node, bufs [][]byte, size int) {
	switch err := to.sendDirect(bufs, false); {
	case errors.Is(err, ErrNoPath):
		f.drop(relayNoPath, len(bufs))
	case err != nil:
		f.drop(relaySend, len(bufs))
	default:
		f.packets.Add(uint64(len(bufs)))
		f.bytes.Add(uint64(size))
	}
}

// RelayStats returns what the relay did and does.
func (s *Socket) RelayStats() RelayStats {
	r := s.relay
	st := RelayStats{Packets: r.packets.Load(), Bytes: r.bytes.Load(), Dropped: map[string]uint64{}}
	for i := range r.dropped {
		st.Dropped[relayDropNames[i]] = r.dropped[i].Load()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	st.Channels, st.Peers = len(r.pairs), len(r.peers)
	st.QueuedPackets, st.QueuedBytes = r.queue.packets, r.queue.bytes
	return st
}

package underlay

import (
	"net"
	"net/netip"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
)

const (
	// deliverQueue bounds the WireGuard packets of links that the device has yet to take; those of one batch of a fast link twice.
	deliverQueue = 512
	// Buffers for them: of an Ethernet frame, and of the largest packet that a tunnel of 9000 bytes makes. Larger ones are dropped.
	deliverSmall = 2048
	deliverLarge = 9216
)

// delivery is a WireGuard packet of a link on its way to the device. Its buffer belongs to the pool of its size.
type delivery struct {
	buf      []byte
	pool     *sync.Pool // of *[]byte
	box      *[]byte
	endpoint conn.Endpoint
}

var (
	smallDeliveries = newBufferPool(deliverSmall)
	largeDeliveries = newBufferPool(deliverLarge)
)

func newBufferPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, size); return &b }}
}

// bufferPool returns the pool whose buffers hold size bytes, nil if none does.
func bufferPool(size int) *sync.Pool {
	switch {
	case size <= deliverSmall:
		return smallDeliveries
	case size <= deliverLarge:
		return largeDeliveries
	}
	return nil
}

func (d *delivery) release() { d.pool.Put(d.box) }

// Deliver takes in a packet that arrived on a link, as if it had come from the UDP socket. It never blocks and does not keep b. A
// packet of an unknown link is dropped.
func (s *Socket) Deliver(link netip.AddrPort, b []byte) {
	e := s.links.get(link)
	if e == nil {
		s.stats.drop(dropNoLink, 1)
		return
	}
	s.deliver(e, b)
}

// deliver is Deliver for the link's own kind.
func (s *Socket) deliver(e *linkEndpoint, b []byte) {
	now := s.now()
	c := classify(b)
	s.stats.received[c].Add(1)
	src := s.sources.get(e.addr)
	switch {
	case c == classWireGuard:
		if s.acceptWireGuard(src, b, now) {
			src.got.add(countsOf(b))
			s.deliverWireGuard(&src.node.endpoint, b)
		}
	case c == classRelay && e.link.Kind() == LinkChannel:
		s.stats.drop(dropRelay, 1) // no channel leads through a channel
	default:
		s.dispatch(c, b, e, src, now)
	}
}

// deliverWireGuard queues a packet for the device, if there is one.
func (s *Socket) deliverWireGuard(ep conn.Endpoint, b []byte) {
	d := s.session.Load()
	if d == nil {
		s.stats.drop(dropNoDevice, 1)
		return
	}
	pool := bufferPool(len(b))
	if pool == nil {
		s.stats.drop(dropTooLarge, 1)
		return
	}
	p := delivery{pool: pool, box: pool.Get().(*[]byte), endpoint: ep}
	p.buf = (*p.box)[:copy(*p.box, b)]
	select {
	case d.links <- p:
	default:
		p.release()
		s.stats.drop(dropQueueFull, 1)
	}
}

// receiveLinks is the device's third ReceiveFunc: it reads what links have delivered. The queue is the session's, so that nothing of it
// meets the next device; closing the device ends it at once, as it waits for nothing but the queue.
func (d *session) receiveLinks(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	for {
		select {
		case <-d.closed:
			return 0, net.ErrClosed
		case <-d.socket.done:
			return 0, net.ErrClosed
		case p := <-d.links:
			if n := d.takeLinks(p, bufs, sizes, eps); n > 0 {
				return n, nil
			}
		}
	}
}

// takeLinks fills a batch with p and what is queued behind it.
func (d *session) takeLinks(p delivery, bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int) {
	for {
		if len(p.buf) <= len(bufs[n]) {
			sizes[n], eps[n] = copy(bufs[n], p.buf), p.endpoint
			n++
		} else {
			d.socket.stats.drop(dropTooLarge, 1)
		}
		p.release()
		if n == len(bufs) {
			return n
		}
		select {
		case p = <-d.links:
		default:
			return n
		}
	}
}

// drainLinks drops what the device will not take any more.
func (d *session) drainLinks() {
	for {
		select {
		case p := <-d.links:
			p.release()
			d.socket.stats.drop(dropNoDevice, 1)
		default:
			return
		}
	}
}

package underlay

import (
	"bytes"
	"net/netip"
	"sync"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
)

// filter goes through a batch that was just read. WireGuard packets of members stay where they are and get their node's endpoint;
// everything else is dealt with or queued, and its size set to 0, which the device skips. It returns how many stay.
// It runs in the goroutine that read, holds that reader's turn, and allocates nothing for WireGuard packets.
func (r *reader) filter(bufs [][]byte, sizes []int, eps []conn.Endpoint, n int) (wireGuard int) {
	s := r.socket
	now := s.now()
	for i := range n {
		if sizes[i] == 0 {
			continue
		}
		b := bufs[i][:sizes[i]]
		c := classify(b)
		r.counts[c]++
		if s.listen != nil && !s.listens(eps[i]) && c != classUnknown {
			s.stats.drop(dropNotListened, 1)
			sizes[i] = 0
			continue
		}
		src, ok := r.source(eps[i])
		if !ok {
			s.stats.drop(dropBogus, 1)
			sizes[i] = 0
			continue
		}
		if c == classWireGuard {
			if !s.acceptWireGuard(src, b, now) {
				sizes[i] = 0
				continue
			}
			if src != r.counted {
				r.settle()
				r.counted = src
			}
			r.came.packets++
			if len(b) > largePacket {
				r.came.large++
			}
			eps[i] = &src.node.endpoint
			wireGuard++
			continue
		}
		sizes[i] = 0
		r.settle() // a report counts what came before the check
		s.dispatch(c, b, eps[i], src, now)
	}
	r.settle()
	for c := range r.counts {
		if r.counts[c] > 0 {
			s.stats.received[c].Add(r.counts[c])
			r.counts[c] = 0
		}
	}
	return wireGuard
}

// settle enters the packets counted so far with their source.
func (r *reader) settle() {
	if r.came.packets > 0 {
		r.counted.got.add(r.came)
		r.came = counts{}
	}
}

// source returns the source a packet came from, nil if it is nobody's. It returns false for a packet that pretends to have come from a
// link: that address belongs to another (r.last never is a link's).
func (r *reader) source(ep conn.Endpoint) (*source, bool) {
	addr := addrOf(ep)
	if r.last != nil && r.last.addr == addr && !r.last.gone.Load() {
		return r.last, true
	}
	if isLinkAddr(addr.Addr()) {
		return nil, false
	}
	src := r.socket.sources.get(addr)
	if src != nil {
		r.last = src
	}
	return src, true
}

// addrOf returns where a packet came from, IPv4 always in its plain form.
func addrOf(ep conn.Endpoint) netip.AddrPort {
	var a netip.AddrPort
	switch e := ep.(type) {
	case *conn.StdNetEndpoint:
		a = e.AddrPort
	case *linkEndpoint:
		return e.addr
	case interface {
		Addr() netip.Addr
		Port() uint16
	}:
		a = netip.AddrPortFrom(e.Addr(), e.Port())
	default:
		a, _ = netip.ParseAddrPort(ep.DstToString())
	}
	if a.Addr().Is4In6() {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return a
}

// acceptWireGuard decides whether a WireGuard packet from src may reach the device: only a member's, over a validated path.
func (s *Socket) acceptWireGuard(src *source, b []byte, now instant) bool {
	if src == nil || src.node.memberID() == nil {
		s.stats.drop(dropStranger, 1)
		return false
	}
	src.heard(now)
	n := src.node
	if isData(b) && n.used.Load() != int64(now) {
		n.used.Store(int64(now))
	}
	if n.unanswered.Load() != 0 {
		n.unanswered.Store(0)
	}
	if !n.wireGuardKnown.Load() {
		s.orphan(n, now)
	}
	return true
}

// dispatch deals with a packet that is not WireGuard. src is nil if it came from nobody's address. b is the reader's: what is kept is
// copied.
func (s *Socket) dispatch(c class, b []byte, ep conn.Endpoint, src *source, now instant) {
	switch c {
	case classSTUN:
		s.dispatchSTUN(b, ep, src, now)
	case classQUIC:
		s.dispatchQUIC(b, src, now)
	case classGossip:
		s.dispatchGossip(b, ep, src, now)
	case classRelay:
		s.dispatchRelay(b, src, now)
	case classKeepalive:
		s.dispatchKeepalive(b, ep, src, now)
	default:
		if !bytes.Equal(b, s.wakeup) {
			s.stats.drop(dropUnknown, 1)
		}
	}
}

// dispatchSTUN handles answers at once, so that a packet right behind one already finds its source validated, and leaves requests to
// the owner.
func (s *Socket) dispatchSTUN(b []byte, ep conn.Endpoint, src *source, now instant) {
	if b[0] == 1 { // the class bit of a response
		s.handleResponse(b, ep, now)
		return
	}
	queue := s.checks
	if src == nil {
		if !s.knocks.allow(rationedAddr(ep), now) {
			s.stats.drop(dropLimited, 1)
			return
		}
		queue = s.strange
	}
	if len(b) > nat.ProbeMax || src == nil && len(b) > nat.MessageMax {
		s.stats.drop(dropMalformed, 1)
		return
	}
	select {
	case queue <- checkPacket{data: bytes.Clone(b), endpoint: ep, at: now, report: reportOf(src)}:
	default:
		s.stats.drop(dropQueueFull, 1)
	}
}

// quicBuffer holds the largest packet that QUIC sends on an Ethernet.
const quicBuffer = 2048

// reportOf is what has come from a source so far; nil if it is nobody's.
func reportOf(src *source) *nat.Report {
	if src == nil {
		return nil
	}
	c := src.got.load()
	return &nat.Report{Packets: c.packets, Large: c.large}
}

// dispatchKeepalive takes a packet that keeps a mapping alive, and answers a ping: with as much as came, to validated sources only. Who
// we do not know (any more) goes without, and sends a check.
func (s *Socket) dispatchKeepalive(b []byte, ep conn.Endpoint, src *source, now instant) {
	if src == nil {
		s.stats.drop(dropStranger, 1)
		return
	}
	src.heard(now)
	if b[0] == pingByte {
		_ = s.transmit([][]byte{{pongByte}}, ep) // lost is lost: they send a check
	}
}

// quicPacket is a packet on its way to [Socket.PacketConn].
type quicPacket struct {
	buf  *[quicBuffer]byte
	size int
	node *node
}

// quicBuffers saves allocating 2 KiB for each packet of the control plane.
var quicBuffers = sync.Pool{New: func() any { return new([quicBuffer]byte) }}

func (s *Socket) dispatchQUIC(b []byte, src *source, now instant) {
	if src == nil {
		s.stats.drop(dropStranger, 1)
		return
	}
	if len(b) > quicBuffer {
		s.stats.drop(dropTooLarge, 1)
		return
	}
	src.heard(now)
	src.node.quic.Store(int64(now))
	p := quicPacket{buf: quicBuffers.Get().(*[quicBuffer]byte), node: src.node}
	p.size = copy(p.buf[:], b)
	select {
	case s.quic <- p:
	default:
		quicBuffers.Put(p.buf)
		s.stats.drop(dropQueueFull, 1)
	}
}

func (s *Socket) dispatchGossip(b []byte, ep conn.Endpoint, src *source, now instant) {
	p := GossipPacket{From: addrOf(ep), At: s.when(now)}
	if linkOf(ep) != nil {
		p.From = netip.AddrPort{}
	}
	if src == nil {
		if !s.knocks.allow(rationedAddr(ep), now) {
			s.stats.drop(dropLimited, 1)
			return
		}
	} else {
		src.heard(now)
		if id := src.node.member.Load(); id != nil {
			p.FromID = *id
		}
	}
	p.Data = bytes.Clone(b[1:])
	select {
	case s.gossip <- p:
	default:
		s.stats.drop(dropQueueFull, 1)
	}
}

func (s *Socket) dispatchRelay(b []byte, src *source, now instant) {
	var from *identity.NodeID
	if src != nil {
		from = src.node.memberID()
	}
	if from == nil {
		s.stats.drop(dropStranger, 1)
		return
	}
	src.heard(now)
	number, down, packet, ok := parseFrame(b)
	switch {
	case !ok:
		s.stats.drop(dropMalformed, 1)
	case down:
		s.fromChannel(src.node, number, packet, now)
	default:
		s.relay.accept(src.node, number, b, now)
	}
}

package firewall

import "sync/atomic"

// quickSlots is the size of a quickPass: several hundred flows of a peer find a slot of their own, and a collision costs one lock.
const quickSlots = 1 << 8

// quickPass remembers, for one address of a peer and one book, which flows a packet has passed of in this second. Most packets of a busy
// flow pass by it without the table's lock, for which both directions would otherwise wait. A slot holds the second (30 bits), the
// direction, whether it is TCP, and both ports. An ended flow passes for at most the rest of its second; a new book begins empty.
type quickPass [quickSlots]atomic.Uint64

// quickTag is what a slot holds of a packet; false for packets that the table has to see: all that change a flow's state.
func (j *judgement) quickTag(h *header) (tag uint64, ok bool) {
	if h.part != whole {
		return 0, false
	}
	local, remote := j.ports(h)
	tag = uint64(j.now)<<34 | uint64(local)<<16 | uint64(remote)
	switch {
	case h.protocol == protocolTCP && h.flags&(flagSYN|flagFIN|flagRST) == 0:
		tag |= 1 << 32
	case h.protocol != protocolUDP:
		return 0, false
	}
	if j.inbound {
		tag |= 1 << 33
	}
	return tag, true
}

// slot spreads tags, the second left out so that a flow keeps its slot (Fibonacci hashing).
func slot(tag uint64) uint64 { return (tag & (1<<34 - 1)) * 0x9e3779b97f4a7c15 >> (64 - 8) }

// passed tells whether the tag was noted.
func (p *peer) passed(tag uint64) bool {
	q := p.quick.Load()
	return q != nil && q[slot(tag)].Load() == tag
}

// note lets packets with the same tag pass from now on.
func (p *peer) note(tag uint64) {
	q := p.quick.Load()
	if q == nil {
		p.quick.CompareAndSwap(nil, new(quickPass))
		q = p.quick.Load()
	}
	q[slot(tag)].Store(tag)
}

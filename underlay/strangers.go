package underlay

import "time"

// The strangers that are kept, and for how long without a QUIC packet from them: an enrolment follows the check at once or never.
const (
	strangersMax     = 256
	strangerLife     = 30 * time.Second
	strangerQUICLife = 60 * time.Second
)

// makeRoom removes strangers until there is room for one more: those without a path first, then the one that spoke the longest ago.
func (o *owner) makeRoom() {
	var oldest *node
	count := 0
	for _, n := range o.all() {
		if n.member.Load() != nil {
			continue
		}
		count++
		if oldest == nil || olderStranger(n, oldest) {
			oldest = n
		}
	}
	if count >= strangersMax && oldest != nil {
		o.removeStranger(oldest)
	}
}

func olderStranger(a, b *node) bool {
	if pa, pb := a.active.Load() != nil, b.active.Load() != nil; pa != pb {
		return !pa
	}
	return max(a.born, instant(a.quic.Load())) < max(b.born, instant(b.quic.Load()))
}

// expired reports whether a stranger has had its time.
func (n *node) expired(now instant) bool {
	if q := instant(n.quic.Load()); q != 0 && now-q < strangerQUICLife {
		return false
	}
	return n.attempt == nil && now-n.born >= strangerLife
}

// removeStranger forgets a node altogether. Nothing holds on to a stranger: the WireGuard device has never heard of it.
func (o *owner) removeStranger(n *node) {
	o.dropPaths(n, ErrUnknownNode)
	o.nodes.remove(n)
	o.queue.drop(n)
}

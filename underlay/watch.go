package underlay

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// watchers are those who want to know of changes.
type watchers struct {
	mu  sync.Mutex
	all map[chan struct{}]bool
}

func (w *watchers) notify() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.all {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Watch returns a channel that is signalled after paths or local addresses have changed; signals are coalesced. cancel ends the
// watch; the channel is not closed.
func (s *Socket) Watch() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	w := &s.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[chan struct{}]bool{}
	}
	w.all[c] = true
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, c)
	}
}

// Path returns the path to a member; false if there is none and never was one, or the node is a member no more.
func (s *Socket) Path(id identity.NodeID) (PathInfo, bool) {
	e, ok := s.peers.Get(id)
	if !ok {
		return PathInfo{}, false
	}
	n := s.nodes.get(e.Member.Public.WireGuard)
	if n == nil || n.memberID() == nil {
		return PathInfo{}, false
	}
	return n.pathInfo()
}

// pathInfo returns what was published, brought up to date.
func (n *node) pathInfo() (PathInfo, bool) {
	p := n.info.Load()
	if p == nil {
		return PathInfo{}, false
	}
	info := *p
	if id := n.member.Load(); id != nil {
		info.ID = *id
	}
	info.Tunnel = n.wireGuardKnown.Load()
	if r := n.active.Load(); r != nil {
		info.Heard = n.socket.when(instant(r.source.received.Load()))
	}
	return info, true
}

// Paths returns the paths to all members that have one, in the order of their IDs.
func (s *Socket) Paths() []PathInfo {
	var out []PathInfo
	for _, n := range s.nodes.appendAll(nil) {
		if info, ok := n.pathInfo(); ok && info.Kind != PathNone && !info.ID.IsZero() {
			out = append(out, info)
		}
	}
	slices.SortFunc(out, func(a, b PathInfo) int { return a.ID.Compare(b.ID) })
	return out
}

// Forget drops all paths to a node, and what was hinted about it, before it returns. A revoked node is a stranger from then on:
// it may come and hear over QUIC that it was revoked, and nothing else. Another may be found anew.
func (s *Socket) Forget(id identity.NodeID) {
	e, ok := s.peers.Get(id)
	if !ok {
		return
	}
	key := e.Member.Public.WireGuard
	if owner, ok := s.peers.ByKey(key); ok && owner.ID != id {
		return // the key is another member's
	}
	s.commandAndWait(func(o *owner) {
		if e.Revoked || o.isRevokedNow(id) {
			o.revoke(key)
		} else if n := o.nodes.get(key); n != nil {
			o.dropPaths(n, ErrUnknownNode)
		}
	})
}

// ForgetAddr drops the paths to whoever holds the key: for one whose identity, shown over QUIC, was not the one expected.
func (s *Socket) ForgetAddr(a Addr) {
	s.commandAndWait(func(o *owner) {
		if n := o.nodes.get(a.Key); n != nil {
			o.dropPaths(n, ErrUnknownNode)
		}
	})
}

func (o *owner) isRevokedNow(id identity.NodeID) bool {
	e, ok := o.peers.Get(id)
	return ok && e.Revoked
}

// revoke takes a member's key for a stranger's from now on. Its node leaves the table without a path: the WireGuard device may still
// point to the endpoint, over which nothing can be sent any more. What the key's holder does next, a new node stands for.
func (o *owner) revoke(key identity.WireGuardKey) {
	n := o.nodes.get(key)
	if n == nil || n.member.Load() == nil {
		return // never met, or a stranger already
	}
	name := n.name()
	n.member.Store(nil)
	o.closeChannels(n)
	o.dropPaths(n, ErrUnknownNode)
	o.nodes.remove(n)
	o.queue.drop(n)
	o.log.Info("paths of a revoked node dropped", "peer", name)
}

// command runs f on the owner.
func (s *Socket) command(f func(*owner)) error {
	select {
	case s.commands <- f:
		return nil
	case <-s.done:
		return ErrClosed
	}
}

// commandAndWait runs f on the owner and returns when it is done, or the socket closed.
func (s *Socket) commandAndWait(f func(*owner)) {
	finished := make(chan struct{})
	if s.command(func(o *owner) { f(o); close(finished) }) != nil {
		return
	}
	select {
	case <-finished:
	case <-s.done:
	}
}

// AddrOf returns the address under which QUIC reaches a member.
func (s *Socket) AddrOf(id identity.NodeID) (Addr, bool) {
	e, ok := s.peers.Get(id)
	if !ok || e.Revoked {
		return Addr{}, false
	}
	return Addr{e.Member.Public.WireGuard}, true
}

// LocalEndpoints returns the addresses of this machine at which the socket can be reached, with its port.
func (s *Socket) LocalEndpoints() []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range *s.local.Load() {
		out = append(out, netip.AddrPortFrom(a, s.port))
	}
	return out
}

// From returns where the packets of a node come from that need not be a member: of a stranger, by the key that its path was checked with.
// Not valid while there is no path.
func (s *Socket) From(key identity.WireGuardKey) netip.AddrPort {
	n := s.nodes.get(key)
	if n == nil {
		return netip.AddrPort{}
	}
	r := n.active.Load()
	if r == nil {
		return netip.AddrPort{}
	}
	return r.source.addr
}

package underlay

import (
	"errors"
	"net/netip"
	"syscall"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// What the owner does for paths beyond checks: it keeps some alive, follows changes of the network, and hears what the system refuses.

const (
	// recheckBurst nodes are checked anew at once after a change of network and recheckPace separates the bursts: 16 nodes of 4 addresses
	// are 20 KB, so 8 Mbit/s at most.
	recheckBurst = 16
	recheckPace  = 20 * time.Millisecond
)

// Keep has the active path to a member, and the NAT mappings it goes through, kept alive from now on even if nothing is sent; when it is
// lost it is found again. That costs less than 250 KB a day for each node (keep.go). off ends it. It returns [ErrUnknownNode] or
// [ErrClosed].
func (s *Socket) Keep(id identity.NodeID, on bool) error {
	n := s.memberNode(id)
	if n == nil {
		if !on {
			return nil
		}
		return ErrUnknownNode
	}
	return s.command(func(o *owner) {
		n.paths.kept = on && o.nodes.has(n)
		o.step(n, o.now())
	})
}

// sendOver sends what the core wants sent over one of the node's paths. What cannot be sent is not answered; what the system says about
// it counts at once.
func (o *owner) sendOver(n *node, a action) {
	var err error
	size := 0
	switch a.kind {
	case actProbe:
		err = o.check(n, a.addr, true, nil)
	case actReport:
		err = o.check(n, a.addr, false, nil)
	case actSize:
		if p := n.paths.find(a.addr); p != nil {
			size = p.mtu.probing()
			err = o.checkSize(n, a.addr, size)
		}
	case actRefresh:
		err = o.sendAs(n, a.addr, refreshByte)
		n.paths.refreshed = o.now()
	case actPing:
		err = o.sendAs(n, a.addr, pingByte)
	}
	switch {
	case err == nil:
	case size > 0 && errors.Is(err, syscall.EMSGSIZE):
		o.carryOut(n, n.paths.refuse(a.addr, size))
		o.wakeFor(n, o.now()) // for the next size
	case noWay(err):
		o.carryOut(n, n.paths.fail(a.addr, o.now()))
	}
}

// sendAs sends a packet of one byte over the path as its data goes, from the same local address.
func (o *owner) sendAs(n *node, addr netip.AddrPort, b byte) error {
	if r := n.active.Load(); r != nil && r.source.addr == addr {
		return o.transmit([][]byte{{b}}, r.endpoint)
	}
	return o.sendTo([]byte{b}, addr)
}

// startTrial sends copies of the next packets over a lossy path.
func (o *owner) startTrial(n *node, addr netip.AddrPort) {
	src := o.sources.get(addr)
	e, err := o.parseEndpoint(addr)
	if err != nil || src == nil || src.node != n {
		return
	}
	t := &trial{endpoint: e, source: src}
	t.left.Store(trialPackets)
	n.trial.Store(t)
}

// refusals brings the core what the system has said of the node's packets.
func (o *owner) refusals(n *node, now instant) (acts []action) {
	for i := range n.paths.paths {
		addr := n.paths.paths[i].addr
		src := o.sources.get(addr)
		if src == nil || src.node != n {
			continue
		}
		if size := src.refused.Swap(0); size > 0 {
			acts = append(acts, n.paths.refuse(addr, int(size))...)
		}
		if src.failed.Swap(false) {
			o.log.Info("the system refuses to send on a path", "peer", n.name(), "addr", addr)
			acts = append(acts, n.paths.fail(addr, now)...)
		}
	}
	return acts
}

// networkChanged takes in that addresses or routes of this machine have changed, or that it slept: the system chooses local addresses anew,
// and every node in use, or kept, is checked at all its addresses. Watchers are told, so that our addresses are announced anew.
func (o *owner) networkChanged() {
	o.watchers.notify()
	now := o.now()
	o.pending = o.pending[:0]
	for _, n := range o.all() {
		if r := n.active.Load(); r != nil && r.sticky {
			n.unstick(r)
		}
		n.paths.doubt(now)
		if !n.paths.asleep(now) {
			o.wakeFor(n, now)
			o.pending = append(o.pending, n)
		}
	}
	o.recheckPending(now)
}

// recheckPending checks some of the nodes that wait for it since the network changed.
func (o *owner) recheckPending(now instant) {
	if len(o.pending) == 0 {
		return
	}
	k := min(len(o.pending), recheckBurst)
	for _, n := range o.pending[:k] {
		o.searchAnew(n)
		o.step(n, now)
	}
	if o.pending = o.pending[k:]; len(o.pending) > 0 {
		o.wakeAt(now + recheckPace)
	}
}

// searchAnew checks all addresses of the node, those too that a search under way has checked: that was in another network.
func (o *owner) searchAnew(n *node) {
	var waiters []chan error
	if n.attempt != nil {
		waiters, n.attempt = n.attempt.waiters, nil
	}
	o.connect(n, nil, nil)
	if n.attempt != nil {
		n.attempt.waiters = waiters
		return
	}
	for _, w := range waiters {
		answerWaiter(w, ErrNoCandidates)
	}
}

package control

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// link is all there is with one underlay address. Guarded by Host.mu.
type link struct {
	conns []*connection // verified, in the order they were
	dial  *dial         // in progress, or nil
}

// connection is one QUIC connection with one peer.
type connection struct {
	host   *Host
	quic   *quic.Conn
	key    identity.WireGuardKey // of the peer's address
	dialed bool                  // by us

	// What we were when it was made.
	enrolled bool // we had a chain to show
	trusted  bool // we had a mesh to verify the peer's with

	// Written once, before verified is closed.
	verified chan struct{}
	err      error // why the hello failed
	peer     Peer
	instance [instanceSize]byte

	open    atomic.Int32 // streams in use at this end
	serving atomic.Int32 // streams of the peer whose handler runs
	retired atomic.Bool  // not for new streams of ours
	probing atomic.Bool  // a Suspect check is under way
}

// alive reports whether the connection has not ended yet, as far as we know.
func (c *connection) alive() bool { return c.quic.Context().Err() == nil }

// settle publishes the outcome of the hello.
func (c *connection) settle(err error) {
	c.err = err
	close(c.verified)
}

// credentials are what we have to show and to verify with at one moment.
type credentials struct {
	chain *certificate.Chain
	trust *certificate.Trust
	now   time.Time
}

func (h *Host) credentials() credentials {
	return credentials{chain: h.cfg.Chain(), trust: h.cfg.Trust(), now: h.cfg.Now()}
}

// current reports whether the connection was made with what we have now: one from before our enrolment does not count, nor one
// with a peer whose certificate has expired since.
func (cr credentials) current(c *connection) bool {
	switch {
	case cr.chain != nil && !c.enrolled, cr.trust != nil && !c.trusted:
		return false
	case c.peer.Member != nil && cr.now.After(c.peer.Member.NotAfter):
		return false
	}
	return true
}

// better reports whether new streams should go over a rather than b, both being verified connections of the node self with one
// peer. Both ends must come to the same answer, or two connections from a simultaneous dial would both stay in use: members
// before strangers, then the one that the lower node ID dialed, then the later one.
func better(a, b *connection, self identity.NodeID) bool {
	if am, bm := a.peer.Member != nil, b.peer.Member != nil; am != bm {
		return am
	}
	if a.dialed != b.dialed {
		lower := bytes.Compare(self[:], a.peer.ID[:]) < 0
		return a.dialed == lower
	}
	return true // the caller goes from old to new
}

// best returns the connection for a new stream, or nil.
func (l *link) best(self identity.NodeID, cr credentials) *connection {
	var best *connection
	for _, c := range l.conns {
		if !c.alive() || c.retired.Load() || !cr.current(c) {
			continue
		}
		if best == nil || better(c, best, self) {
			best = c
		}
	}
	return best
}

func (l *link) hasMember() bool {
	return slices.ContainsFunc(l.conns, func(c *connection) bool { return c.peer.Member != nil })
}

// surplus returns the connection to give up when there are too many: the oldest without streams, else the oldest.
func (l *link) surplus() *connection {
	if len(l.conns) <= connectionsPerPeerMax {
		return nil
	}
	for _, c := range l.conns[:len(l.conns)-1] {
		if c.open.Load() == 0 {
			return c
		}
	}
	return l.conns[0]
}

func (h *Host) linkLocked(key identity.WireGuardKey) *link {
	l := h.links[key]
	if l == nil {
		l = &link{}
		h.links[key] = l
	}
	return l
}

// tidyLocked forgets a link that has become empty.
func (h *Host) tidyLocked(key identity.WireGuardKey, id identity.NodeID) {
	if l := h.links[key]; l != nil && len(l.conns) == 0 {
		if h.keys[id] == key {
			delete(h.keys, id)
		}
		if l.dial == nil {
			delete(h.links, key)
		}
	}
}

// register enters a verified connection into the pool. finished, if not nil, is the dial that made it. Connections with an earlier
// run of the peer are closed: the peer has been restarted, nobody is at their other end.
func (h *Host) register(c *connection, finished *dial) error {
	h.mu.Lock()
	l := h.linkLocked(c.key)
	if finished != nil && l.dial == finished {
		l.dial = nil
	}
	if h.closed {
		h.tidyLocked(c.key, c.peer.ID)
		h.mu.Unlock()
		return ErrClosed
	}
	var gone []*connection
	l.conns = slices.DeleteFunc(l.conns, func(old *connection) bool {
		if old.instance == c.instance {
			return false
		}
		gone = append(gone, old)
		return true
	})
	l.conns = append(l.conns, c)
	if s := l.surplus(); s != nil {
		l.conns = slices.DeleteFunc(l.conns, func(old *connection) bool { return old == s })
		gone = append(gone, s)
	}
	h.keys[c.peer.ID] = c.key
	h.mu.Unlock()

	h.counters.established.Add(1)
	closeAll(gone, ReasonSuperseded, "")
	h.announce(c)
	// A revocation that came after the hello was judged and before the connection could be found by Disconnect.
	if t := h.cfg.Trust(); t != nil && t.Revoked(c.peer.ID) {
		r := refuse(c.peer.ID, ReasonRevoked, "")
		closeQUIC(c.quic, ReasonRevoked, r.Reason)
		return r
	}
	return nil
}

// unregister takes an ended connection out of the pool.
func (h *Host) unregister(c *connection) {
	h.mu.Lock()
	if l := h.links[c.key]; l != nil {
		l.conns = slices.DeleteFunc(l.conns, func(o *connection) bool { return o == c })
		h.tidyLocked(c.key, c.peer.ID)
	}
	h.mu.Unlock()
	h.announce(c)
}

// announce lets the watchers know that something may have changed about the connection's peer.
func (h *Host) announce(c *connection) { h.events.mark(c.peer) }

// connsOf returns the connections with a node.
func (h *Host) connsOf(id identity.NodeID) []*connection {
	h.mu.Lock()
	defer h.mu.Unlock()
	key, ok := h.keys[id]
	if !ok {
		return nil
	}
	return slices.Clone(h.links[key].conns)
}

// allLocked returns every connection in the pool.
func (h *Host) allLocked() []*connection {
	var all []*connection
	for _, l := range h.links {
		all = append(all, l.conns...)
	}
	return all
}

// Connected reports whether there is a live connection with the node.
func (h *Host) Connected(id identity.NodeID) bool {
	return slices.ContainsFunc(h.connsOf(id), (*connection).alive)
}

// Disconnect ends every connection with the node at once, telling it why. That it does not come back is for Trust to say: revoke
// there first, then disconnect.
func (h *Host) Disconnect(id identity.NodeID, r Reason) {
	conns := h.connsOf(id)
	if len(conns) > 0 {
		h.log.Info("control connection ended by us", "peer", id, "err", r)
	}
	closeAll(conns, r, r.String())
}

// closeAll closes connections side by side: quic-go waits for each to have sent its close frame.
func closeAll(conns []*connection, r Reason, text string) {
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() { closeQUIC(c.quic, r, text) })
	}
	wg.Wait()
}

// closeQUIC closes a connection with a reason.
func closeQUIC(qc *quic.Conn, r Reason, text string) {
	if len(text) > reasonMax {
		text = text[:reasonMax]
	}
	// An error means that it was closed already.
	_ = qc.CloseWithError(quic.ApplicationErrorCode(r), text)
}

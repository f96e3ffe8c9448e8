package node

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// What enrolment brings is a node's own certificate and no state: whom it can believe, and find, it learns from the state, which holds all members,
// 5.5 kB each. Until it has that it knows nobody, and nobody's word counts with it: gossip cannot help.
const (
	// membersWait bounds how long a node that has just enrolled waits for the state before it says that it is online: as long as one pull may take.
	membersWait = 10 * time.Second
	// membersNext is when the next member is asked beside the one that has not answered: a connection and a pull take some 20 ms in a LAN. Across an
	// ocean 230 kB take 1.5 s; then a second copy is on its way in vain.
	membersNext = time.Second
	// laterMin..Max are the gaps between rounds of fetchLater, doubling. A round is a path check for each address, at most laterMax of them.
	laterMin      = time.Second
	laterMax      = 30 * time.Second
	laterContacts = 16
)

// fetchMembers learns of the others before the node says that it is online: the first packet after phantom join must find its destination. The
// leader is asked first, as it surely has this node in its ledger, then the members that the token named, each when the one before has failed or
// membersNext has passed. If none answers in time, fetchLater goes on.
func (m *membership) fetchMembers(leader identity.NodeID) {
	asked := []identity.NodeID{leader}
	for _, h := range m.node.book.All() {
		if h.ID != leader {
			asked = append(asked, h.ID)
		}
	}
	ctx, cancel := context.WithTimeout(m.ctx, membersWait)
	defer cancel()
	var pulls sync.WaitGroup
	defer pulls.Wait()
	defer cancel() // before they are waited for
	have, failed := make(chan struct{}, len(asked)), make(chan struct{}, len(asked))
	next := time.NewTimer(0)
	defer next.Stop()
	for pending := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-have:
			state := m.group.State()
			m.adoptMembers(state)
			m.adoptPolicy(state)
			return
		case <-failed:
			if pending--; pending == 0 && len(asked) == 0 {
				return
			}
		case <-next.C:
		}
		if len(asked) == 0 {
			continue
		}
		id := asked[0]
		asked, pending = asked[1:], pending+1
		next.Reset(membersNext)
		pulls.Go(func() {
			err := m.group.Pull(ctx, id)
			if m.group.State().Version > 0 {
				have <- struct{}{}
				return
			}
			m.node.log.Debug("members not fetched yet", "peer", id.Short(), "err", err)
			failed <- struct{}{}
		})
	}
}

// fetchLater asks whoever is at the addresses that this node remembers, the token's at first, for as long as it has no state. It is needed where
// the connection over which it enrolled broke too early, and after a restart from such a beginning.
func (m *membership) fetchLater() {
	for gap := laterMin; m.group.State().Version == 0; gap = min(2*gap, laterMax) {
		if !sleep(m.ctx, gap) {
			return
		}
		var contacts sync.WaitGroup
		for _, addr := range m.remembered(laterContacts) {
			contacts.Go(func() { m.fetchAt(addr) })
		}
		contacts.Wait()
	}
}

// remembered are the addresses of the address book, at most so many.
func (m *membership) remembered(most int) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range m.node.book.All() {
		out = append(out, e.Addrs...)
	}
	return out[:min(len(out), most)]
}

// fetchAt pulls the state from the member at an address, whichever that is.
func (m *membership) fetchAt(addr netip.AddrPort) {
	n := m.node
	at, err := n.socket.Contact(m.ctx, addr)
	if err != nil {
		n.log.Debug("nobody to tell of the members", "addr", addr, "err", err)
		return
	}
	if _, known := n.peers.ByKey(at.Key); !known {
		m.meet(at)
	}
	if e, ok := n.peers.ByKey(at.Key); ok {
		if err := m.group.Pull(m.ctx, e.ID); err != nil {
			n.log.Debug("members not fetched yet", "peer", e.ID.Short(), "err", err)
		}
	}
}

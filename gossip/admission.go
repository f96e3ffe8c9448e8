package gossip

import (
	"bytes"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

const (
	// pendingMax bounds the nodes that are said to be alive and whose certificate is not here: as many as may reasonably join a
	// pool within pendingFor. Above it the oldest makes room; it will be heard of again.
	pendingMax = 256
	// pendingFor is how long such a node is remembered. Its certificate comes within seconds or not at all.
	pendingFor = 5 * time.Minute
	// askEvery is the least time between two UnknownMember events about one node: time for one pull of the state.
	askEvery = time.Second
	// clockSkew is granted to the end of a certificate.
	clockSkew = 5 * time.Minute
)

// admission judges what memberlist hears of nodes: whether they are members, and whether they have said themselves what is said of
// them. It is asked with memberlist's lock held; its own lock comes after that one and before none.
type admission struct {
	self  identity.NodeID
	mesh  identity.MeshID
	peers *peer.Table
	fence *fence

	mu       sync.Mutex // guards what follows
	verified map[identity.NodeID]verifiedMeta
	pending  map[identity.NodeID]*pendingClaim
}

// verifiedMeta is the record that a member last proved, so that hearing it again costs no signature check.
type verifiedMeta struct {
	meta   []byte
	record peer.Record
}

// signed returns the record that a member last proved, as it signed it.
func (a *admission) signed(id identity.NodeID) ([]byte, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, ok := a.verified[id]
	return last.meta, ok
}

// pendingClaim is what is said of a node whose certificate is not here, or that does not belong here.
type pendingClaim struct {
	meta  []byte          // its record, unverified
	via   identity.NodeID // the member that last said so; zero: only the node itself has
	since time.Time
	asked time.Time
}

func newAdmission(self identity.NodeID, mesh identity.MeshID, peers *peer.Table, f *fence) *admission {
	return &admission{
		self: self, mesh: mesh, peers: peers, fence: f,
		verified: map[identity.NodeID]verifiedMeta{},
		pending:  map[identity.NodeID]*pendingClaim{},
	}
}

// judge returns the record of a node that memberlist is about to hold alive, or why it must not. wall is by the machine's clock, now by our own.
func (a *admission) judge(n *memberlist.Node, wall, now time.Time) (record peer.Record, why refusal, ok bool) {
	id, err := identity.ParseNodeID(n.Name)
	if err != nil || !a.standsAt(id, n) {
		return peer.Record{}, refusedName, false
	}
	if !speaks(n) {
		return peer.Record{}, refusedVersion, false
	}
	e, known := a.peers.Get(id)
	switch {
	case !known:
		return peer.Record{}, refusedStranger, false
	case e.Revoked:
		return peer.Record{}, refusedRevoked, false
	case wall.After(e.Member.NotAfter.Add(clockSkew)):
		return peer.Record{}, refusedExpired, false
	case !a.fence.lets(id, now):
		return peer.Record{}, refusedScope, false
	}
	if record, ok = a.verify(id, e, n.Meta); !ok {
		return peer.Record{}, refusedSignature, false
	}
	return record, 0, true
}

// standsAt reports whether the node is announced at the one address it can have.
func (a *admission) standsAt(id identity.NodeID, n *memberlist.Node) bool {
	addr, ok := netip.AddrFromSlice(n.Addr)
	return ok && n.Port == overlayPort && addr == identity.OverlayIPv6(a.mesh, id)
}

// speaks reports whether the node's version of memberlist's protocol is ours. The versions are in no signature; one that does not
// fit, once let in, would make every push/pull of the mesh fail.
func speaks(n *memberlist.Node) bool {
	const ours = memberlist.ProtocolVersion2Compatible
	return n.PMin <= ours && n.PCur == ours && ours <= n.PMax && n.DMin == 0 && n.DCur == 0
}

// verify checks a record's signature with the member's key.
func (a *admission) verify(id identity.NodeID, e peer.Entry, meta []byte) (peer.Record, bool) {
	a.mu.Lock()
	last, ok := a.verified[id]
	a.mu.Unlock()
	if ok && bytes.Equal(last.meta, meta) {
		return last.record, true
	}
	record, err := peer.VerifyRecord(&e.Member.Public, meta)
	if err != nil {
		return peer.Record{}, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// Only members get here, but a table can shrink: what is beyond its size is forgotten in any order.
	for other := range a.verified {
		if len(a.verified) < membersMax {
			break
		}
		delete(a.verified, other)
	}
	a.verified[id] = verifiedMeta{meta: bytes.Clone(meta), record: record}
	return record, true
}

// await remembers a node whose certificate is missing and reports whether it is time to ask for it.
func (a *admission) await(id identity.NodeID, meta []byte, via identity.NodeID, now time.Time) (ask bool) {
	if len(meta) > peer.RecordMax {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pending[id]
	if p == nil {
		a.makeRoomLocked(now)
		p = &pendingClaim{}
		a.pending[id] = p
	}
	p.meta, p.since = bytes.Clone(meta), now
	if !via.IsZero() { // the node's own word is nobody's: it has no certificate here
		p.via = via
	}
	if ask = now.Sub(p.asked) >= askEvery; ask {
		p.asked = now
	}
	return ask
}

// makeRoomLocked forgets pending nodes that waited too long, and the oldest if there are too many.
func (a *admission) makeRoomLocked(now time.Time) {
	var oldest identity.NodeID
	for id, p := range a.pending {
		if now.Sub(p.since) > pendingFor {
			delete(a.pending, id)
		} else if o := a.pending[oldest]; o == nil || p.since.Before(o.since) {
			oldest = id
		}
	}
	if len(a.pending) >= pendingMax {
		delete(a.pending, oldest)
	}
}

// arrival is a node whose certificate has come, or that has come to belong here.
type arrival struct {
	id        identity.NodeID
	via       identity.NodeID
	record    peer.Record
	hasRecord bool
}

// arrivals takes from the pending nodes those that are members now.
func (a *admission) arrivals(wall, now time.Time) []arrival {
	a.mu.Lock()
	waiting := make(map[identity.NodeID]*pendingClaim, len(a.pending))
	for id, p := range a.pending {
		waiting[id] = p
	}
	a.mu.Unlock()
	var out []arrival
	for id, p := range waiting {
		e, ok := a.peers.Get(id)
		if !ok || !e.Revoked && (wall.After(e.Member.NotAfter.Add(clockSkew)) || !a.fence.lets(id, now)) {
			continue
		}
		a.mu.Lock()
		delete(a.pending, id)
		a.mu.Unlock()
		if e.Revoked {
			continue
		}
		arrived := arrival{id: id, via: p.via}
		arrived.record, arrived.hasRecord = a.verify(id, e, p.meta)
		out = append(out, arrived)
	}
	return out
}

package underlay

import (
	"bytes"
	"sync"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// nodeTable finds nodes by key. Members stay in it until they are revoked, as the WireGuard device keeps pointers to their
// endpoints; strangers go when they have been quiet.
type nodeTable struct {
	mu    sync.Mutex
	byKey map[identity.WireGuardKey]*node
}

func (t *nodeTable) get(key identity.WireGuardKey) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[key]
}

// has reports whether n is still the node of its key: one that was revoked, or a stranger that had its time, is not.
func (t *nodeTable) has(n *node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[n.key] == n
}

// appendAll appends every node to list.
func (t *nodeTable) appendAll(list []*node) []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.byKey {
		list = append(list, n)
	}
	return list
}

func (t *nodeTable) remove(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey[n.key] == n {
		delete(t.byKey, n.key)
	}
}

// nodeOf returns the node of the key, a new one if need be; nil for our own key.
func (s *Socket) nodeOf(key identity.WireGuardKey) *node {
	if key == s.public || key.IsZero() {
		return nil
	}
	t := &s.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byKey[key]
	if n == nil {
		n = &node{socket: s, key: key, addr: Addr{key}, paths: newPathSet(s.patientWith(key)), born: s.now()}
		n.endpoint.node = n
		t.byKey[key] = n
	}
	return n
}

// patientWith reports whether we leave probing a quiet path to the node with the key: of two nodes, the one with the larger key does.
func (s *Socket) patientWith(key identity.WireGuardKey) bool {
	return bytes.Compare(s.public[:], key[:]) > 0
}

// memberNode returns the node of a member; nil if it is none, revoked, or ourselves.
func (s *Socket) memberNode(id identity.NodeID) *node {
	e, ok := s.peers.Get(id)
	if !ok || e.Revoked {
		return nil
	}
	// A key that two certificates claim belongs to the one that the table finds by it.
	if owner, ok := s.peers.ByKey(e.Member.Public.WireGuard); !ok || owner.ID != id {
		return nil
	}
	n := s.nodeOf(e.Member.Public.WireGuard)
	if n == nil || n.member.Load() == nil && !n.admit(id) {
		return nil
	}
	return n
}

// admit makes a stranger the member that it is, unless that was revoked at the same moment: the owner, which takes the revoked out,
// may have passed already.
func (n *node) admit(id identity.NodeID) bool {
	n.member.Store(&id)
	if e, ok := n.socket.peers.Get(id); ok && e.Revoked {
		n.member.Store(nil)
		return false
	}
	return true
}

// memberID returns the ID of the member the node is, nil for a stranger. A stranger whose key the peer table knows by now becomes
// a member here, so that its first packet after admission is not lost.
func (n *node) memberID() *identity.NodeID {
	if id := n.member.Load(); id != nil {
		return id
	}
	e, ok := n.socket.peers.ByKey(n.key)
	if !ok || e.Revoked {
		return nil
	}
	if !n.admit(e.ID) {
		return nil
	}
	return &e.ID
}

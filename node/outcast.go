package node

import (
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// How a node learns that it was revoked. One that is in touch when that is decided gets the new state, or is told while its connections are
// closed. One that was away comes back to a mesh in which nobody counts it as a member: others treat it as a stranger, and their control
// channel refuses it with the reason. It sees no proof, only a refusal from who holds the TLS key of a member it knows. The word of one that holds
// an issuer certificate is enough, whether it has a vote or not, as it could take the group over and revoke whom it will anyway (the one that stands by
// has done just that, if the founder of a mesh of two is told so); any other member's is shown to people and nothing else, lest one member could
// stop all others.

// refusedBy hears from the control channel that a node has turned us away.
func (n *Node) refusedBy(r *control.Refused, tlsKey [32]byte) {
	m := n.mesh.Load()
	e, known := n.peers.Get(r.Peer)
	if m == nil || r.Code != uint64(control.ReasonRevoked) || !known || e.Revoked || e.Member.Public.Ed25519 != tlsKey {
		return
	}
	state := m.group.State()
	if state.MaySpeakRaft(r.Peer, n.cfg.Now()) { // who votes may be hearsay; that it was made an issuer is signed
		n.turnedAway(state.Mesh.Name, "its coordinator "+e.Member.Name+" says so")
		return
	}
	if n.outcast.CompareAndSwap(nil, &r.Peer) {
		n.log.Warn("a member says that this node was revoked", "peer", r.Peer.Short(), "name", e.Member.Name)
	}
}

// turnedAway ends a node that the mesh has revoked.
func (n *Node) turnedAway(mesh, why string) {
	select {
	case <-n.stop:
		return // it knows, or ends for another reason
	default:
	}
	if n.leaving.Load() {
		return // it is out because it asked to be
	}
	n.log.Error("this node's membership was revoked", "mesh", mesh, "err", why)
	n.finish(failed("this node was cut off from "+mesh, &coordinator.Refused{
		Code: coordinator.RefusedRevoked, Reason: "its membership was revoked (" + why + "); to join again, move the state folder " +
			n.folder.path + " away and ask for a new invitation" + n.keepRoot()}))
}

// keepRoot reminds who is about to part with a state folder that the mesh's root key, if it is there, is nowhere else.
func (n *Node) keepRoot() string {
	if m := n.mesh.Load(); m == nil || !m.group.HoldsRoot() {
		return ""
	}
	return "; keep its mesh/root.key, of which there is no other"
}

// accuser is the name of the member that says this node was revoked, empty if none does or others have taken us in since.
func (n *Node) accuser() string {
	id := n.outcast.Load()
	if id == nil {
		return ""
	}
	if e, ok := n.peers.Get(*id); ok && e.State != peer.Alive {
		return e.Member.Name
	}
	return ""
}

// firstWordMax bounds how long a node that returns to its mesh waits for a word from anybody: a search for a path and a handshake, each of
// which takes a few round trips, and the first look of gossip at its address book.
const firstWordMax = 1500 * time.Millisecond

// firstWord returns when some member has taken this node in, when it was turned away (with the reason), or when nobody speaks: that, too, is
// how a mesh begins its day. So the command that started the node can say that it was revoked.
func (m *membership) firstWord(state *coordinator.State) error {
	n := m.node
	var others []identity.NodeID
	for _, member := range state.Members {
		if member.Status == coordinator.Active && member.ID != n.ID() {
			others = append(others, member.ID)
		}
	}
	deadline := time.NewTimer(firstWordMax)
	defer deadline.Stop()
	look := time.NewTicker(leaderLook)
	defer look.Stop()
	for len(others) > 0 {
		select {
		case <-n.stop:
			return n.ended
		case <-deadline.C:
			return nil
		case <-look.C:
		}
		for _, id := range others {
			if m.alive(id) {
				return nil
			}
		}
	}
	return nil
}

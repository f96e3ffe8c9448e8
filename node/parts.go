package node

import (
	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// Parts are what a node in a mesh is made of, for simulations only: whoever has them is the node towards all others. With them the simulator
// plays a member gone bad, and compares what a node holds with the truth.
type Parts struct {
	Key    *identity.Key
	Peers  *peer.Table
	Socket *underlay.Socket
	// Control opens streams with the node's certificate, and its handlers can be wrapped.
	Control *control.Host
	Group   *coordinator.Group
	Gossip  *gossip.Host
}

// Parts returns the node's parts; false while it is in no mesh. They are good until the node stops.
func (n *Node) Parts() (Parts, bool) {
	m := n.online.Load()
	if m == nil {
		return Parts{}, false
	}
	return Parts{Key: n.key, Peers: n.peers, Socket: n.socket, Control: n.control, Group: m.group, Gossip: m.gossip}, true
}

package node

import (
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// measured takes in a round trip on a member's active path. While a mesh is calm gossip probes the same two members again and again; the
// checks of paths tell of the others.
func (n *Node) measured(id identity.NodeID, rtt time.Duration) {
	if e, ok := n.peers.Get(id); ok && !e.Revoked && e.Record.Placed {
		n.place.Observe(id, e.Record.Coordinate, rtt)
	}
}

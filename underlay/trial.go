package underlay

import (
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
)

// trialPackets are copied to a lossy path to see whether they arrive: more than lossPackets, so that some may be lost by chance.
const trialPackets = 8

// trial is a lossy path that gets copies of the packets which another path carries. The WireGuard device at the other end has seen them, or
// sees them here first; either way each counts once.
type trial struct {
	endpoint conn.Endpoint
	source   *source
	left     atomic.Int32 // packets
}

// sendTrial sends copies of tunnel packets.
func (n *node) sendTrial(t *trial, bufs [][]byte) {
	k := min(len(bufs), trialPackets)
	if t.left.Add(-int32(k)) <= 0 {
		n.trial.CompareAndSwap(t, nil)
	}
	t.source.countSent(bufs[:k])
	_ = n.socket.transmit(bufs[:k], t.endpoint) // the report tells
}

// countSent counts WireGuard packets to a source of the node.
func (n *node) countSent(src *source, bufs [][]byte, now instant) {
	if n.unanswered.Load() == 0 {
		n.unanswered.Store(int64(now))
	}
	src.countSent(bufs)
}

package gossip

import (
	"context"
	"net"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// protocol is the name of gossip's streams on the control channel.
const protocol = "gossip"

// controlStreams are streams of the control channel.
type controlStreams struct{ host *control.Host }

// Open implements Streams.
func (c controlStreams) Open(ctx context.Context, id identity.NodeID) (net.Conn, error) {
	s, err := c.host.Open(ctx, id, protocol)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Suspect has the control channel look whether its connections to the node still live, so that the next stream need not find out.
func (c controlStreams) Suspect(id identity.NodeID) { c.host.Suspect(id) }

// serve takes members' streams from the control channel.
func (h *Host) serve(c *control.Host) {
	c.Handle(protocol, control.MembersOnly, func(_ context.Context, s *control.Stream) { h.AcceptStream(s.Peer().ID, s) })
}

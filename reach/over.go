package reach

import (
	"context"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// OverControl makes Streams of the control plane.
func OverControl(h *control.Host) Streams { return controlStreams{h} }

type controlStreams struct{ host *control.Host }

type controlStream struct{ *control.Stream }

// Peer implements Stream.
func (s controlStream) Peer() identity.NodeID { return s.Stream.Peer().ID }

// Open implements Streams.
func (c controlStreams) Open(ctx context.Context, id identity.NodeID, protocol string) (Stream, error) {
	s, err := c.host.Open(ctx, id, protocol)
	if err != nil {
		return nil, err
	}
	return controlStream{s}, nil
}

// Handle implements Streams.
func (c controlStreams) Handle(protocol string, serve func(context.Context, Stream)) {
	c.host.Handle(protocol, control.MembersOnly, func(ctx context.Context, s *control.Stream) { serve(ctx, controlStream{s}) })
}

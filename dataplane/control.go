package dataplane

import (
	"context"
	"errors"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// exchangeProtocol is the control channel's name for exchange streams.
const exchangeProtocol = "exchange"

// controlStreams are the exchange streams of a control host.
type controlStreams struct{ host *control.Host }

func overControl(h *control.Host) Streams { return controlStreams{host: h} }

func (c controlStreams) Open(ctx context.Context, id identity.NodeID) (Stream, error) {
	s, err := c.host.Open(ctx, id, exchangeProtocol)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (c controlStreams) Handle(f func(ctx context.Context, id identity.NodeID, s Stream)) {
	c.host.Handle(exchangeProtocol, control.MembersOnly, func(ctx context.Context, s *control.Stream) {
		defer s.Close()
		f(ctx, s.Peer().ID, s)
	})
}

func (c controlStreams) OnConnection(f func(id identity.NodeID, up bool)) {
	c.host.OnConnection(func(p control.Peer, up bool) { f(p.ID, up) })
}

// isRefusal reports whether the other end, or we, refused the connection for what the node is.
func isRefusal(err error) bool {
	var refused *control.Refused
	return errors.As(err, &refused)
}

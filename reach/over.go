package reach

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/underlay"
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

// OverSocket makes an Underlay of the socket. rate is what the socket forwards at most, in bytes a second (underlay.RelayCapacity).
func OverSocket(s *underlay.Socket, rate int) Underlay { return &socket{Socket: s, rate: rate} }

// socket is *underlay.Socket in the words of this package. What is not here is the socket's own.
type socket struct {
	*underlay.Socket
	rate int

	mu      sync.Mutex // guards the last measurement of the load
	at      time.Time
	bytes   uint64
	percent int
}

func pathOf(p underlay.PathInfo) Path {
	out := Path{Kind: kindOf(p.Way), Addr: p.Endpoint, Via: p.Via, RTT: p.RTT, Heard: p.Heard, Tunnel: p.Tunnel}
	if out.Kind == Relayed {
		out.Addr = netip.AddrPort{}
	}
	return out
}

func kindOf(w underlay.Way) PathKind {
	switch {
	case w.Kind == underlay.PathRelay:
		return Relayed
	case w.Kind == underlay.PathDirect && w.Transport == "tcp":
		return Pipe
	case w.Kind == underlay.PathDirect:
		return Direct
	}
	return NoPath
}

// Path implements Underlay.
func (s *socket) Path(id identity.NodeID) (Path, bool) {
	p, ok := s.Socket.Path(id)
	return pathOf(p), ok && p.Kind != underlay.PathNone
}

// Paths implements Underlay.
func (s *socket) Paths() map[identity.NodeID]Path {
	out := map[identity.NodeID]Path{}
	for _, p := range s.Socket.Paths() {
		out[p.ID] = pathOf(p)
	}
	return out
}

// Keep implements Underlay. Of a node that is no member any more there is nothing to keep.
func (s *socket) Keep(id identity.NodeID, on bool) { _ = s.Socket.Keep(id, on) }

// Tried implements Underlay.
func (s *socket) Tried(id identity.NodeID) []Tried {
	var out []Tried
	for _, a := range s.Socket.Tried(id) {
		out = append(out, Tried{Addr: a.Endpoint, Via: a.Via, Pipe: kindOf(a.Way) == Pipe, Result: a.Result, RTT: a.RTT, At: a.When})
	}
	return out
}

// Unsolicited implements Underlay: the socket does not tell who came first.
func (s *socket) Unsolicited() int { return 0 }

// RelayPair implements Underlay.
func (s *socket) RelayPair(a, b identity.NodeID) (Grant, error) {
	g, err := s.Socket.RelayPair(a, b)
	return Grant(g), err
}

// RelayEnd implements Underlay.
func (s *socket) RelayEnd(g Grant) { s.Socket.RelayEnd(underlay.RelayGrant(g)) }

// loadPeriod is the least time over which the load is measured.
const loadPeriod = 5 * time.Second

// RelayLoad implements Underlay: the mean since it was last measured, at least loadPeriod ago.
func (s *socket) RelayLoad() int {
	if s.rate <= 0 {
		return 0
	}
	now, total := time.Now(), s.RelayStats().Bytes
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.IsZero() {
		s.at, s.bytes = now, total
	}
	if d := now.Sub(s.at); d >= loadPeriod {
		s.percent = min(100, int(float64(total-s.bytes)/d.Seconds()*100/float64(s.rate)))
		s.at, s.bytes = now, total
	}
	return s.percent
}

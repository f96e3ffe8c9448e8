package underlay

import (
	"fmt"
	"net"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// deviceBind is the conn.Bind of the WireGuard device: nodes for addresses, the socket's readers for sockets.
type deviceBind struct{ socket *Socket }

var _ conn.Bind = deviceBind{}

// Bind returns the Bind for the WireGuard device. Its endpoints are nodes: ParseEndpoint takes a node ID in full. One device may have
// it open at a time; closing it detaches the device and leaves the socket open.
func (s *Socket) Bind() conn.Bind { return deviceBind{s} }

// Open attaches the device. The port asked for is ignored: the socket has one.
func (b deviceBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	s := b.socket
	s.attaching.Lock()
	defer s.attaching.Unlock()
	if !s.open() {
		return nil, 0, net.ErrClosed
	}
	d := &session{socket: s, closed: make(chan struct{}), left: make(chan struct{}, len(s.readers)), links: make(chan delivery, deliverQueue)}
	if !s.session.CompareAndSwap(nil, d) {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	var funcs []conn.ReceiveFunc
	for _, r := range s.readers {
		funcs = append(funcs, d.receiveFunc(r))
	}
	return append(funcs, d.receiveLinks), s.port, nil
}

// Close detaches the device: its ReceiveFuncs return net.ErrClosed and the socket reads on its own again. Closing what is not open
// does nothing (the device does that before its first Open).
func (b deviceBind) Close() error {
	s := b.socket
	s.attaching.Lock()
	defer s.attaching.Unlock()
	d := s.session.Swap(nil)
	if d == nil {
		return nil
	}
	close(d.closed)
	d.unblock()
	d.drainLinks()
	return nil
}

// SetMark marks all of the socket's packets.
func (b deviceBind) SetMark(mark uint32) error { return b.socket.bind.SetMark(mark) }

// Send sends WireGuard packets to a node, over its active path. It returns [ErrNoPath] at once if there is none, and looks for one
// in the background.
func (b deviceBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*nodeEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	if len(bufs) == 0 {
		return nil
	}
	what := questions
	if isData(bufs[0]) {
		what = data
	}
	return e.node.send(bufs, what)
}

// ParseEndpoint returns the endpoint of the member with the node ID s.
func (b deviceBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	id, err := identity.ParseNodeID(s)
	if err != nil {
		return nil, fmt.Errorf("underlay: endpoint %q: %w", s, err)
	}
	n := b.socket.memberNode(id)
	if n == nil {
		return nil, fmt.Errorf("underlay: endpoint %s: %w", id.Short(), ErrUnknownNode)
	}
	return &n.endpoint, nil
}

// BatchSize is the real Bind's.
func (b deviceBind) BatchSize() int { return b.socket.bind.BatchSize() }

// orphanInterval is the least time between two reports of one node's orphans.
const orphanInterval = time.Second

// WireGuardKnown says whether the WireGuard device has a peer with the key. Packets of a member for which it has none are reported
// to [Socket.OnOrphan].
func (s *Socket) WireGuardKnown(key identity.WireGuardKey, known bool) {
	if e, ok := s.peers.ByKey(key); ok {
		if n := s.memberNode(e.ID); n != nil {
			if n.wireGuardKnown.Swap(known) != known {
				s.watchers.notify() // PathInfo.Tunnel
			}
		}
	}
}

// OnOrphan sets the function that is told of a member whose WireGuard packets arrive although the device does not know it: it has a
// tunnel to us that we have lost. It is called on a goroutine of its own, at most once a second for each node.
func (s *Socket) OnOrphan(f func(identity.NodeID)) { s.orphanFunc.Store(&f) }

// orphan notes a WireGuard packet of a node that the device does not know.
func (s *Socket) orphan(n *node, now instant) {
	last := n.orphanAt.Load()
	if last != 0 && now-instant(last) < orphanInterval || !n.orphanAt.CompareAndSwap(last, int64(now)) {
		return
	}
	if id := n.member.Load(); id != nil {
		select {
		case s.orphans <- *id:
		default: // the next packet after a second tries again
		}
	}
}

// reportOrphans calls the function set by OnOrphan. It is a goroutine of its own so that nothing waits for it.
func (s *Socket) reportOrphans() {
	for {
		select {
		case id := <-s.orphans:
			if f := s.orphanFunc.Load(); f != nil {
				(*f)(id)
			}
		case <-s.done:
			return
		}
	}
}

package controltest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/underlay"
)

// queueSize is how many packets wait for a reader before more are dropped, as a socket's buffer would.
const queueSize = 2048

// ErrUnreachable is what Connect says of a node that is not attached or cut off.
var ErrUnreachable = errors.New("controltest: unreachable")

// Network carries packets between ports by WireGuard key. Safe for concurrent use.
type Network struct {
	mu    sync.Mutex
	ports map[identity.WireGuardKey]*Port
	nodes map[identity.NodeID]identity.WireGuardKey
	cut   map[[2]identity.WireGuardKey]loss
}

// loss is what happens between two nodes that cannot hear each other.
type loss uint8

const (
	none   loss = iota
	silent      // packets get lost, and Connect says there is a path
	known       // packets get lost, and Connect knows
)

// NewNetwork returns a network with nobody on it.
func NewNetwork() *Network {
	return &Network{
		ports: map[identity.WireGuardKey]*Port{},
		nodes: map[identity.NodeID]identity.WireGuardKey{},
		cut:   map[[2]identity.WireGuardKey]loss{},
	}
}

// Attach puts a node on the network, in the place of an earlier one with the same key.
func (n *Network) Attach(p *identity.Public) *Port {
	port := &Port{
		net: n, key: p.WireGuard, id: p.NodeID(), queue: make(chan packet, queueSize),
		closed: make(chan struct{}), changed: make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[p.WireGuard] = port
	n.nodes[port.id] = p.WireGuard
	return port
}

// Cut drops every packet between two nodes until Heal, and Connect knows that there is no path.
func (n *Network) Cut(a, b identity.NodeID) { n.setCut(a, b, known) }

// Swallow drops every packet between two nodes until Heal, while Connect still takes the path for good.
func (n *Network) Swallow(a, b identity.NodeID) { n.setCut(a, b, silent) }

// Heal ends a Cut or a Swallow.
func (n *Network) Heal(a, b identity.NodeID) { n.setCut(a, b, none) }

func (n *Network) setCut(a, b identity.NodeID, cut loss) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]identity.WireGuardKey{n.nodes[a], n.nodes[b]}] = cut
	n.cut[[2]identity.WireGuardKey{n.nodes[b], n.nodes[a]}] = cut
}

// toward returns the port at key if from is still in its place, and what happens to packets on the way.
func (n *Network) toward(from *Port, key identity.WireGuardKey) (*Port, loss) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ports[from.key] != from || n.ports[key] == nil {
		return nil, known
	}
	return n.ports[key], n.cut[[2]identity.WireGuardKey{from.key, key}]
}

type packet struct {
	from identity.WireGuardKey
	data []byte
}

// Port is one node's place on the network: a control.Network and its net.PacketConn in one.
type Port struct {
	net   *Network
	key   identity.WireGuardKey
	id    identity.NodeID
	queue chan packet

	once   sync.Once
	closed chan struct{}

	mu       sync.Mutex
	deadline time.Time
	changed  chan struct{} // closed and replaced when the deadline is set
	connects int
}

// Vanish takes the node off the network without a word, like kill -9.
func (p *Port) Vanish() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.net.ports[p.key] == p {
		delete(p.net.ports, p.key)
	}
}

// PacketConn returns the port itself.
func (p *Port) PacketConn() net.PacketConn { return p }

// Connect reports whether the node can be reached.
func (p *Port) Connect(ctx context.Context, id identity.NodeID) error {
	p.mu.Lock()
	p.connects++
	p.mu.Unlock()
	addr, ok := p.AddrOf(id)
	if _, loss := p.net.toward(p, addr.Key); !ok || loss == known {
		return fmt.Errorf("%w: %s", ErrUnreachable, id.Short())
	}
	return ctx.Err()
}

// Connects returns how often Connect was called.
func (p *Port) Connects() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connects
}

// AddrOf returns the address of a node that is or was attached.
func (p *Port) AddrOf(id identity.NodeID) (underlay.Addr, bool) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	key, ok := p.net.nodes[id]
	return underlay.Addr{Key: key}, ok
}

// WriteTo sends a packet; it gets lost when nobody is there, like any other.
func (p *Port) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addr.(underlay.Addr)
	if !ok {
		return 0, fmt.Errorf("controltest: write to %T", addr)
	}
	select {
	case <-p.closed:
		return 0, net.ErrClosed
	default:
	}
	if port, loss := p.net.toward(p, to.Key); loss == none {
		select {
		case port.queue <- packet{from: p.key, data: append([]byte(nil), b...)}:
		default:
		}
	}
	return len(b), nil
}

// ReadFrom returns the next packet.
func (p *Port) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		p.mu.Lock()
		deadline, changed := p.deadline, p.changed
		p.mu.Unlock()
		got, again, err := p.wait(deadline, changed)
		if err != nil {
			return 0, nil, err
		}
		if !again {
			return copy(b, got.data), underlay.Addr{Key: got.from}, nil
		}
	}
}

// wait waits for a packet, the deadline, or a change of it (again).
func (p *Port) wait(deadline time.Time, changed <-chan struct{}) (got packet, again bool, err error) {
	var late <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		late = t.C
	}
	select {
	case got = <-p.queue:
		return got, false, nil
	case <-late:
		return got, false, os.ErrDeadlineExceeded
	case <-changed:
		return got, true, nil
	case <-p.closed:
		return got, false, net.ErrClosed
	}
}

// Close ends reading and writing.
func (p *Port) Close() error {
	p.Vanish()
	p.once.Do(func() { close(p.closed) })
	return nil
}

// LocalAddr returns the port's own address.
func (p *Port) LocalAddr() net.Addr { return underlay.Addr{Key: p.key} }

// SetReadDeadline also wakes a read that waits.
func (p *Port) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// SetDeadline is SetReadDeadline: writes never wait.
func (p *Port) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

// SetReadBuffer does nothing; it keeps quic-go from complaining in tests that use it directly.
func (p *Port) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing.
func (p *Port) SetWriteBuffer(int) error { return nil }

// SetWriteDeadline does nothing.
func (p *Port) SetWriteDeadline(time.Time) error { return nil }

package underlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
)

const (
	// spareProof is how long the path of a spare socket gets to be validated.
	spareProof = 1500 * time.Millisecond
	// spareWatch is how often a spare socket looks whether its path still lives.
	spareWatch = 5 * time.Second
)

var errNoSpares = errors.New("underlay: this socket has no way to open another")

// spare is one more UDP socket, through whose hole in a NAT one node is reached. It is a [Link]. A goroutine reads it.
type spare struct {
	socket *Socket
	conn   net.PacketConn
	to     netip.AddrPort
	udp    *net.UDPAddr // to, for the socket
	asked  chan nat.TransactionID
	link   atomic.Pointer[netip.AddrPort] // nil: it has found nobody yet
	once   sync.Once
	closed chan struct{}
}

var _ Link = (*spare)(nil)

// Send sends packets to the one address that the socket is for.
func (p *spare) Send(packets [][]byte) error {
	for _, b := range packets {
		if _, err := p.conn.WriteTo(b, p.udp); err != nil {
			return err
		}
	}
	return nil
}

// Kind is [LinkSpare].
func (p *spare) Kind() LinkKind { return LinkSpare }

// Via is zero.
func (p *spare) Via() identity.NodeID { return identity.NodeID{} }

// Remote is the one address that the socket is for.
func (p *spare) Remote() netip.AddrPort { return p.to }

func (p *spare) close() {
	p.once.Do(func() {
		close(p.closed)
		p.conn.Close()
		if link := p.link.Load(); link != nil {
			p.socket.RemoveLink(*link)
		}
	})
}

// fanOut is one many-port probing. Its sockets share it.
type fanOut struct {
	socket *Socket
	node   *node
	key    nat.PairKey
	to     netip.AddrPort
	open   func() (net.PacketConn, error)

	mu     sync.Mutex
	found  bool
	winner chan *spare // capacity 1
}

// FanOut sends keyed checks of a member from that many extra UDP sockets, at most [nat.FanSocketsMax], to one address. The first socket
// that hears the member there becomes a path, and stays open as long as that lives; the others are closed. It takes five seconds at most.
// Errors: [ErrUnreachable] if nobody was heard, [ErrUnknownNode], [ErrNoCandidates], [ErrFanBusy], [ErrClosed], the context's, the
// system's if not one socket could be opened.
func (s *Socket) FanOut(ctx context.Context, id identity.NodeID, to netip.AddrPort, sockets int) error {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	n, done, err := s.beginFan(id)
	if err == nil {
		err = s.fanOut(ctx, n, to, nat.FanOutPlan(sockets))
		done()
	}
	if err != nil {
		return fmt.Errorf("underlay: fan out to %s at %s: %w", id.Short(), to, err)
	}
	return nil
}

func (s *Socket) fanOut(ctx context.Context, n *node, to netip.AddrPort, plan []nat.FanOutStep) error {
	key, err := n.pairKey()
	if err != nil {
		return err
	}
	if !s.mayTry(to) {
		return ErrNoCandidates
	}
	f := &fanOut{socket: s, node: n, key: key, to: to, open: s.spareOpener(), winner: make(chan *spare, 1)}
	if f.open == nil {
		return errNoSpares
	}
	var sockets []*spare
	var winner *spare
	defer func() {
		for _, p := range sockets {
			if p != winner {
				p.close()
			}
		}
	}()
	began := s.now()
	for _, step := range plan {
		if p, err := f.pause(ctx, began+step.At); err != nil {
			return err
		} else if p != nil {
			winner = p
			return f.keep(ctx, p)
		}
		if step.Socket == len(sockets) {
			p, openErr := f.spare()
			if openErr != nil { // out of descriptors, most likely: go on with what there is
				if err = openErr; len(sockets) == 0 {
					return err
				}
				continue
			}
			sockets = append(sockets, p)
		}
		if step.Socket < len(sockets) {
			f.check(sockets[step.Socket])
		}
	}
	p, err := f.pause(ctx, s.now()+fanLinger)
	switch {
	case err != nil:
		return err
	case p == nil:
		return ErrUnreachable
	}
	winner = p
	return f.keep(ctx, p)
}

// spareOpener returns what opens a socket, nil if nothing does.
func (s *Socket) spareOpener() func() (net.PacketConn, error) {
	switch b := s.bind.(type) {
	case interface {
		OpenSpare() (net.PacketConn, error)
	}:
		if s.cfg.OpenSpare == nil {
			return b.OpenSpare
		}
	case *udpBind:
		if s.cfg.OpenSpare == nil {
			return func() (net.PacketConn, error) { return net.ListenPacket("udp", ":0") }
		}
	}
	return s.cfg.OpenSpare
}

// spare opens a socket and begins to read it.
func (f *fanOut) spare() (*spare, error) {
	c, err := f.open()
	if err != nil {
		return nil, err
	}
	p := &spare{
		socket: f.socket, conn: c, to: f.to, udp: net.UDPAddrFromAddrPort(f.to),
		asked: make(chan nat.TransactionID, 2), closed: make(chan struct{}),
	}
	if !f.socket.pipes.goRun(func() { f.read(p) }) {
		c.Close()
		return nil, ErrClosed
	}
	return p, nil
}

// check sends a check from a socket. Its transactions are the socket's own.
func (f *fanOut) check(p *spare) {
	var id nat.TransactionID
	if f.socket.fillRandom(id[:]) != nil {
		return
	}
	select {
	case p.asked <- id:
	default:
		return // the plan asks for two
	}
	f.socket.stats.checks.Add(1)
	_ = p.Send([][]byte{nat.CheckRequest{Transaction: id, Sender: f.socket.public, Key: &f.key, Opening: true}.Encode()})
}

// read takes in what arrives from the one address, until the socket closes.
func (f *fanOut) read(p *spare) {
	defer p.close()
	buf := make([]byte, deliverSmall)
	var asked []nat.TransactionID
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if udpAddrPort(from) != p.to {
			f.socket.stats.drop(dropUnasked, 1)
			continue
		}
		if link := p.link.Load(); link != nil {
			f.socket.Deliver(*link, buf[:n])
			continue
		}
		for len(p.asked) > 0 {
			asked = append(asked, <-p.asked)
		}
		if f.heard(buf[:n], asked) && f.promote(p) {
			buf = append(make([]byte, 0, deliverLarge), buf[:n]...)[:deliverLarge]
			f.socket.Deliver(*p.link.Load(), buf[:n]) // a request gets its answer; a response was to a transaction of ours and is dropped
		}
	}
}

// heard reports whether a packet is the node's: a request, or the answer to a check of ours, under the key of the pair.
func (f *fanOut) heard(b []byte, asked []nat.TransactionID) bool {
	m, err := nat.Parse(b)
	if err != nil || !m.HasSender || m.Sender != f.node.key || m.Verify(f.key) != nil {
		return false
	}
	for _, id := range asked {
		if m.Kind == nat.Response && m.Transaction == id {
			return true
		}
	}
	return m.Kind == nat.Request && m.Keyed
}

// promote makes a link of the first socket that has heard the node, and has that checked.
func (f *fanOut) promote(p *spare) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.found {
		return false
	}
	link, err := f.socket.AddLink(p)
	if err != nil {
		return false
	}
	f.found = true
	p.link.Store(&link)
	f.winner <- p
	return true
}

// pause waits until an instant, or for a socket that has heard the node.
func (f *fanOut) pause(ctx context.Context, until instant) (*spare, error) {
	timer := time.NewTimer(max(until-f.socket.now(), 0))
	defer timer.Stop()
	select {
	case p := <-f.winner:
		return p, nil
	case <-timer.C:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.socket.done:
		return nil, ErrClosed
	}
}

// keep has the new link checked, waits until it is a path, and keeps it as long as that lives.
func (f *fanOut) keep(ctx context.Context, p *spare) error {
	s, link := f.socket, *p.link.Load()
	changed, cancel := s.Watch()
	defer cancel()
	reply := make(chan answer, 3)
	for range 3 {
		if err := s.check(f.node, link, true, reply); err != nil {
			break
		}
		timer := time.NewTimer(spareProof / 3)
		select {
		case <-reply:
		case <-timer.C:
		case <-changed: // the answer to another's check, perhaps
		case <-ctx.Done():
		case <-s.done:
		}
		timer.Stop()
		if s.sources.get(link) != nil && s.pipes.goRun(p.watch) {
			return nil
		}
	}
	p.close()
	return ErrUnreachable
}

// watch closes the socket when its path is gone, or with everything.
func (p *spare) watch() {
	defer p.close()
	tick := time.NewTicker(spareWatch)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if p.socket.sources.get(*p.link.Load()) == nil {
				return
			}
		case <-p.closed:
			return
		case <-p.socket.done:
			return
		}
	}
}

// udpAddrPort returns the address of a packet, IPv4 always in its plain form.
func udpAddrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		ap := u.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return tcpAddr(a)
}

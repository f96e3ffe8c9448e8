package underlay

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// A pipe is a TCP connection that carries packets as UDP would, for where UDP does not pass. It is a [Link]: everything above it, the
// keyed checks too, works on it unchanged.
//
// TLS is there to pass middleboxes that let nothing else out, and to hide what we speak from who only listens. It proves nothing: the
// server's certificate is made at its start and thrown away with it, the client names no server and verifies none. Who sits at the
// other end, the keyed checks inside prove end to end, as on UDP; and what is worth hiding inside has a key of its own. Somebody in the
// middle who ends the TLS on both sides sees what somebody on a UDP path sees.
//
// Latency before throughput, as there is TCP in the tunnel on top of TCP underneath: the kernel gets little to send ahead of time
// (pipe_linux.go), what waits here waits for pipeAgeMax at most, and is dropped then.

const (
	// pipeHandshakeTimeout bounds the TLS handshake: three round trips and their repetition on a bad line.
	pipeHandshakeTimeout = 5 * time.Second
	// pipeDialTimeout bounds the TCP and the TLS handshake together.
	pipeDialTimeout = 8 * time.Second
	// pipeWriteTimeout is how long one record may take. The path checks find a stalled pipe long before; this ends it.
	pipeWriteTimeout = 10 * time.Second
	// pipeSendBuffer is what the kernel may hold that it has not sent yet: two records, 26 ms at 10 Mbit/s.
	pipeSendBuffer = 2 * pipeRecord
)

// pipeKeepAlive finds a peer that is gone while no packet travels: a probe a minute, 120 KB a day.
var pipeKeepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// pipe is one such connection. Two goroutines serve it, a reader and a writer; close ends both.
type pipe struct {
	// Constant once it is open.
	socket *Socket
	raw    net.Conn
	conn   *tls.Conn
	remote netip.AddrPort
	dialed bool
	link   netip.AddrPort
	born   instant

	queue  frameQueue
	once   sync.Once
	closed chan struct{}

	member atomic.Bool // a member has proven to sit at the other end

	// The keeper's.
	proven  instant       // when it last was some node's; 0: never
	idle    instant       // since when its node has had a better path; 0: it has none
	recheck instant       // when UDP is to be tried again; 0: not yet settled
	gap     time.Duration // until the next time
}

var _ Link = (*pipe)(nil)

// Send queues packets; what finds no room is dropped.
func (p *pipe) Send(packets [][]byte) error {
	select {
	case <-p.closed:
		return net.ErrClosed
	default:
	}
	p.socket.stats.drop(dropQueueFull, p.queue.put(packets, p.socket.now()))
	return nil
}

// Kind is [LinkPipe].
func (p *pipe) Kind() LinkKind { return LinkPipe }

// Via is zero: a pipe leads straight to its node.
func (p *pipe) Via() identity.NodeID { return identity.NodeID{} }

// Remote is the TCP address of the other end.
func (p *pipe) Remote() netip.AddrPort { return p.remote }

// start makes a link of the connection and begins to carry packets.
func (p *pipe) start() error {
	p.queue, p.closed, p.born = newFrameQueue(), make(chan struct{}), p.socket.now()
	link, err := p.socket.AddLink(p)
	if err != nil {
		return err
	}
	p.link = link
	if !p.socket.pipes.enter(p) {
		p.socket.RemoveLink(link)
		return ErrClosed
	}
	return nil
}

// close ends the pipe. It sends no TLS alert, which could block on what a dead connection still holds.
func (p *pipe) close(why error) {
	p.once.Do(func() {
		close(p.closed)
		p.raw.Close()
		p.socket.pipes.leave(p)
		src := p.socket.sources.get(p.link)
		p.socket.RemoveLink(p.link)
		if src != nil && p.dialed {
			_ = p.socket.command(func(o *owner) { o.redial(src.node) }) // fails only when the socket closes
		}
		p.socket.log.Debug("pipe closed", "addr", p.remote, "dialed", p.dialed, "err", why)
	})
}

// read delivers packets until the connection ends.
func (p *pipe) read() {
	r, discard := bufio.NewReaderSize(p.conn, pipeRecord), 0
	for {
		b, err := readFrame(r, &discard)
		if err != nil {
			if errors.Is(err, errFrame) {
				p.socket.stats.drop(dropMalformed, 1)
			}
			p.close(err)
			return
		}
		p.socket.Deliver(p.link, b)
	}
}

// write sends what is queued, as much as fits at a time, until the pipe closes.
func (p *pipe) write() {
	var out []byte
	for {
		var dropped int
		out, dropped = p.queue.take(out[:0], p.socket.now())
		p.socket.stats.drop(dropStale, dropped)
		if len(out) == 0 {
			out = nil // the memory of a pipe that rests
			select {
			case <-p.queue.filled:
				continue
			case <-p.closed:
				return
			}
		}
		_ = p.raw.SetWriteDeadline(time.Now().Add(pipeWriteTimeout)) // fails only on a closed connection, as the write will
		if _, err := p.conn.Write(out); err != nil {
			p.close(err)
			return
		}
	}
}

// pipeTLS makes the configuration for both roles.
func (s *Socket) pipeTLS() (*tls.Config, error) {
	seed := make([]byte, ed25519.SeedSize)
	if err := s.fillRandom(seed); err != nil {
		return nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // none: RFC 5280 §4.1.2.5
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("underlay: make TLS certificate for pipes: %w", err)
	}
	return &tls.Config{
		Rand:                   socketRand{s},
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		// On purpose, see above: no authority knows a node by its address, and nothing is believed because of TLS.
		InsecureSkipVerify: true,
		// The client hello offers the library's usual groups, so that it looks like others. Only the hybrid one will do: what
		// TLS hides stays hidden from who records it for a quantum computer.
		VerifyConnection: func(c tls.ConnectionState) error {
			if c.CurveID != tls.X25519MLKEM768 {
				return fmt.Errorf("underlay: TLS agreed on %v, not on a hybrid key exchange", c.CurveID)
			}
			return nil
		},
	}, nil
}

// socketRand reads the socket's randomness.
type socketRand struct{ *Socket }

func (r socketRand) Read(b []byte) (int, error) {
	if err := r.fillRandom(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

var _ io.Reader = socketRand{}

// handshake turns a TCP connection into a pipe that is not started yet. It takes pipeHandshakeTimeout at most; the connection is closed
// if it fails.
func (s *Socket) handshake(ctx context.Context, raw net.Conn, dialed bool) (*pipe, error) {
	ctx, cancel := context.WithTimeout(ctx, pipeHandshakeTimeout)
	defer cancel()
	tuneTCP(raw)
	role := tls.Server
	if dialed {
		role = tls.Client
	}
	c := role(raw, s.pipes.tls)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return &pipe{socket: s, raw: raw, conn: c, remote: tcpAddr(raw.RemoteAddr()), dialed: dialed}, nil
}

// tcpAddr returns an address of a connection, IPv4 always in its plain form.
func tcpAddr(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	if t, ok := a.(*net.TCPAddr); ok {
		ap = t.AddrPort()
	} else {
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// tuneTCP sets the connection's options; one in memory has none.
func tuneTCP(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	// None of these can fail on an open connection in a way that would be worth ending it.
	_ = t.SetNoDelay(true)
	_ = t.SetKeepAliveConfig(pipeKeepAlive)
	limitUnsent(t)
}

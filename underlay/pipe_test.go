package underlay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// pipeWorld is two nodes 20 ms apart, and a switch for the UDP between them. The second listens for pipes.
type pipeWorld struct {
	underlaytest.Network
	blocked atomic.Bool
	a, b    *end
	conns   struct { // that a has dialed
		sync.Mutex
		all []net.Conn
	}
}

func newPipeWorld(t *testing.T) *pipeWorld {
	w := &pipeWorld{}
	w.Set(underlaytest.Hooks{
		Latency: func(_, _ netip.AddrPort) time.Duration { return 10 * time.Millisecond },
		Drop:    func(_, _ netip.AddrPort, _ []byte) bool { return w.blocked.Load() },
	})
	h := w.Host(nodeA.Addr())
	w.a = open(t, 0, Config{Bind: h, Port: 51820, DialTCP: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		c, err := h.DialTCP(ctx, to)
		if err == nil {
			w.conns.Lock()
			defer w.conns.Unlock()
			w.conns.all = append(w.conns.all, c)
		}
		return c, err
	}})
	w.b = open(t, 1, Config{Bind: w.Host(nodeB.Addr()), Port: 51820, Pipes: true})
	if !w.b.PipesListening() || w.a.PipesListening() {
		t.Fatal("only the second listens")
	}
	return w
}

func (w *pipeWorld) close() {
	w.a.Close()
	w.b.Close()
}

// dialed returns how often a has dialed.
func (w *pipeWorld) dialed() int {
	w.conns.Lock()
	defer w.conns.Unlock()
	return len(w.conns.all)
}

// pipesOpen returns how many pipes a node has.
func (e *end) pipesOpen() int {
	e.pipes.mu.Lock()
	defer e.pipes.mu.Unlock()
	return len(e.pipes.open)
}

// inUse sends tunnel packets to o and back, as a stream would, for as long.
func (e *end) inUse(o *end, long time.Duration) {
	for until := time.Now().Add(long); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		_ = e.sendTunnel(o, "there")
		_ = o.sendTunnel(e, "back")
	}
}

func TestMembersMeetOverAPipeWhereUDPIsBlocked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		w.blocked.Store(true)
		w.a.knows(w.b)
		w.b.knows(w.a)
		began := time.Now()
		w.a.mustConnect(w.b)
		if took := time.Since(began); took > pipeAfter+200*time.Millisecond {
			t.Errorf("took %v", took)
		}
		time.Sleep(100 * time.Millisecond)
		for _, e := range []*end{w.a, w.b} {
			o := w.b
			if e == w.b {
				o = w.a
			}
			p, ok := e.Path(o.id())
			if !ok || p.Kind != PathDirect || p.Transport != "tcp" || p.Endpoint.Addr() != o.host1() {
				t.Errorf("path %+v", p)
			}
		}
		dev := attach(t, w.b.Socket)
		defer dev.down()
		if err := w.a.sendTunnel(w.b, "hello"); err != nil {
			t.Fatal(err)
		}
		if got := <-dev.got; got != w.a.id().String()+" hello............" {
			t.Errorf("tunnel packet %q", got)
		}
		quicPing(t, w.a, w.b)
		quicPing(t, w.b, w.a)
		if err := w.b.SendGossip(w.a.id(), []byte("rumour"), true); err != nil {
			t.Fatal(err)
		}
		if g := <-w.a.Gossip(); g.FromID != w.b.id() {
			t.Errorf("gossip %+v", g)
		}
		if rtt, err := w.a.Probe(t.Context(), w.b.id()); err != nil || rtt != 20*time.Millisecond {
			t.Errorf("probe %v, %v", rtt, err)
		}

		// UDP comes back: it takes over, and the pipe goes.
		w.blocked.Store(false)
		w.a.inUse(w.b, udpRetryMin+5*time.Second)
		if p, _ := w.a.Path(w.b.id()); p.Transport != "udp" || len(p.Standby) != 1 {
			t.Errorf("with UDP back: %+v", p)
		}
		w.a.inUse(w.b, pipeIdleLife+5*time.Second)
		if w.a.pipesOpen()+w.b.pipesOpen() != 0 {
			t.Error("the idle pipe is still open")
		}
		if p, _ := w.a.Path(w.b.id()); p.Transport != "udp" || w.dialed() != 1 {
			t.Errorf("without the pipe: %+v, %d dials", p, w.dialed())
		}
	})
}

// host1 is the end's address on the network.
func (e *end) host1() netip.Addr { return (*e.local.Load())[0] }

func TestNoPipeIsOpenedWhereUDPAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		w.a.knows(w.b)
		w.b.knows(w.a)
		w.a.mustConnect(w.b)
		w.a.inUse(w.b, 30*time.Second)
		if w.dialed() != 0 {
			t.Errorf("%d dials", w.dialed())
		}
	})
}

func TestAJoinerMakesContactOverAPipe(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		w.blocked.Store(true)
		began := time.Now()
		addr, err := w.a.Contact(t.Context(), nodeB)
		if err != nil || addr.Key != w.b.key.Public().WireGuard {
			t.Fatal(addr, err)
		}
		if took := time.Since(began); took > pipeAfter+250*time.Millisecond {
			t.Errorf("took %v", took)
		}
		// Stranger that it is, it has what a stranger has over UDP: QUIC, to enrol, and nothing else.
		dev := attach(t, w.b.Socket)
		defer dev.down()
		pc := w.a.PacketConn()
		for range 20 { // an enrolment that takes its time
			if _, err := pc.WriteTo([]byte{0xc0, 1}, addr); err != nil {
				t.Fatal(err)
			}
			if n, _, err := w.b.PacketConn().ReadFrom(make([]byte, 10)); n != 2 {
				t.Fatal(n, err)
			}
			_ = w.a.nodes.get(addr.Key).send([][]byte{wireGuard("sneaky")}, data)
			time.Sleep(time.Second)
		}
		if len(dev.got) != 0 {
			t.Error("a stranger's tunnel packet was accepted")
		}
		if w.b.Stats().Strangers != 1 || w.b.pipesOpen() != 1 {
			t.Errorf("%d strangers, %d pipes", w.b.Stats().Strangers, w.b.pipesOpen())
		}
		// It is forgotten as over UDP, and its pipe with it.
		time.Sleep(strangerQUICLife + strangerLife + 2*pipeUnprovenLife)
		if w.b.Stats().Strangers != 0 || w.b.pipesOpen()+w.a.pipesOpen() != 0 {
			t.Errorf("%d strangers, %d pipes at last", w.b.Stats().Strangers, w.b.pipesOpen())
		}
	})
}

func TestContactOverNothingSaysSo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		began := time.Now()
		if _, err := w.a.Contact(t.Context(), netip.MustParseAddrPort("192.0.2.77:51820")); !errors.Is(err, ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody there: %v", err)
		}
		if took := time.Since(began); took != contactTimeout {
			t.Errorf("gave up after %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.a.Contact(ctx, netip.MustParseAddrPort("192.0.2.77:51820")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a deadline: %v", err)
		}
	})
}

func TestABrokenPipeIsDialedAgainWhileInUse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		w.blocked.Store(true)
		w.a.knows(w.b)
		w.b.knows(w.a)
		w.a.mustConnect(w.b)
		go w.a.inUse(w.b, 20*time.Second)
		time.Sleep(5 * time.Second)
		w.conns.all[0].Close()
		broken := time.Now()
		for {
			synctest.Wait()
			if p, _ := w.a.Path(w.b.id()); w.dialed() == 2 && p.Transport == "tcp" {
				break
			}
			time.Sleep(5 * time.Millisecond)
			if time.Since(broken) > 10*time.Second {
				t.Fatal("no path again")
			}
		}
		if took := time.Since(broken); took > 300*time.Millisecond {
			t.Errorf("the gap was %v", took)
		}
		time.Sleep(20 * time.Second)
		if w.a.pipesOpen() != 1 || w.b.pipesOpen() != 1 {
			t.Errorf("%d and %d pipes open", w.a.pipesOpen(), w.b.pipesOpen())
		}
	})
}

func TestDialsThatFailBackOff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		w.blocked.Store(true)
		w.a.knows(w.b)
		w.b.Close()
		dials := 0
		dial := w.a.pipes.dialTCP
		w.a.pipes.dialTCP = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			dials++
			return dial(ctx, to)
		}
		for range 600 {
			_ = w.a.sendTunnel(w.b, "anybody?")
			time.Sleep(time.Second)
		}
		if dials < 10 || dials > 20 { // 1, 2, 4, … 32 s, then one a minute
			t.Errorf("%d dials in ten minutes", dials)
		}
	})
}

func TestDialPipeSharesWhatIsThere(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		w.blocked.Store(true)
		links := make(chan netip.AddrPort, 3)
		for range 2 {
			go func() {
				l, err := w.a.DialPipe(t.Context(), nodeB)
				if err != nil {
					t.Error(err)
				}
				links <- l
			}()
		}
		first, second := <-links, <-links
		third, err := w.a.DialPipe(t.Context(), nodeB)
		if first != second || first != third || err != nil || w.dialed() != 1 {
			t.Errorf("%v, %v, %v: %v", first, second, third, err)
		}
		if _, err := w.a.DialPipe(t.Context(), netip.MustParseAddrPort("192.0.2.2:1")); err == nil {
			t.Error("a port where nobody listens")
		}
		if _, err := w.a.DialPipe(t.Context(), nodeA); !errors.Is(err, ErrNoCandidates) {
			t.Errorf("ourselves: %v", err)
		}
		w.b.knows(w.a)
		w.a.knows(w.b)
		if err := w.a.Try(w.b.id(), []netip.AddrPort{first}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if p, _ := w.a.Path(w.b.id()); p.Transport != "tcp" {
			t.Errorf("path %+v", p)
		}
	})
}

// TestSendingToAStalledPipeNeverWaits fills a pipe whose other end does not read.
func TestSendingToAStalledPipeNeverWaits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newPipeWorld(t)
		defer w.close()
		l, err := w.Host(victim.Addr()).ListenTCP(victim)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var server net.Conn
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			server = tls.Server(c, w.b.pipes.tls)
			_ = server.(*tls.Conn).Handshake()
		}()
		link, err := w.a.DialPipe(t.Context(), victim)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		defer server.Close()
		ep := w.a.links.get(link)
		packets := slices.Repeat([][]byte{make([]byte, 1400)}, 128)
		began := time.Now()
		for range 20 {
			if err := w.a.transmit(packets, ep); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("sending took %v", took)
		}
		if got := w.a.Stats().Dropped["queue_full"]; got < 2000 {
			t.Errorf("%d packets were dropped", got)
		}
		time.Sleep(pipeWriteTimeout + pipeKeepInterval)
		if w.a.pipesOpen() != 0 {
			t.Error("the stalled pipe is still open")
		}
		if err := w.a.transmit(packets, ep); err == nil {
			t.Error("sent over a pipe that is gone")
		}
	})
}

// TestPipesOnRealSockets runs two nodes over loopback and the system's TCP. Neither knows an address of the other but the pipe.
func TestPipesOnRealSockets(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			addr := netip.MustParseAddr(ip)
			if l, err := net.Listen("tcp", net.JoinHostPort(ip, "0")); err != nil {
				t.Skip(err)
			} else {
				l.Close()
			}
			a := open(t, 0, Config{Listen: []netip.Addr{addr}})
			defer a.Close()
			b := open(t, 1, Config{Listen: []netip.Addr{addr}, Pipes: true})
			defer b.Close()
			if !b.PipesListening() {
				t.Skip("the TCP port is taken")
			}
			at := netip.AddrPortFrom(addr, b.Port())
			link, err := a.DialPipe(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			key, err := a.contact(t.Context(), link)
			if err != nil || key.Key != b.key.Public().WireGuard {
				t.Fatal(key, err)
			}
			// Members now, with no path but the pipe.
			a.table.Admit(&certificate.Member{Public: *b.key.Public(), Name: "n", NotBefore: time.Unix(1, 0)}, []byte{1})
			b.table.Admit(&certificate.Member{Public: *a.key.Public(), Name: "n", NotBefore: time.Unix(1, 0)}, []byte{1})
			dev := attach(t, b.Socket)
			defer dev.down()
			if err := a.sendTunnel(b, "hello"); err != nil {
				t.Fatal(err)
			}
			if got := <-dev.got; got != a.id().String()+" hello............" {
				t.Errorf("tunnel packet %q", got)
			}
			quicPing(t, a, b)
			quicPing(t, b, a)
			for _, listen := range []string{"127.0.0.2", "::1"} { // Listen is respected: nothing at other addresses
				if listen == ip {
					continue
				}
				if c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(listen), b.Port()).String()); err == nil {
					c.Close()
					t.Errorf("listens at %s too", listen)
				}
			}
		})
	}
}

func TestATakenTCPPortIsNoReasonNotToRun(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	key := keys[0]
	s, err := Open(Config{Key: key, Peers: peer.NewTable(key.ID()), Port: port, Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Pipes: true})
	if errors.Is(err, ErrPortInUse) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.PipesListening() {
		t.Error("says that it listens on a port that is taken")
	}
}

package underlay

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// keys are made once: a hybrid key pair takes a while.
var keys = func() (out [4]*identity.Key) {
	for i := range out {
		k, err := identity.Generate(rand.Reader)
		if err != nil {
			panic(err)
		}
		out[i] = k
	}
	return out
}()

// end is one node under test.
type end struct {
	t     testing.TB
	key   *identity.Key
	table *peer.Table
	host  *underlaytest.Host
	*Socket
	seq uint64
}

func testLog(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("test", t.Name())
}

// open makes a node of keys[i] with the Bind; the test closes it.
func open(t testing.TB, i int, cfg Config) *end {
	t.Helper()
	e := &end{t: t, key: keys[i], table: peer.NewTable(keys[i].ID())}
	cfg.Key, cfg.Peers, cfg.Log = e.key, e.table, testLog(t).With("node", i)
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.Socket = s
	return e
}

// onNetwork makes a node with an address on a network in memory.
func onNetwork(t testing.TB, w *underlaytest.Network, i int, addrs ...string) *end {
	t.Helper()
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	h := w.Host(list...)
	e := open(t, i, Config{Bind: h, Port: 51820})
	e.host = h
	return e
}

// knows admits the others as members, with their local endpoints as records.
func (e *end) knows(others ...*end) {
	for _, o := range others {
		e.table.Admit(&certificate.Member{Public: *o.key.Public(), Name: "n", NotBefore: time.Unix(1, 0)}, []byte{1})
		e.hears(o, o.LocalEndpoints()...)
	}
}

// hears gives e a new record of o.
func (e *end) hears(o *end, addrs ...netip.AddrPort) {
	o.seq++
	r := peer.Record{ID: o.key.ID(), Sequence: o.seq}
	for _, a := range addrs {
		r.Endpoints = append(r.Endpoints, peer.Endpoint{Addr: a, Kind: peer.Local})
	}
	e.table.Update(r)
}

func (e *end) id() identity.NodeID { return e.key.ID() }

func (e *end) mustConnect(o *end) {
	e.t.Helper()
	if err := e.Connect(e.t.Context(), o.id()); err != nil {
		e.t.Fatal(err)
	}
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

// device reads a socket's Bind as WireGuard would.
type device struct {
	t     testing.TB
	bind  conn.Bind
	got   chan string // "sender payload"
	ended chan struct{}
	funcs int
}

func attach(t testing.TB, s *Socket) *device {
	t.Helper()
	d := &device{t: t, bind: s.Bind(), got: make(chan string, 4096)}
	d.up()
	return d
}

func (d *device) up() {
	d.t.Helper()
	funcs, _, err := d.bind.Open(0)
	if err != nil {
		d.t.Fatal(err)
	}
	d.ended, d.funcs = make(chan struct{}, len(funcs)), len(funcs)
	for _, f := range funcs {
		go d.read(f)
	}
}

func (d *device) read(f conn.ReceiveFunc) {
	n := d.bind.BatchSize()
	bufs, sizes, eps := make([][]byte, n), make([]int, n), make([]conn.Endpoint, n)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	for {
		k, err := f(bufs, sizes, eps)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				panic(err)
			}
			d.ended <- struct{}{}
			return
		}
		for i := range k {
			if sizes[i] > 0 {
				d.got <- eps[i].DstToString() + " " + string(bufs[i][16:sizes[i]])
			}
		}
	}
}

// down closes the Bind and waits for the readers, as Device.Close does.
func (d *device) down() {
	d.t.Helper()
	if err := d.bind.Close(); err != nil {
		d.t.Fatal(err)
	}
	for range d.funcs {
		select {
		case <-d.ended:
		case <-time.After(10 * time.Second):
			d.t.Fatal("a ReceiveFunc did not return after Close")
		}
	}
}

// wireGuard makes a transport packet with a payload.
func wireGuard(payload string) []byte {
	b := make([]byte, 16, 64)
	b[0] = wireGuardTransport
	b = append(b, payload...)
	for len(b) < wireGuardMin+1 {
		b = append(b, '.')
	}
	return b
}

func (e *end) sendTunnel(o *end, payload string) error {
	ep, err := e.Bind().ParseEndpoint(o.id().String())
	if err != nil {
		return err
	}
	return e.Bind().Send([][]byte{wireGuard(payload)}, ep)
}

func TestMembersFindEachOther(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 10 * time.Millisecond }})
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)

		began := time.Now()
		a.mustConnect(b)
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("connecting took %v, want two round trips of 20ms at most", took)
		}
		p, ok := a.Path(b.id())
		if !ok || p.Kind != PathDirect || p.Endpoint != netip.MustParseAddrPort("192.0.2.2:51820") || p.MTU != 1420 {
			t.Errorf("path %+v", p)
		}
		time.Sleep(10 * time.Millisecond) // our answer to its challenge is on the way
		synctest.Wait()
		// The other side has a path without having asked.
		if p, ok := b.Path(a.id()); !ok || p.Kind != PathDirect {
			t.Errorf("the other side's path %+v, %v", p, ok)
		}
		if rtt, err := a.Probe(t.Context(), b.id()); err != nil || rtt != 20*time.Millisecond {
			t.Errorf("probe %v, %v", rtt, err)
		}
		if got := a.Observed()[netip.MustParseAddrPort("192.0.2.1:51820")]; got != 1 {
			t.Errorf("observed %v", a.Observed())
		}

		// Everything travels.
		dev := attach(t, b.Socket)
		defer dev.down()
		if err := a.sendTunnel(b, "hello"); err != nil {
			t.Fatal(err)
		}
		if got := <-dev.got; got != a.id().String()+" hello............" {
			t.Errorf("tunnel packet %q", got)
		}
		if err := a.SendGossip(b.id(), []byte("rumour")); err != nil {
			t.Fatal(err)
		}
		if g := <-b.Gossip(); string(g.Data) != "rumour" || g.FromID != a.id() {
			t.Errorf("gossip %+v", g)
		}
		quicPing(t, a, b)
	})
}

// quicPing sends a QUIC packet from a to b and looks at how it arrives.
func quicPing(t *testing.T, a, b *end) {
	t.Helper()
	from, to := a.PacketConn(), b.PacketConn()
	addr, ok := a.AddrOf(b.id())
	if !ok {
		t.Fatal("no address of the member")
	}
	if _, err := from.WriteTo([]byte{0xc0, 1, 2}, addr); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, who, err := to.ReadFrom(buf)
	if err != nil || n != 3 || who != net.Addr(Addr{a.key.Public().WireGuard}) {
		t.Errorf("QUIC packet of %d bytes from %v: %v", n, who, err)
	}
}

func TestAJoinerSpeaksToAMemberItHasNeverMet(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		joiner, member := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer joiner.Close()
		defer member.Close()

		addr, err := joiner.Contact(t.Context(), netip.MustParseAddrPort("192.0.2.2:51820"))
		if err != nil {
			t.Fatal(err)
		}
		if addr.Key != member.key.Public().WireGuard {
			t.Error("learned another key")
		}
		pc, theirs := joiner.PacketConn(), member.PacketConn()
		if _, err := pc.WriteTo([]byte{0xc0}, addr); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		n, from, err := theirs.ReadFrom(buf)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		if _, err := theirs.WriteTo([]byte{0xc1, 0}, from); err != nil {
			t.Fatal(err)
		}
		if n, _, err = pc.ReadFrom(buf); err != nil || n != 2 {
			t.Fatal(n, err)
		}

		// It is still a stranger: no tunnel packet of it gets to the device.
		dev := attach(t, member.Socket)
		defer dev.down()
		n2 := joiner.nodes.get(addr.Key)
		_ = n2.send([][]byte{wireGuard("sneaky")}, true)
		synctest.Wait()
		if len(dev.got) != 0 {
			t.Error("a stranger's tunnel packet was accepted")
		}
		// Admission makes it a member's at once, without another check.
		member.knows(joiner)
		_ = n2.send([][]byte{wireGuard("welcome")}, true)
		synctest.Wait()
		if len(dev.got) != 1 {
			t.Error("the admitted member's tunnel packet was dropped")
		}
	})
}

func TestStrangersAreForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		joiner, member := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer joiner.Close()
		defer member.Close()
		if _, err := joiner.Contact(t.Context(), netip.MustParseAddrPort("192.0.2.2:51820")); err != nil {
			t.Fatal(err)
		}
		if got := member.Stats().Strangers; got != 1 {
			t.Fatalf("%d strangers", got)
		}
		time.Sleep(strangerLife + 2*sweepInterval)
		synctest.Wait()
		if got := member.Stats(); got.Strangers != 0 || member.sources.get(netip.MustParseAddrPort("192.0.2.1:51820")) != nil {
			t.Errorf("still %d strangers", got.Strangers)
		}
	})
}

func TestConnectSaysWhatIsWrong(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		ctx := t.Context()
		if err := a.Connect(ctx, b.id()); !errors.Is(err, ErrUnknownNode) {
			t.Errorf("a node nobody knows: %v", err)
		}
		a.knows(b)
		a.hears(b)
		if err := a.Connect(ctx, b.id()); !errors.Is(err, ErrNoCandidates) {
			t.Errorf("a node without addresses: %v", err)
		}
		b.Close()
		a.Hint(b.id(), []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:51820")})
		began := time.Now()
		if err := a.Connect(ctx, b.id()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("a node that is down: %v", err)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("gave up after %v", took)
		}
		soon, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := a.Connect(soon, b.id()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a deadline: %v", err)
		}
		if _, err := a.Contact(ctx, netip.MustParseAddrPort("192.0.2.1:51820")); !errors.Is(err, ErrNoCandidates) {
			t.Errorf("ourselves: %v", err)
		}
		done := make(chan error)
		go func() { done <- a.Connect(ctx, b.id()) }()
		synctest.Wait()
		a.Close()
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("closed meanwhile: %v", err)
		}
	})
}

func TestPortInUseNamesThePort(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Skip(err)
	}
	defer c.Close()
	port := uint16(c.LocalAddr().(*net.UDPAddr).Port)
	_, err = Open(Config{Key: keys[0], Peers: peer.NewTable(keys[0].ID()), Port: port})
	var pe *PortError
	if !errors.Is(err, ErrPortInUse) || !errors.As(err, &pe) || pe.Port != port {
		t.Errorf("got %v", err)
	}
}

// TestRealSockets runs two nodes over loopback and the operating system's sockets, IPv4 and IPv6.
func TestRealSockets(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			addr := netip.MustParseAddr(ip)
			if l, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0")); err != nil {
				t.Skip(err)
			} else {
				l.Close()
			}
			a := open(t, 0, Config{Listen: []netip.Addr{addr}})
			defer a.Close()
			b := open(t, 1, Config{Listen: []netip.Addr{addr}})
			defer b.Close()
			a.knows(b)
			b.knows(a)
			a.mustConnect(b)
			dev := attach(t, b.Socket)
			for i := range 3 { // the device comes and goes; the socket stays
				waitFor(t, "tunnel packet", func() bool {
					if err := a.sendTunnel(b, "x"); err != nil {
						t.Fatal(err)
					}
					select {
					case <-dev.got:
						return true
					case <-time.After(100 * time.Millisecond):
						return false
					}
				})
				quicPing(t, a, b)
				dev.down()
				if _, err := a.Probe(t.Context(), b.id()); err != nil {
					t.Fatalf("round %d: the pump did not take over: %v", i, err)
				}
				dev.up()
			}
			dev.down()
		})
	}
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 50 {
		if ok() {
			return
		}
	}
	t.Fatal("no " + what)
}

package underlay

import (
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

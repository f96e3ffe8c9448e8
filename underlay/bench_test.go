package underlay

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
)

// stillBind is a conn.Bind that allocates nothing: every read returns the same batch, every write succeeds.
type stillBind struct {
	once  sync.Once
	done  chan struct{}
	ready chan struct{} // closed: reads return packets
	from  []conn.Endpoint
	data  [][]byte
}

func (b *stillBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	return []conn.ReceiveFunc{func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case <-b.ready:
		case <-b.done:
			return 0, net.ErrClosed
		}
		for i := range bufs {
			sizes[i] = copy(bufs[i], b.data[i%len(b.data)])
			eps[i] = b.from[i%len(b.from)]
		}
		return len(bufs), nil
	}}, 51820, nil
}

func (b *stillBind) Close() error                       { b.once.Do(func() { close(b.done) }); return nil }
func (b *stillBind) SetMark(uint32) error               { return nil }
func (b *stillBind) Send([][]byte, conn.Endpoint) error { return nil }
func (b *stillBind) BatchSize() int                     { return conn.IdealBatchSize }
func (b *stillBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	return &conn.StdNetEndpoint{AddrPort: a}, err
}

// hot sets a socket up with three members that have paths, and reads as the device would.
func hot(tb testing.TB, listen ...netip.Addr) (*end, *stillBind, []*nodeEndpoint) {
	b := &stillBind{done: make(chan struct{}), ready: make(chan struct{})}
	e := open(tb, 0, Config{Bind: b, Listen: listen})
	var eps []*nodeEndpoint
	for i := 1; i < len(keys); i++ {
		e.knows(&end{t: tb, key: keys[i], Socket: e.Socket})
		n := e.memberNode(keys[i].ID())
		n.wireGuardKnown.Store(true)
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 51820)
		ep := &conn.StdNetEndpoint{AddrPort: from}
		src := e.sources.put(from, n, e.now())
		n.active.Store(&route{endpoint: ep, source: src})
		b.from = append(b.from, ep)
		eps = append(eps, &n.endpoint)
	}
	b.data = [][]byte{append(wireGuard("x"), make([]byte, 1400)...)}
	return e, b, eps
}

func device128() (bufs [][]byte, sizes []int, eps []conn.Endpoint) {
	bufs = make([][]byte, conn.IdealBatchSize)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	return bufs, make([]int, len(bufs)), make([]conn.Endpoint, len(bufs))
}

// startDevice attaches and takes the turn over from the pump.
func startDevice(tb testing.TB, e *end, b *stillBind) (conn.ReceiveFunc, func()) {
	funcs, _, err := e.Bind().Open(0)
	if err != nil {
		tb.Fatal(err)
	}
	close(b.ready)
	bufs, sizes, eps := device128()
	for range 2 { // what the pump kept, then the first of its own
		if _, err := funcs[0](bufs, sizes, eps); err != nil {
			tb.Fatal(err)
		}
	}
	return funcs[0], func() {
		e.Close()
		if _, err := funcs[0](bufs, sizes, eps); err == nil {
			tb.Error("reading a closed socket succeeded")
		}
	}
}

func TestTheHotPathAllocatesNothing(t *testing.T) {
	e, b, nodes := hot(t)
	receive, stop := startDevice(t, e, b)
	defer stop()
	bufs, sizes, eps := device128()
	if n := testing.AllocsPerRun(200, func() {
		if n, err := receive(bufs, sizes, eps); err != nil || n != len(bufs) {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("receiving a batch of three nodes' packets allocates %v times", n)
	}
	bind := e.Bind()
	if n := testing.AllocsPerRun(200, func() {
		if err := bind.Send(bufs[:64], nodes[0]); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("sending a batch allocates %v times", n)
	}
}

func BenchmarkReceive(b *testing.B) {
	e, still, _ := hot(b)
	receive, stop := startDevice(b, e, still)
	defer stop()
	bufs, sizes, eps := device128()
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(bufs) { // ns/op is per packet
		if _, err := receive(bufs, sizes, eps); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReceiveBare(b *testing.B) {
	_, still, _ := hot(b)
	close(still.ready)
	funcs, _, _ := still.Open(0)
	bufs, sizes, eps := device128()
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(bufs) {
		if _, err := funcs[0](bufs, sizes, eps); err != nil {
			b.Fatal(err)
		}
	}
	still.Close()
}

func BenchmarkSend(b *testing.B) {
	e, _, nodes := hot(b)
	defer e.Close()
	bufs, _, _ := device128()
	bind := e.Bind()
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(bufs) {
		if err := bind.Send(bufs, nodes[0]); err != nil {
			b.Fatal(err)
		}
	}
}

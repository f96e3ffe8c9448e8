package dataplane

import (
	"context"
	"encoding/binary"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// sourceOfPackets is an interface that always has a full batch, and takes everything.
type sourceOfPackets struct {
	*Pipe
	packets [][]byte
}

func (s *sourceOfPackets) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for i := range bufs {
		sizes[i] = copy(bufs[i][offset:], s.packets[i%len(s.packets)])
	}
	return len(bufs), nil
}

func (s *sourceOfPackets) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }
func (s *sourceOfPackets) BatchSize() int                          { return conn.IdealBatchSize }
func (s *sourceOfPackets) Events() <-chan tun.Event                { return nil }

// endlessBind always has a full batch of WireGuard data, and takes everything.
type endlessBind struct {
	*testBind
	from conn.Endpoint
}

func (b *endlessBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	return []conn.ReceiveFunc{func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		for i := range bufs {
			binary.LittleEndian.PutUint32(bufs[i], device.MessageTransportType)
			sizes[i], eps[i] = 1452, b.from
		}
		return len(bufs), nil
	}}, 1, nil
}

func (b *endlessBind) Send([][]byte, conn.Endpoint) error { return nil }

// bareWrappers are the two wrappers with open tunnels to peers and no device between them.
func bareWrappers(b *testing.B, peers int) (*hostSide, *wireSide, []*tunnel, []*testNode) {
	w := newTestWorld(b, peers+1)
	nodes := w.list()
	us := nodes[0]
	inner := &sourceOfPackets{Pipe: OpenPipe(us.prefixes(), 0)}
	bind := &endlessBind{testBind: &testBind{node: us}, from: testEndpoint(nodes[1].id)}
	p, err := newPlane(Config{
		Key: us.key, Self: us.id, Mesh: w.mesh, Bind: bind, Peers: us.table, Streams: &testStreams{node: us}, Network: inner,
	})
	if err != nil {
		b.Fatal(err)
	}
	var tunnels []*tunnel
	for _, n := range nodes[1:] {
		e, _ := us.table.Get(n.id)
		t := p.tunnels.enter(e)
		t.waiting.open(nil)
		t.open.Store(true)
		t.account.stuck.Store(false)
		tunnels = append(tunnels, t)
		// Runs of 16 packets to one peer, as TCP makes them.
		for range 16 {
			inner.packets = append(inner.packets, append(udp4(us.v4, n.v4, 1), make([]byte, 1384)...))
		}
	}
	h := &hostSide{plane: p, inner: inner, waiter: newCreditWaiter(), reinject: make(chan []byte, reinjectMax), stop: make(chan struct{})}
	p.host, p.wire = h, &wireSide{Bind: bind, plane: p}
	return h, p.wire, tunnels, nodes
}

func batch() ([][]byte, []int) {
	bufs := make([][]byte, conn.IdealBatchSize)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	return bufs, make([]int, len(bufs))
}

// These are the way of a packet through both wrappers: read from the interface, sorted, charged, sent, credited. One operation is one
// packet.
func BenchmarkOutboundOnePeer(b *testing.B)    { benchmarkOutbound(b, 1) }
func BenchmarkOutboundEightPeers(b *testing.B) { benchmarkOutbound(b, 8) }

func benchmarkOutbound(b *testing.B, peers int) {
	h, w, tunnels, _ := bareWrappers(b, peers)
	bufs, sizes := batch()
	endpoints := make([]*endpoint, len(tunnels))
	for i, t := range tunnels {
		endpoints[i] = &endpoint{Endpoint: testEndpoint(identity.NodeID{}), tunnel: t}
	}
	share := len(bufs) / len(endpoints)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += len(bufs) {
		if _, err := h.Read(bufs, sizes, 16); err != nil {
			b.Fatal(err)
		}
		for _, e := range endpoints {
			if err := w.Send(bufs[:share], e); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkInbound is the way back.
func BenchmarkInbound(b *testing.B) {
	h, w, _, nodes := bareWrappers(b, 1)
	fns, _, err := w.Open(0)
	if err != nil {
		b.Fatal(err)
	}
	bufs, sizes := batch()
	plain, _ := batch()
	for i := range plain {
		copy(plain[i][16:], udp4(nodes[1].v4, nodes[0].v4, 1))
	}
	eps := make([]conn.Endpoint, len(bufs))
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += len(bufs) {
		if _, err := fns[0](bufs, sizes, eps); err != nil {
			b.Fatal(err)
		}
		if _, err := h.Write(plain, 16); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPacketsOnOpenTunnelsAllocateNothing(t *testing.T) {
	for name, bench := range map[string]func(*testing.B){"outbound": BenchmarkOutboundEightPeers, "inbound": BenchmarkInbound} {
		if r := testing.Benchmark(bench); r.AllocsPerOp() != 0 || r.N > 100_000 && r.MemAllocs > uint64(r.N/1000) {
			t.Errorf("%s: %s %s", name, r, r.MemString())
		}
	}
}

// BenchmarkExchange is one whole exchange between two planes: both sides' cryptography, without a network.
func BenchmarkExchange(b *testing.B) {
	w := newTestWorld(b, 2)
	nodes := w.startAll(nil)
	defer w.stopAll()
	if err := nodes[0].plane.Ensure(context.Background(), nodes[1].id); err != nil {
		b.Fatal(err)
	}
	t := nodes[0].plane.tunnels.get(nodes[1].id)
	b.ReportAllocs()
	for b.Loop() {
		r := nodes[0].plane.exchange(t)
		if r.event.kind != agreed {
			b.Fatal(r.err)
		}
		r.t = t
		nodes[0].plane.deliver(r)
		<-r.done
	}
}

package gossip

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// converge starts n nodes, 20 ms apart, each joining the first, and waits until all know all.
func converge(t testing.TB, n int) (took time.Duration, packets, streams uint64) {
	w := newWorld(t)
	w.delay, w.loss = 20*time.Millisecond, 0.01
	hosts := w.hosts(n)
	start := time.Now()
	for i, h := range hosts {
		p := h.start(func(c *setup) { c.Book = func() []identity.NodeID { return nil } })
		if i > 0 {
			go func() { _, _ = p.Join(t.Context(), []identity.NodeID{hosts[0].id}) }()
		}
		time.Sleep(20 * time.Millisecond)
	}
	eventually(t, 2*time.Minute, "all alive everywhere", func() bool {
		for _, h := range hosts {
			if len(h.pool.Load().Members()) < n {
				return false
			}
		}
		return whole(hosts)
	})
	took = time.Since(start)
	packets, streams = w.packets.Load(), w.streams.Load()
	closeAll(hosts)
	time.Sleep(awarenessMax * LAN().ProbeInterval)
	synctest.Wait()
	return took, packets, streams
}

func TestFiftyNodesKnowEachOtherInSeconds(t *testing.T) {
	if testing.Short() {
		t.Skip("tens of nodes")
	}
	testKey(t, 49)
	synctest.Test(t, func(t *testing.T) {
		took, packets, streams := converge(t, 50)
		t.Logf("50 nodes: %v, %d packets, %d streams", took, packets, streams)
		if took > 20*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// BenchmarkConverge50 reports virtual seconds, packets and streams until fifty nodes know each other.
func BenchmarkConverge50(b *testing.B) {
	testKey(b, 49)
	var took time.Duration
	var packets, streams uint64
	for range b.N {
		synctest.Test(new(testing.T), func(t *testing.T) {
			d, p, s := converge(t, 50)
			took, packets, streams = took+d, packets+p, streams+s
		})
	}
	n := float64(b.N)
	b.ReportMetric(took.Seconds()/n, "virtual-s/op")
	b.ReportMetric(float64(packets)/n, "packets/op")
	b.ReportMetric(float64(streams)/n, "streams/op")
}

func TestIdleTrafficIsWhatTheProfileSays(t *testing.T) {
	if testing.Short() {
		t.Skip("hours of virtual time: the unit stage runs it without the race detector")
	}
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(5)
		startAll(t, hosts)
		defer closeAll(hosts)
		time.Sleep(time.Minute) // the news of the start has been told
		before := hosts[0].pool.Load().Stats()
		time.Sleep(4 * time.Hour)
		after := hosts[0].pool.Load().Stats()
		packets := 6 * (after.PacketsSent - before.PacketsSent)
		const headers = 14 + 20 + 8 + 1 // Ethernet, IPv4, UDP, type byte
		onWire := 6*(after.BytesSent-before.BytesSent) + packets*headers
		streams := 6 * (after.StreamsOpened - before.StreamsOpened + after.StreamsAccepted - before.StreamsAccepted)
		t.Logf("a day, five nodes: %d packets, %.2f MB sent with headers, %d streams", packets, float64(onWire)/1e6, streams)
		if onWire > 2e6 || streams > 72 {
			t.Error("more than the profile's documentation says")
		}
	})
}

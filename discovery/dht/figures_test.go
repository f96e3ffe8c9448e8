package dht

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestFigures measures what docs/performance.md says: questions and bytes of a lookup, and what an idle day costs. It runs with the sizes in
// DHT_NODES, such as DHT_NODES=20,100,500.
func TestFigures(t *testing.T) {
	sizes := os.Getenv("DHT_NODES")
	if sizes == "" {
		t.Skip("DHT_NODES is not set")
	}
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) { figures(t, n) })
	}
}

func figures(t *testing.T, n int) {
	w := newWorld(t, n)
	w.publishAll()
	total := func() (bytes uint64) {
		for _, d := range w.dhts {
			bytes += d.Stats().BytesSent
		}
		return bytes
	}
	const days = 3
	before := total()
	time.Sleep(days * 24 * time.Hour)
	idle := float64(total()-before) / float64(n) / days / 24
	var asked, bytes []uint64
	missed := 0
	for i := range min(n, 100) {
		d, at := w.dhts[i], (i*13+7)%n
		if at == i {
			continue
		}
		s := d.Stats()
		if _, err := find(t, d, w.mesh.Nodes[at].ID); err != nil {
			missed++
		}
		asked, bytes = append(asked, d.Stats().Asked-s.Asked), append(bytes, d.Stats().BytesReceived-s.BytesReceived)
	}
	slices.Sort(asked)
	slices.Sort(bytes)
	t.Logf("%d nodes: %d lookups, %d missed; questions median %d, most %d; bytes received median %d, most %d; idle %.0f bytes sent per node and hour; routing table %d, records %d",
		n, len(asked), missed, asked[len(asked)/2], asked[len(asked)-1], bytes[len(bytes)/2], bytes[len(bytes)-1], idle,
		w.dhts[0].Stats().Routing, w.dhts[0].Stats().Records)
}

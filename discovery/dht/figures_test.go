package dht

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// figure is what was measured at one size.
type figure struct {
	nodes           int
	asked, received []float64       // of each lookup: questions, bytes
	took            []time.Duration // of each lookup, at figuresRTT a question
	early, missed   int             // lookups that found nothing: right after the start, and after the idle days
	idle            float64         // bytes a member sends in an hour
	memory          float64         // bytes of heap a member has, with its control plane
}

// figuresRTT is the round trip between any two members.
const figuresRTT = 50 * time.Millisecond

// TestFigures measures what docs/performance.md says: questions, bytes and time of a lookup, and what idle days cost. It runs with the sizes in
// DHT_NODES, such as DHT_NODES=20,100,500.
func TestFigures(t *testing.T) {
	sizes := os.Getenv("DHT_NODES")
	if sizes == "" {
		t.Skip("DHT_NODES is not set")
	}
	var all []figure
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) { all = append(all, figures(t, n)) })
	}
	t.Log("\n" + table(all))
}

func figures(t *testing.T, n int) figure {
	before := heap()
	w := newFarWorld(t, n, figuresRTT)
	w.publishAll()
	f := figure{nodes: n, memory: (heap() - before) / float64(n)}
	f.lookups(t, w, 31, &f.early)
	total := func() (bytes uint64) {
		for _, d := range w.dhts {
			bytes += d.Stats().BytesSent
		}
		return bytes
	}
	const days = 1
	sent := total()
	time.Sleep(days * 24 * time.Hour)
	f.idle = float64(total()-sent) / float64(n) / days / 24
	f.asked, f.received, f.took = nil, nil, nil // of tables that have settled
	f.lookups(t, w, 7, &f.missed)
	slices.Sort(f.asked)
	slices.Sort(f.received)
	slices.Sort(f.took)
	return f
}

// lookups has up to a hundred members look for another.
func (f *figure) lookups(t *testing.T, w *world, shift int, missed *int) {
	for i := range min(f.nodes, 100) {
		d, at := w.dhts[i], (i*13+shift)%f.nodes
		if at == i {
			continue
		}
		s, begin := d.Stats(), time.Now()
		if _, err := find(t, d, w.mesh.Nodes[at].ID); err != nil {
			*missed++
		}
		f.took = append(f.took, time.Since(begin))
		f.asked, f.received = append(f.asked, float64(d.Stats().Asked-s.Asked)), append(f.received, float64(d.Stats().BytesReceived-s.BytesReceived))
	}
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// table shows the figures as docs/performance.md has them, and draws how they grow.
func table(all []figure) string {
	var b strings.Builder
	fmt.Fprintln(&b, "| members | missed at once, later | questions, median and most | ms, median and most | KB received, median and most | idle, KB an hour | heap, KB a member |")
	fmt.Fprintln(&b, "|---|---|---|---|---|---|---|")
	for _, f := range all {
		last, mid := len(f.asked)-1, len(f.asked)/2
		fmt.Fprintf(&b, "| %d | %d, %d of %d | %.0f, %.0f | %d, %d | %.0f, %.0f | %.1f | %.0f |\n", f.nodes, f.early, f.missed, len(f.asked), f.asked[mid],
			f.asked[last], f.took[mid].Milliseconds(), f.took[last].Milliseconds(), f.received[mid]/1000, f.received[last]/1000, f.idle/1000, f.memory/1000)
	}
	for _, g := range []struct {
		name string
		of   func(figure) float64
	}{
		{"questions a lookup, median", func(f figure) float64 { return f.asked[len(f.asked)/2] }},
		{"idle KB an hour", func(f figure) float64 { return f.idle / 1000 }},
	} {
		var most float64
		for _, f := range all {
			most = max(most, g.of(f))
		}
		fmt.Fprintf(&b, "\n%s\n", g.name)
		for _, f := range all {
			fmt.Fprintf(&b, "%5d │%s %.1f\n", f.nodes, strings.Repeat("█", int(g.of(f)/most*40+0.5)), g.of(f))
		}
	}
	return b.String()
}

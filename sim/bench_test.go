package sim

import (
	"context"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// benchmarkScenario plays a scenario of the library once an iteration, always from the same seed.
//
//	go test ./sim -run '^$' -bench HomeLab -benchtime 1x -cpuprofile cpu.out
func benchmarkScenario(b *testing.B, name string, run time.Duration) {
	b.Helper()
	s, err := Find(name)
	if err != nil {
		b.Fatal(err)
	}
	s.For = run
	var speed, packets float64
	for b.Loop() {
		r, err := Play(context.Background(), Config{Seed: 1, Dir: b.TempDir()}, s)
		if err != nil {
			b.Fatal(err)
		}
		for _, v := range r.Violations {
			b.Errorf("%s %s: %s", clock(v.At), v.Checker, v.Text)
		}
		speed += r.Figures["node_hours_per_wall_s"]
		packets += r.Figures["packets"]
	}
	b.ReportMetric(speed/float64(b.N), "node-h/s")
	b.ReportMetric(packets/float64(b.N), "packets/op")
}

func BenchmarkHomeLab(b *testing.B) { benchmarkScenario(b, "home-lab", time.Hour) }

// BenchmarkForming has machines of three regions join one after the other, and rest for twenty seconds. Its time grows with the square of their number:
// each learns of each.
func BenchmarkForming(b *testing.B) {
	for _, n := range []int{6, 12, 24} {
		b.Run(strconv.Itoa(n), func(b *testing.B) { benchmarkForming(b, n) })
	}
}

func benchmarkForming(b *testing.B, n int) {
	s, err := Find("three-regions")
	if err == nil {
		err = s.Resize(n)
	}
	if err != nil {
		b.Fatal(err)
	}
	var heap, routines float64
	for b.Loop() {
		err := Bubble(context.Background(), Config{Seed: 1, Dir: b.TempDir()}, func(w *World) error {
			p := &play{world: w, scenario: s, topology: newTopology(), load: newLoad(), recorder: recorder{stride: 1}}
			p.lay()
			if err := p.form(); err != nil {
				return err
			}
			if err := w.Sleep(20 * time.Second); err != nil {
				return err
			}
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			heap, routines = float64(m.HeapAlloc)/1e6/float64(n), float64(runtime.NumGoroutine())/float64(n)
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(heap, "MB/node")
	b.ReportMetric(routines, "goroutines/node")
}

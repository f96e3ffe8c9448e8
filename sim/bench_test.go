package sim

import (
	"context"
	"testing"
	"time"
)

// benchmarkScenario plays a scenario of the library with a number of machines once an iteration, always from the same seed.
//
//	go test ./sim -run '^$' -bench HomeLab -benchtime 1x -cpuprofile cpu.out
func benchmarkScenario(b *testing.B, name string, nodes int, run time.Duration) {
	b.Helper()
	s, err := Find(name)
	if err != nil {
		b.Fatal(err)
	}
	if nodes > 0 {
		if err := s.Resize(nodes); err != nil {
			b.Fatal(err)
		}
	}
	if run > 0 {
		s.For = run
	}
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

func BenchmarkHomeLab(b *testing.B) { benchmarkScenario(b, "home-lab", 0, time.Hour) }

func BenchmarkThreeRegions60(b *testing.B) { benchmarkScenario(b, "three-regions", 60, 30*time.Second) }

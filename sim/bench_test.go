package sim

import (
	"context"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// BenchmarkFormed has the machines of a mesh that was formed before return to it, in regions of up to fifty, and measures the ten minutes from then
// on in which nothing is done to them.
//
//	go test ./sim -run '^$' -bench Formed/100 -benchtime 1x -timeout 2h
func BenchmarkFormed(b *testing.B) {
	for _, n := range []int{10, 24, 50, 100, 300, 500, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) { benchmarkFormed(b, n) })
	}
}

// formedScenario is a mesh of n machines that was formed before, in regions of up to fifty, 3 ms apart one way within a region and 40 ms between two.
func formedScenario(n int) *Scenario {
	s := &Scenario{Name: "formed", Timing: "wan", Join: JoinInvitation, Formed: true}
	for i := range (n + 49) / 50 {
		s.Regions = append(s.Regions, Region{Name: "r" + strconv.Itoa(i+1), Nodes: min(50, n-50*i), NAT: natNone, Within: Quality{Latency: 3 * time.Millisecond}})
		for j := range i {
			s.Links = append(s.Links, Link{Between: [2]string{s.Regions[i].Name, s.Regions[j].Name}, Quality: Quality{Latency: 40 * time.Millisecond}})
		}
	}
	return s
}

func benchmarkFormed(b *testing.B, n int) {
	s := formedScenario(n)
	const rest = 10 * time.Minute
	figures := map[string]float64{}
	for b.Loop() {
		err := Bubble(context.Background(), Config{Seed: 1, Dir: b.TempDir()}, func(w *World) error {
			p := &play{world: w, scenario: s, topology: newTopology(), load: newLoad(), recorder: recorder{stride: 1}}
			p.lay()
			begun := wallSeconds()
			if err := p.form(); err != nil {
				return err
			}
			figures["formed-s"] = p.formed.Seconds()
			formed := wallSeconds()
			figures["forming-wall-s"] = formed - begun
			before, _ := w.Wire()
			for range int(rest / time.Minute) {
				minute := wallSeconds()
				if err := w.Sleep(time.Minute); err != nil {
					return err
				}
				b.Logf("%s: a minute took %.1f s", w.Now(), wallSeconds()-minute)
			}
			packets, _ := w.Wire()
			figures["node-h/wall-s"] = float64(n) * rest.Hours() / (wallSeconds() - formed)
			figures["packets/node-h"] = float64(packets-before) / float64(n) / rest.Hours()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			figures["heap-MB/node"], figures["stack-MB/node"] = float64(m.HeapAlloc)/1e6/float64(n), float64(m.StackInuse)/1e6/float64(n)
			figures["goroutines/node"] = float64(runtime.NumGoroutine()) / float64(n)
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for name, value := range figures {
		b.ReportMetric(value, name)
	}
}

// wallSeconds is a clock that goes on in a bubble: what the process has computed would not count what the disk takes.
func wallSeconds() float64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return float64(t.Nano()) / 1e9
}

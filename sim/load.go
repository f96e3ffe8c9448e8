package sim

import (
	"context"
	"slices"
	"sync"
	"time"
)

// load counts what the scenario's traffic met with.
type load struct {
	settled time.Duration // how long the mesh took to settle; 0: it did not, or was not asked

	mu   sync.Mutex
	sent int
	lost int
	rtts []time.Duration
}

func newLoad() *load { return &load{} }

// loadTick has every machine ping another one.
func (p *play) loadTick() {
	hosts := p.members(nil)
	if len(hosts) < 2 {
		return
	}
	for i, from := range hosts {
		to := hosts[(i+1+p.world.rand.IntN(len(hosts)-1))%len(hosts)]
		p.world.Go(func(context.Context) {
			rtt, err := p.world.Ping(from, to, p.scenario.Load.Timeout)
			p.load.mu.Lock()
			defer p.load.mu.Unlock()
			p.load.sent++
			if err != nil {
				p.load.lost++
				return
			}
			p.load.rtts = append(p.load.rtts, rtt)
		})
	}
}

// percentile returns the q-th part of sorted times, 0 to 1.
func percentile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// figures are what the load gives.
func (l *load) figures(to map[string]float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	to["pings"], to["pings_lost"] = float64(l.sent), float64(l.lost)
	if l.sent > 0 {
		to["pings_answered"] = float64(l.sent-l.lost) / float64(l.sent)
	}
	slices.Sort(l.rtts)
	for name, q := range map[string]float64{"rtt_p50_ms": 0.5, "rtt_p99_ms": 0.99, "rtt_p999_ms": 0.999} {
		if len(l.rtts) > 0 {
			to[name] = float64(percentile(l.rtts, q).Microseconds()) / 1000
		}
	}
}

// share is the part of the pings that were answered; 1 if there were none.
func (l *load) share() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sent == 0 {
		return 1
	}
	return float64(l.sent-l.lost) / float64(l.sent)
}

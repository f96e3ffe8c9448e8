package sim

import (
	"context"
	"slices"
	"time"
)

// calm keeps account of what is done to the mesh by others than its members.
type calm struct {
	acting  int           // faults that go on
	stirred time.Duration // when the last one began or ended
}

// hostile are the faults that a mesh is to bear without noticing.
var hostile = []string{"traitor", "attack"}

// disturbance notes that a fault begins; the function it returns, that it ends.
func (c *calm) disturbance(kind string, lasts bool, now time.Duration) (end func(now time.Duration)) {
	if slices.Contains(hostile, kind) {
		return func(time.Duration) {}
	}
	c.stirred = now
	if lasts {
		c.acting++
	}
	return func(now time.Duration) {
		c.stirred = now
		if lasts {
			c.acting = max(c.acting-1, 0) // all may have been healed meanwhile
		}
	}
}

// healed ends all of them.
func (c *calm) healed(now time.Duration) { c.acting, c.stirred = 0, now }

func (c *calm) since(now time.Duration) time.Duration {
	if c.acting > 0 {
		return 0
	}
	return now - c.stirred
}

const (
	// steadyAfter is how long all must have been calm before a tunnel is expected to hold: every path was found anew by then.
	steadyAfter = 45 * time.Second
	// steadyFor is how long a pair may be without an answer: what a relay that loses packets costs, and exchanges that have to be repeated.
	steadyFor = 15 * time.Second
	// steadyTry is how long each ping of it may take.
	steadyTry = 3 * time.Second
)

// tend has honest machines ping each other beside the driver while members are bad, and keeps those pairs that did not reach each other.
func (p *play) tend() {
	var bad bool
	var names []string
	for _, h := range p.world.hosts {
		bad = bad || h.traitors.Load() > 0
		if present(h) && !h.bad.Load() && !h.outcast.Load() {
			names = append(names, h.name)
		}
	}
	if !bad || p.calm.since(p.world.Now()) < steadyAfter {
		return
	}
	stirred := p.calm.stirred
	for _, two := range pairs(names) {
		p.world.Go(func(ctx context.Context) {
			from, _ := p.world.Host(two[0])
			to, _ := p.world.Host(two[1])
			lives := [2]*process{from.proc.Load(), to.proc.Load()}
			for range steadyFor / steadyTry {
				if _, err := p.world.Ping(from, to, steadyTry); err == nil || ctx.Err() != nil {
					return
				}
			}
			if lives == [2]*process{from.proc.Load(), to.proc.Load()} {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.lost = append(p.lost, lostPair{two, stirred})
			}
		})
	}
}

// lostPair are two machines that did not reach each other, and what was the last disturbance when they were tried.
type lostPair struct {
	names   [2]string
	stirred time.Duration
}

// takeLost returns the pairs that did not reach each other while all stayed calm.
func (p *play) takeLost() (out [][2]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lost {
		if p.calm.acting == 0 && l.stirred == p.calm.stirred {
			out = append(out, l.names)
		}
	}
	p.lost = nil
	return out
}

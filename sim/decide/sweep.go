package decide

import (
	"context"
	"time"
)

// violationsMax ends a sweep: what follows is rarely news.
const violationsMax = 20

// Sweep is a row of runs, of one seed after the other. It ends with the first of its bounds.
type Sweep struct {
	Seed uint64        // of the first run; the next has the next number
	Runs int           // 0: as many as fit into For
	For  time.Duration // on the wall, 0: unbounded; the run under way is ended
	Options
	Wall     func() time.Time // the clock on the wall
	Progress func(runs int)   // after each run; nil: nobody asks
}

// Summary is what came of a sweep.
type Summary struct {
	Runs, Events int
	Virtual      time.Duration // of all runs
	Wall         time.Duration
	Hash         string       // of the last run
	Violations   []*Violation // at most 20, then the sweep ends
}

// Run runs the sweep, until ctx ends at the latest. It panics if the options do not check, or if there is no bound.
func (s Sweep) Run(ctx context.Context) Summary {
	if s.Runs <= 0 && s.For <= 0 {
		panic("decide: a sweep without a bound")
	}
	var out Summary
	start := s.Wall()
	for ctx.Err() == nil && (s.Runs <= 0 || out.Runs < s.Runs) && (s.For <= 0 || out.Wall < s.For) && len(out.Violations) < violationsMax {
		r := Run(s.Seed+uint64(out.Runs), s.Options)
		out.Runs++
		out.Events, out.Virtual, out.Hash, out.Wall = out.Events+r.Events, out.Virtual+r.Virtual, r.Hash, s.Wall().Sub(start)
		if r.Violation != nil {
			out.Violations = append(out.Violations, r.Violation)
		}
		if s.Progress != nil {
			s.Progress(out.Runs)
		}
	}
	return out
}

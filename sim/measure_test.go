package sim

import (
	"testing"
	"time"
)

// Regression: the question for the log of decisions, which waits for a leader and then for the killed voter's copy, kept the driver from looking for
// a successor, so that the failover seemed to take as long as the question.
func TestAFailoverIsSeenWhenItHappens(t *testing.T) {
	r := playText(t, `name: audited
proves: a failover is seen when it happens
for: 115s
regions:
  - {name: home, nodes: 3, latency: 5ms}
timeline:
  - {at: 29940ms, kill: leader, for: 4s, every: 10s}   # just before each look at the mesh, which once a minute asks for the log
expect: {settle: 2m}
`)
	if got := r.Figures["failovers"]; got < 5 {
		t.Fatalf("only %v failovers", got)
	}
	// The question takes 1.8 s here, half of it for the killed one's copy; an election 0.3 to 0.6 s.
	if took := time.Duration(r.Figures["failover_max_ms"] * float64(time.Millisecond)); took > 1200*time.Millisecond {
		t.Errorf("one took %s", took)
	}
}

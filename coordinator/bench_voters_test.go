package coordinator

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkDecisionOnVoters renames a member, one decision after another: signed, committed on the disks of all voters, which share one here, over
// pipes instead of a network.
func BenchmarkDecisionOnVoters(b *testing.B) {
	for _, n := range []int{1, 3, 5} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLab(b)
			l.synced = true
			defer l.close()
			l.mesh(n)
			settle(l, n)
			lead := l.leader().group
			took := make([]float64, 0, 1<<16)
			i := 0
			for b.Loop() {
				i++
				begin := time.Now()
				if err := lead.Rename(b.Context(), testKey(0).ID(), fmt.Sprint("n", i%2)); err != nil {
					b.Fatal(err)
				}
				took = append(took, float64(time.Since(begin).Microseconds())/1000)
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2], "ms-p50")
			b.ReportMetric(took[len(took)*99/100], "ms-p99")
			b.ReportMetric(1e9/float64(b.Elapsed().Nanoseconds())*float64(len(took)), "decisions/s")
		})
	}
}

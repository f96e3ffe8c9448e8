package decide

import (
	"strings"
	"testing"
)

// TestSeeds runs a few seeds of everything, the same each time. Fresh ones are for `make sim` (phantom sim run decide).
func TestSeeds(t *testing.T) {
	for seed := range uint64(12) {
		if r := Run(seed, Options{}); r.Violation != nil {
			t.Errorf("seed %d: %v", seed, r.Violation)
		}
	}
}

// TestFoundBefore runs the seeds by which defects were found. What they do now may be another story: the defect itself has a test where it
// was (docs/simulator.md lists them).
func TestFoundBefore(t *testing.T) {
	for _, c := range []struct {
		part string
		seed uint64
	}{
		{"group", 29}, {"group", 128}, {"group", 815}, {"group", 996}, {"group", 1061}, {"group", 1270},
	} {
		if r := Run(c.seed, Options{Parts: []string{c.part}}); r.Violation != nil {
			t.Errorf("seed %d: %v", c.seed, r.Violation)
		}
	}
}

// TestReplay: everything that happens in a run, in its order, follows from the seed.
func TestReplay(t *testing.T) {
	var first string
	for range 10 {
		var events strings.Builder
		r := Run(7, Options{Events: &events})
		if first == "" {
			first = r.Hash + events.String()
		}
		if first != r.Hash+events.String() {
			t.Fatalf("two runs of one seed differ; the second:\n%s", events.String())
		}
	}
	seen := map[string]uint64{}
	for seed := range uint64(5) {
		r := Run(seed, Options{})
		if other, ok := seen[r.Hash]; ok {
			t.Errorf("seeds %d and %d give one run", other, seed)
		}
		seen[r.Hash] = seed
	}
}

// TestWithoutAFault: the faults that are left do the same as before, or shrinking would chase another defect.
func TestWithoutAFault(t *testing.T) {
	all, less := &strings.Builder{}, &strings.Builder{}
	n := Run(3, Options{Parts: []string{"group"}, Events: all}).Faults
	Run(3, Options{Parts: []string{"group"}, Events: less, Without: []int{n - 1}})
	if all.String() == less.String() || strings.Count(all.String(), "  fault ") != strings.Count(less.String(), "  fault ")+1 {
		t.Errorf("of %d faults the last was to be left out", n)
	}
}

// caught runs seeds until a planted bug shows, as the rule that is to catch it.
func caught(t *testing.T, part, rule string, b bugs) {
	t.Helper()
	other := map[string]int{}
	for seed := range uint64(40) {
		v := Run(seed, Options{Parts: []string{part}, bugs: b}).Violation
		switch {
		case v == nil:
		case v.Rule == rule:
			if len(v.Last) == 0 || !strings.Contains(v.Error(), "phantom sim run decide --seed ") {
				t.Errorf("the violation does not say how it came, or how to see it again: %v", v)
			}
			return
		default:
			other[v.Rule]++
		}
	}
	t.Errorf("nobody noticed; other rules did: %v", other)
}

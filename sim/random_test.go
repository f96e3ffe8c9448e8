package sim

import (
	"bytes"
	"testing"
)

func TestEverySeedDrawsAScenario(t *testing.T) {
	kinds := map[string]int{}
	for seed := range uint64(3000) {
		s, err := Random(seed)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := Random(seed)
		if !bytes.Equal(s.Text(), again.Text()) {
			t.Fatalf("seed %d draws two scenarios", seed)
		}
		if n := s.Nodes(); n < 2 || n > drawnRegions*drawnInRegion || len(s.Timeline) < 2 {
			t.Errorf("seed %d: %d machines, %d steps", seed, n, len(s.Timeline))
		}
		for _, step := range s.Timeline {
			kinds[step.Fault.Kind()]++
		}
	}
	for _, k := range faultNames() {
		if kinds[k] == 0 && k != "start" && k != "heal" { // undone by what they end
			t.Errorf("no seed draws %s", k)
		}
	}
}

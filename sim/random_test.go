package sim

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"
)

// Drawn scenarios keep every promise: some seeds that once found something, and new ones. What a new one finds, its number finds again.
func TestDrawnScenariosKeepTheirPromises(t *testing.T) {
	if testing.Short() {
		t.Skip("an hour of virtual time")
	}
	for _, seed := range []uint64{1, 2, rand.Uint64N(1 << 32), rand.Uint64N(1 << 32)} {
		s, err := Random(seed)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Play(context.Background(), Config{Seed: seed, Dir: t.TempDir()}, s)
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
			continue
		}
		for _, v := range r.Violations {
			t.Errorf("%s: %s\nagain: %s", v.Checker, v.Text, ReplayCommand(RandomName, seed, 0, 0, false))
		}
		t.Logf("seed %d: %d machines, %.0f s in %.1f", seed, r.Nodes, r.VirtualSeconds, r.WallSeconds)
	}
}

// notDrawn are the first two because they only undo others, and what no drawn run has tried so far.
var notDrawn = []string{"start", "heal", "attack", "block-udp", "backup", "restore", "pause", "renumber"}

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
		if kinds[k] == 0 && !slices.Contains(notDrawn, k) {
			t.Errorf("no seed draws %s", k)
		}
	}
}

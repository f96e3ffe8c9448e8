package sim

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestAClockIsSetAndPutRightWhileTheWorldsTimeGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(wallClock)
		c.set(-90*24*time.Hour, time.Hour)
		time.Sleep(30 * time.Minute)
		if got, want := time.Until(c.now()), 30*time.Minute-90*24*time.Hour; got != want {
			t.Errorf("off by %s, want %s", got, want)
		}
		c.set(0, 0)
		if got := time.Until(c.now()); got != 0 {
			t.Errorf("put right and off by %s", got)
		}
	})
}

func TestANodeGoesByItsMachinesClock(t *testing.T) {
	if testing.Short() {
		t.Skip("a whole node")
	}
	s, err := Parse("clock.yaml", []byte(`name: clock
proves: the clock
for: 2m
regions: [{name: home, nodes: 2, latency: 1ms, skew: 1m}]
timeline:
  - {at: 10s, clock: {skew: 1h, who: n1}, for: 10s}
  - {at: 12s, policy: "rules: [{from: ['*'], to: ['*'], allow: ['*']}]"}
`))
	if err != nil {
		t.Fatal(err)
	}
	err = Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		p := &play{world: w, scenario: s, topology: newTopology(), cutHosts: map[string]bool{}, load: newLoad(), recorder: recorder{stride: 1}}
		if err := p.run(); err != nil {
			return err
		}
		off := map[time.Duration]bool{}
		for _, h := range w.Hosts() {
			off[h.at.Skew] = true
		}
		if len(off) != 2 {
			t.Errorf("the machines' clocks are off by the same: %v", off)
		}
		a := p.audit(w.life)
		if a == nil {
			t.Fatal("no audit log")
		}
		set := 0
		for _, e := range a.Entries {
			if e.Action == "policy" {
				set++
			}
			if ahead := time.Until(e.Time) > 50*time.Minute; ahead != (e.Action == "policy") {
				t.Errorf("%s was decided at %s, it is %s", e.Action, e.Time, time.Now())
			}
		}
		if set != 1 {
			t.Errorf("%d policies in %v", set, a.Entries)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

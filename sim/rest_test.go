package sim

import (
	"context"
	"testing"
	"time"
)

// Regression: two members behind routers that had rested for longer than these keep a mapping did not find each other for minutes: the path that they
// had had was still taken to work, as nothing was owed on it, so no search for another asked a relay for help.
func TestMembersBehindRoutersMeetAgainAfterARest(t *testing.T) {
	if testing.Short() {
		t.Skip("forty minutes of virtual time")
	}
	s, err := Find("soak-72h")
	if err != nil {
		t.Fatal(err)
	}
	s.For, s.Timeline, s.Expect.Answered = 40*time.Minute, nil, 0
	r, err := Play(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.Violations {
		t.Errorf("%s %s: %s", clock(v.At), v.Checker, v.Text)
	}
	if r.Figures["settled_s"] > 10 {
		t.Errorf("settled after %.1f s", r.Figures["settled_s"])
	}
}

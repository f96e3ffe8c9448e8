package sim

import (
	"context"
	"testing"
	"time"
)

// Regression: who joined over a slow line had a second for the mesh's state, which is 5.5 kB for each member, and knew nobody ever after.
func TestANewcomerOnASlowLineLearnsOfTheOthers(t *testing.T) {
	err := Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		w.SetRoute("home", "home", Quality{Latency: 600 * time.Millisecond})
		hosts, err := mesh(w, 3)
		if err != nil {
			return err
		}
		knows := func() bool {
			for _, h := range hosts {
				list, err := h.Node().Members(context.Background())
				if err != nil || len(list.Members) != len(hosts) {
					return false
				}
			}
			return true
		}
		ok, err := w.Await(time.Minute, time.Second, knows)
		if err == nil && !ok {
			t.Error("not everybody knows everybody")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

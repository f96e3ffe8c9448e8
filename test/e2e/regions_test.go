package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// A mesh of two regions: each has a coordinator, and the death of one brings another of its region, which everybody is told of.
func TestADeadCoordinatorOfARegionIsReplacedByAnotherOfIt(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	var nodes []*mesh.Node
	for i, host := range l.AddHosts("n", 5) {
		region := "home"
		if i > 2 {
			region = "east"
		}
		nodes = append(nodes, mesh.Start(t, l, host, "--region", region))
	}
	nodes[0].Found("lab")
	token := nodes[0].Invite("--uses", "4").Token
	for _, n := range nodes[1:] {
		n.Join(token)
	}
	mesh.Everybody(t, settled, nodes...)
	at := map[string]*mesh.Node{}
	for _, n := range nodes {
		at[n.Status().Self.ID] = n
	}
	coordinates := func(asked *mesh.Node, region string) (id string, term uint64) {
		for _, r := range asked.Status().Coordinators.Regions {
			if r.Region == region {
				return r.Coordinator, r.Term
			}
		}
		return "", 0
	}
	var dead string
	var term uint64
	if err := lab.Eventually(settled, func() error {
		home, _ := coordinates(nodes[4], "home")
		if dead, term = coordinates(nodes[0], "east"); dead == "" || home == "" {
			return fmt.Errorf("east is coordinated by %q, home by %q", dead, home)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if at[dead] != nodes[3] && at[dead] != nodes[4] {
		t.Fatalf("%s of another region coordinates east", dead)
	}
	begin := time.Now()
	at[dead].Kill()
	for _, n := range nodes {
		if n == at[dead] {
			continue
		}
		if err := lab.Eventually(settled, func() error {
			id, next := coordinates(n, "east")
			if id == "" || id == dead || next <= term {
				return fmt.Errorf("%s still knows %q in term %d", n.Name, id, next)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s knows another after %v", n.Name, time.Since(begin))
	}
}

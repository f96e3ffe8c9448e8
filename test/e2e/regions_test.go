package e2e

import (
	"fmt"
	"net/netip"
	"strings"
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

// A person names the region of one machine while it runs. The others of the place, which were told none, follow after their minute, and the
// stream between two of them goes on.
func TestMachinesBesideOneWhoseRegionIsNamedFollowIt(t *testing.T) {
	t.Parallel()
	need(t)
	_, nodes := mesh.Grow(t, 3)
	mesh.Everybody(t, settled, nodes...)
	if r := nodes[2].Must("get", "region"); strings.TrimSpace(r.Stdout) != "default" {
		t.Fatalf("before anybody has named one: %v", r)
	}
	stream := nodes[0].Steady(netip.AddrPortFrom(nodes[2].Addresses()[0], nodes[2].Echo()))
	if r := nodes[1].Must("set", "region=attic"); !strings.Contains(r.Stdout, "attic") {
		t.Fatalf("set says %q", r.Stdout)
	}
	for _, n := range nodes {
		if err := lab.Eventually(3*settled, func() error {
			if r := n.Must("get", "region"); strings.TrimSpace(r.Stdout) != "attic" {
				return fmt.Errorf("%s is in %s: %s", n.Name, r.Stdout, n.Must("get").Stdout)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Stop(5 * time.Second); err != nil { // as slow as a busy machine may be; a tunnel that is made anew breaks the stream or waits longer
		t.Error(err)
	}
	if r := nodes[0].Must("status"); !strings.Contains(r.Stdout, "attic  (chosen)") {
		t.Errorf("status does not say that it has chosen: %s", r.Stdout)
	}
	if r := nodes[1].Must("status"); strings.Contains(r.Stdout, "(chosen)") {
		t.Errorf("status of the one that was told says that it has chosen: %s", r.Stdout)
	}
}

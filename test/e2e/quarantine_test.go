package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// stateOf is what a node's members verb says of another; empty: nothing.
func stateOf(n *mesh.Node, id string) string {
	var l struct {
		Members []struct{ ID, State string }
	}
	n.Get(&l, "members")
	for _, m := range l.Members {
		if m.ID == id {
			return m.State
		}
	}
	return ""
}

func TestAMachineThatWaitsIsInQuarantineUntilItIsApproved(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 2)
	mesh.Everybody(t, settled, nodes...)
	late := mesh.New(t, l, l.Host("late"), "--bootstrap", netip.AddrPortFrom(nodes[0].Host.IPv4, 51820).String())
	late.Start()
	a := askIn(late)
	code, _ := a.code(t)
	id := late.Status().Self.ID
	for _, n := range nodes { // whichever was asked
		if s := stateOf(n, id); s != "quarantined" {
			t.Errorf("%s says of a machine that waits: %q", n.Name, s)
		}
		for _, p := range n.Status().Peers {
			if p.ID == id {
				t.Errorf("%s has a machine that waits among its peers: %+v", n.Name, p)
			}
		}
		if r := n.Do("ping", "-c", "1", id); r.Code == mesh.Done {
			t.Errorf("%s reaches a machine that waits", n.Name)
		}
		if r := late.Do("ping", "-c", "1", n.Addresses()[0].String()); r.Code == mesh.Done {
			t.Errorf("a machine that waits reaches %s", n.Name)
		}
	}
	for _, verb := range []string{"invite", "members", "audit", "policy"} {
		args := []string{}
		if verb == "policy" {
			args = []string{"show"}
		}
		if r := late.Do(verb, args...); r.Code == mesh.Done {
			t.Errorf("a machine that waits may %s: %s", verb, r.Stdout)
		}
	}
	nodes[1].Must("approve", code)
	a.mustEnd(t)
	for _, n := range nodes {
		if err := lab.Eventually(settled, func() error {
			if s := stateOf(n, id); s != "active" {
				return fmt.Errorf("%s says of a machine that was approved: %q", n.Name, s)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if err := n.Host.Ping(late.Addresses()[0], settled); err != nil {
			t.Error(err)
		}
	}
}

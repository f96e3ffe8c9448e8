package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// deniedWithin is how soon a denied connection has to fail: the sender's own filter answers at once.
const deniedWithin = 2 * time.Second

// denied wants connections from one node to a port of another to be refused, over both families.
func denied(t *testing.T, from, to *mesh.Node, port uint16) {
	t.Helper()
	for _, a := range to.Addresses() {
		c, err := from.Host.Dial("tcp", netip.AddrPortFrom(a, port).String(), deniedWithin)
		switch {
		case err == nil:
			c.Close()
			t.Errorf("%s reaches %s port %d, which no rule allows", from.Name, a, port)
		case os.IsTimeout(err):
			t.Errorf("%s is not told that it may not open port %d at %s: %v", from.Name, port, a, err)
		}
	}
}

// allowed wants both families to carry a message to a port of another node and back.
func allowed(t *testing.T, from, to *mesh.Node, port uint16) {
	t.Helper()
	for _, a := range to.Addresses() {
		err := lab.Eventually(settled, func() error { return from.Say(netip.AddrPortFrom(a, port), []byte("over the policy")) })
		if err != nil {
			t.Error(err)
		}
	}
}

// shownPolicy is what the tests read of policy show --json.
type shownPolicy struct {
	Set     bool
	Current struct{ Version, Of uint64 }
	Filter  struct {
		InForce bool `json:"in_force"`
		Dropped uint64
	}
}

// inForce waits until a version filters on every node, or, without a filter, until none filters.
func inForce(t *testing.T, version uint64, filters bool, nodes ...*mesh.Node) {
	t.Helper()
	for _, n := range nodes {
		err := lab.Eventually(settled, func() error {
			var p shownPolicy
			if r := n.Do("policy", "show", "--json"); r.Code != mesh.Done {
				return r.Err()
			}
			n.Get(&p, "policy", "show")
			if p.Current.Version != version || p.Filter.InForce != filters {
				return fmt.Errorf("%s: %+v", n.Name, p)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAPolicyHoldsOnEveryNodeAndABadOneIsTakenBackFromAnywhere(t *testing.T) {
	need(t)
	_, nodes := mesh.Grow(t, 3)
	mesh.Everybody(t, settled, nodes...)
	client, server, third := nodes[0], nodes[1], nodes[2]
	open, closed := server.Echo(), server.Echo()
	back := client.Echo()
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	allowed(t, client, server, closed) // before there is a policy
	survivor := client.Steady(netip.AddrPortFrom(server.Addresses()[0], open))
	server.Must("tag", server.Name, "server")

	good := file(fmt.Sprintf("rules:\n  - {from: node:%s, to: tag:server, allow: [tcp/%[2]d, icmp]}\nexpect:\n  - %[1]s -> %[3]s:%[2]d allow\n  - %[1]s -> %[3]s:%[4]d deny\n",
		client.Name, open, server.Name, closed))
	err := lab.Eventually(settled, func() error { // once the tag has come round
		if r := third.Do("policy", "check", good); r.Code != mesh.Done || !strings.Contains(r.Stdout, "* except") {
			return fmt.Errorf("check: %v\n%s", r.Err(), r.Stdout)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wrong := file(fmt.Sprintf("rules: []\nexpect: [\"%s -> %s:%d allow\"]\n", client.Name, server.Name, open))
	if r := third.Do("policy", "set", wrong); r.Code != mesh.Refused || !strings.Contains(r.Stderr, "is denied") {
		t.Errorf("a policy whose expectation fails was not refused: %v", r.Err())
	}
	third.Must("policy", "set", good)
	inForce(t, 1, true, nodes...)
	allowed(t, client, server, open)
	denied(t, client, server, closed)
	denied(t, third, server, open)
	denied(t, server, client, back)
	if out, err := client.Host.Run("ping", "-c", "1", "-W", "2", server.Addresses()[1].String()); err != nil {
		t.Error(out, err)
	}
	if err := survivor.Stop(pauseMax); err != nil {
		t.Errorf("a connection that the policy allows: %v", err)
	}

	// A policy that denies everything: nobody reaches anybody, and any member takes it back.
	server.Must("policy", "set", file("rules: []\n"))
	inForce(t, 2, true, nodes...)
	denied(t, client, server, open)
	third.Must("policy", "rollback")
	inForce(t, 3, true, nodes...)
	allowed(t, client, server, open)
	denied(t, client, server, closed)

	// The policy outlives its node's death, also while the node is alone and nothing can be decided.
	for _, n := range nodes {
		n.Kill()
	}
	server.Start()
	inForce(t, 3, true, server)
	client.Start()
	third.Start()
	for _, n := range nodes {
		n.Online(settled)
	}
	mesh.Everybody(t, settled, nodes...)
	allowed(t, client, server, open)
	denied(t, client, server, closed)
	mesh.Leader(t, client, nodes)
	client.Must("policy", "rollback")
	inForce(t, 4, false, nodes...)
	allowed(t, client, server, closed)
	allowed(t, third, server, open)
}

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// stoodBy is how long a mesh of two takes until the second holds the whole ledger: it must have been alive for some seconds, then gets an
// issuer certificate and the log.
const stoodBy = 12 * time.Second

func recovers(t *testing.T, n *mesh.Node) {
	t.Helper()
	err := lab.Eventually(settled, func() error {
		r := n.Do("coordinators", "recover", "--yes", "--json")
		if r.Code == mesh.Done && !strings.Contains(r.Stdout, `"whole":true`) {
			t.Errorf("recovered without the whole ledger: %s", r.Stdout)
		}
		return r.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheSurvivorOfTwoMachinesRecoversAndInvites(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 2)
	founder, survivor := nodes[0], nodes[1]
	mesh.Everybody(t, settled, nodes...)
	if r := survivor.Do("coordinators", "recover", "--yes"); r.Code != mesh.Refused || !strings.Contains(r.Stderr, "nothing to recover") {
		t.Errorf("with a quorum: want exit code %d: %v", mesh.Refused, r.Err())
	}
	time.Sleep(stoodBy)
	founder.Kill()
	err := lab.Eventually(settled, func() error { // the log by which a person chooses whom to recover on
		if r := survivor.Do("audit"); r.Code != mesh.Done || !strings.Contains(r.Stdout, "no quorum") {
			return fmt.Errorf("audit: %v, %s", r.Err(), r.Stdout)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	recovers(t, survivor)
	third := mesh.Start(t, l, l.Host("c"))
	third.Join(survivor.Invite().Token)
	if err := third.Host.Ping(survivor.Addresses()[0], settled); err != nil {
		t.Error(err)
	}
	survivor.Must("revoke", founder.Name)
	// It was not gone after all. It learns what has become of it, and is no mesh of its own.
	if r := founder.Do("up", founder.Flags...); r.Code != mesh.Refused || !strings.Contains(r.Stderr, "revoked") {
		t.Errorf("up on the founder: want exit code %d: %v", mesh.Refused, r.Err())
	}
}

func TestAFounderThatReturnsAfterARecoverySplitsNothing(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 2)
	founder, survivor := nodes[0], nodes[1]
	mesh.Everybody(t, settled, nodes...)
	time.Sleep(stoodBy)
	founder.Kill()
	recovers(t, survivor)
	third := mesh.Start(t, l, l.Host("c"))
	third.Join(survivor.Invite().Token)
	founder.Start()
	all := []*mesh.Node{founder, survivor, third}
	err := lab.Eventually(3*settled, func() error {
		first := survivor.Status()
		for _, n := range all {
			s := n.Status()
			if !s.Coordinators.Quorum || s.Coordinators.Leader != first.Coordinators.Leader || len(s.Coordinators.Voters) != 3 || len(s.Peers) != 2 {
				return fmt.Errorf("%s: %+v, %d peers", n.Name, s.Coordinators, len(s.Peers))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var a struct {
		Verified bool
		Entries  []struct{ Action, Subject string }
	}
	founder.Get(&a, "audit", "--verify")
	told := false
	for _, e := range a.Entries {
		told = told || e.Action == "recover"
	}
	if !a.Verified || !told {
		t.Errorf("audit on the founder: %+v", a)
	}
	founder.Invite()
}

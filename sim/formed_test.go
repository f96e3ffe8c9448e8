package sim

import (
	"context"
	"testing"
	"time"
)

// Machines of a formed mesh are members as those that joined are: each with a certificate of its own, signed by the mesh, and known to all. A machine that
// joins afterwards is one more.
func TestTheMachinesOfAFormedMeshAreItsMembers(t *testing.T) {
	s, err := Parse("formed.yaml", []byte(`name: formed
proves: something
for: 30s
formed: true
regions:
  - {name: home, nodes: 3}
  - {name: away, nodes: 2}
  - {name: road, nodes: 1, nat: easy}
links: [{between: [home, away], latency: 20ms}, {between: [home, road], latency: 20ms}, {between: [away, road], latency: 20ms}]
timeline:
  - {at: 5s, join: {nodes: 1, region: away}}
expect: {settle: 1m}
`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Play(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.Violations {
		t.Errorf("%s %s: %s", clock(v.At), v.Checker, v.Text)
	}
	if r.Figures["decisions"] < 7 || r.Figures["formed_s"] > 20 {
		t.Errorf("figures %v", r.Figures)
	}
}

// What a formed mesh keeps of its members survives their restart, the founder's included: nothing was held in memory only.
func TestAFormedMeshIsOnItsDisks(t *testing.T) {
	if testing.Short() {
		t.Skip("a minute of virtual time")
	}
	s := &Scenario{Name: "formed", Timing: "lan", Join: JoinInvitation, Formed: true, Regions: []Region{{Name: "home", Nodes: 4, NAT: natNone}}}
	err := Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		p := &play{world: w, scenario: s, topology: newTopology(), load: newLoad(), recorder: recorder{stride: 1}}
		p.lay()
		if err := p.form(); err != nil {
			return err
		}
		for _, h := range w.hosts {
			if err := h.Kill(); err != nil {
				return err
			}
		}
		for _, h := range w.hosts {
			if err := h.Start(); err != nil {
				return err
			}
		}
		ok, err := w.Await(time.Minute, time.Second, func() bool {
			for _, h := range w.hosts {
				m, err := h.Node().Members(context.Background())
				if err != nil || len(m.Members) != 4 {
					return false
				}
			}
			return p.agree()
		})
		if err == nil && !ok {
			t.Error("they do not find each other")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

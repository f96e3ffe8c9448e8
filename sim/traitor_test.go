package sim

import (
	"context"
	"strings"
	"testing"
)

// soundTraitor is a mesh of which one member goes bad in one way, with nothing else.
const soundTraitor = `name: traitor
proves: a member gone bad is borne
for: 4m
regions:
  - {name: core, nodes: 4, latency: 5ms}
  - {name: homes, nodes: 2, latency: 8ms, nat: easy}
links: [{between: [core, homes], latency: 12ms}]
load: {every: 5s}
timeline:
  - {at: 20s, traitor: {kind: KIND, who: n4, rate: 20}, for: 160s}
expect: {settle: 90s, answered: 97%}
`

func TestAMemberGoneBadIsBorne(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	for _, kind := range traitorKinds {
		t.Run(kind, func(t *testing.T) {
			s, err := Parse("traitor.yaml", []byte(strings.Replace(soundTraitor, "KIND", kind, 1)))
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
			did := ""
			for _, e := range r.Events {
				if e.Kind == "traitor" && strings.HasPrefix(e.Text, "no longer") {
					did = e.Text
				}
			}
			t.Logf("%.1f s wall; %s", r.WallSeconds, did)
			// Each kind must have done all that it can, or it proves nothing.
			for _, a := range traitorActs[kind] {
				if !strings.Contains(did, a.name+" ") {
					t.Errorf("it never did %s: %q", a.name, did)
				}
			}
		})
	}
}

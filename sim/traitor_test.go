package sim

import (
	"slices"
	"strings"
	"testing"
	"time"
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
			r := playText(t, strings.Replace(soundTraitor, "KIND", kind, 1))
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

// What is done to the network ends the calm that tunnels have to hold in; what members do never does.
func TestOnlyFaultsThatMembersDoNotDoEndTheCalm(t *testing.T) {
	var c calm
	endTraitor := c.disturbance("traitor", true, time.Minute)
	if c.since(2*time.Minute) != 2*time.Minute {
		t.Error("a member gone bad ends the calm")
	}
	endCut := c.disturbance("cut", true, 3*time.Minute)
	if c.since(10*time.Minute) != 0 {
		t.Error("calm while a cable is out")
	}
	endTraitor(11 * time.Minute)
	endCut(12 * time.Minute)
	if c.since(13*time.Minute) != time.Minute {
		t.Error("not calm a minute after the last cable was plugged in")
	}
	c.disturbance("kill", true, 14*time.Minute)
	c.healed(15 * time.Minute)
	if c.since(16*time.Minute) != time.Minute {
		t.Error("not calm a minute after all was healed")
	}
	c.disturbance("revoke", false, 17*time.Minute)
	if c.since(18*time.Minute) != time.Minute {
		t.Error("what cannot be undone goes on for ever")
	}
}

// A pair that does not reach each other while all is calm is told once; one that was tried while something else was done, never.
func TestALostTunnelCountsOnlyIfAllStayedCalm(t *testing.T) {
	p := &play{calm: calm{stirred: time.Minute}, lost: []lostPair{{[2]string{"n1", "n2"}, time.Minute}, {[2]string{"n1", "n3"}, 0}}}
	if got := p.takeLost(); len(got) != 1 || got[0] != [2]string{"n1", "n2"} {
		t.Error(got)
	}
	if got := p.takeLost(); len(got) > 0 {
		t.Error("told again:", got)
	}
	p.lost, p.calm.acting = []lostPair{{[2]string{"n1", "n2"}, time.Minute}}, 1
	if got := p.takeLost(); len(got) > 0 {
		t.Error("told while something goes on:", got)
	}
}

// A black hole loses data that it carries for others; its own packets, and the checks of paths through it, come through.
func TestABlackHoleLosesWhatItRelays(t *testing.T) {
	data := []byte{4, 0, 0, 0, 1, 2, 3, 4}
	for name, c := range map[string]struct {
		packet []byte
		lost   bool
	}{
		"relayed data":       {slices.Concat([]byte{0x30, 0x80, 0, 0, 7}, data), true},
		"its own, to others": {slices.Concat([]byte{0x30, 0, 0, 0, 7}, data), false},
		"relayed check":      {slices.Concat([]byte{0x30, 0x80, 0, 0, 7}, []byte{0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42}), false},
		"its own data":       {data, false},
		"short":              {[]byte{0x30, 0x80}, false},
	} {
		if carried(c.packet) != c.lost {
			t.Errorf("%s: lost %v", name, !c.lost)
		}
	}
}

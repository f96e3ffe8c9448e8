package coordinator

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// The deciders look every time while something happens and for as long after it as any of their waits, and at once when something does.
func TestDecidersRestInAMeshThatHasSettled(t *testing.T) {
	a, b := identity.NodeID{1}, identity.NodeID{2}
	start := time.Unix(1_000_000, 0)
	ledger := new(State)
	base := func() Observation {
		return Observation{Self: a, Timing: LAN(), Voters: []identity.NodeID{a, b},
			Alive: map[identity.NodeID]time.Time{a: start, b: start}, Gone: map[identity.NodeID]time.Time{},
			CaughtUp: map[identity.NodeID]bool{}, Poor: map[identity.NodeID]bool{a: false}, Unwilling: map[identity.NodeID]bool{},
			Silent: map[identity.NodeID]bool{}, Yielding: map[identity.NodeID]bool{}, Holds: map[identity.NodeID]uint64{a: 7}}
	}
	settle := func() (*settled, time.Time) {
		c, now := new(settled), start
		for range 20 { // more than Shrink and decideRarely
			o := base()
			o.Now = now
			if now.Sub(start) < LAN().Shrink && c.spares(ledger, o) {
				t.Fatalf("spared after %s", now.Sub(start))
			}
			now = now.Add(5 * time.Second)
		}
		o := base()
		o.Now = now
		c.spares(ledger, o) // whether it is due or not
		o.Now = now.Add(decideRarely)
		if c.spares(ledger, o) {
			t.Fatalf("not asked for %s", decideRarely)
		}
		return c, o.Now.Add(time.Second)
	}
	c, now := settle()
	if o := base(); true {
		o.Now = now
		if !c.spares(ledger, o) {
			t.Error("asked although nothing has changed for long")
		}
	}
	for name, change := range map[string]func(*Observation){
		"a voter more":       func(o *Observation) { o.Voters = append(o.Voters, identity.NodeID{3}) },
		"one is staged":      func(o *Observation) { o.Staged = []identity.NodeID{b} },
		"one has gone":       func(o *Observation) { delete(o.Alive, b); o.Gone[b] = o.Now },
		"one has come back":  func(o *Observation) { o.Alive[b] = o.Now },
		"one is poor":        func(o *Observation) { o.Poor[a] = true },
		"one is unwilling":   func(o *Observation) { o.Unwilling[b] = true },
		"one is silent":      func(o *Observation) { o.Silent[b] = true },
		"one yields":         func(o *Observation) { o.Yielding[b] = true },
		"one holds more":     func(o *Observation) { o.Holds[a]++ },
		"a keyring was seen": func(o *Observation) { o.KeyringSeen = o.Now },
		"the clock jumped":   func(o *Observation) { o.Now = o.Now.Add(24 * time.Hour) },
		"it was set back":    func(o *Observation) { o.Now = start },
	} {
		c, now := settle()
		o := base()
		o.Now = now
		change(&o)
		if c.spares(ledger, o) {
			t.Errorf("%s: not asked", name)
		}
	}
	c, now = settle()
	o := base()
	o.Now = now
	if c.spares(new(State), o) {
		t.Error("another ledger: not asked")
	}
	c, now = settle()
	o.Now = now
	c.stir(now)
	if c.spares(ledger, o) {
		t.Error("after a proposal: not asked")
	}
	// The order of maps does not matter.
	if x, y := base(), base(); x.sum() != y.sum() || !slices.Equal(x.Voters, y.Voters) || !maps.Equal(x.Alive, y.Alive) {
		t.Error("equal observations have different sums")
	}
}

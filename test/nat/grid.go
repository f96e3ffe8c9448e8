package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// way is a kind of path as the table names it.
type way string

const (
	none      way = "none"
	direct    way = "direct"
	directTCP way = "direct (TCP)"
	relayed   way = "relay"
)

func wayOf(p mesh.Path) way {
	switch {
	case p.Kind == "direct" && p.Transport == "tcp":
		return directTCP
	case p.Kind == "direct":
		return direct
	case p.Kind == "relay":
		return relayed
	}
	return none
}

// theory is the best way that NATs of these kinds allow.
//
// A public end, or one whose router maps the port, can be begun with by everybody who has its IP version. Two who cannot be begun with meet half
// way if each can know where to send: both easy (or firewalled, without translation); or one hard, by trying many ports. Two hard ones cannot
// know.
func theory(a, b kind) way {
	has := func(k kind) bool { return a == k || b == k }
	open := has(public) || has(mapped)
	switch {
	case has(ipv6) && a != b && !has(public):
		return relayed // no IP version in common
	case a == blocked && b == blocked:
		return relayed
	case has(blocked) && open:
		return directTCP
	case has(blocked):
		return relayed
	case a == hard && b == hard:
		return relayed
	}
	return direct
}

// explanation is what the program itself says of a path.
func explanation(a, b *mesh.Node) string {
	return a.Do("why", b.Name).Stdout + a.Do("netcheck").Stdout + b.Do("netcheck").Stdout
}

const (
	// pace of the pings that watch a pair.
	pace = 50 * time.Millisecond
	// patience is how long a pair may take to the path that theory promises: one hard NAT takes several rounds of many ports.
	patience = 40 * time.Second
	// steady is how long a pair that has its path is watched on.
	steady = time.Second
)

// found is one cell of the table.
type found struct {
	a, b     kind
	expected way
	way      way
	first    time.Duration // from starting phantom ping to the first answer
	best     time.Duration // from starting phantom ping to the first answer over the expected way
	lost     int           // pings without an answer
	err      error
}

// settlePair waits until both ends know their network and have relays at hand where they need them, and the first knows that of the other: what is
// measured is the first packet between two members, not the start of two.
func settlePair(a, b *end) error {
	for _, e := range []*end{a, b} {
		err := lab.Eventually(settled, func() error {
			var c mesh.Netcheck
			e.Get(&c, "netcheck")
			atHand := 0
			for _, r := range c.Relays {
				if r.AtHand {
					atHand++
				}
			}
			if c.NAT == "unknown" || !c.Reachable && atHand < 2 {
				return fmt.Errorf("%s: NAT %s, reachable %t, %d relays at hand", e.Name, c.NAT, c.Reachable, atHand)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return lab.Eventually(settled, func() error {
		var y mesh.Why
		a.Get(&y, "why", b.Name)
		if y.Peer.NAT == "unknown" {
			return fmt.Errorf("%s does not know the NAT of %s", a.Name, b.Name)
		}
		return nil
	})
}

// pair measures a pair: both ends are killed, the routers forget them, and once both are back in the mesh one pings the other.
func (w *world) pair(a, b *end) found {
	f := found{a: a.kind, b: b.kind, expected: theory(a.kind, b.kind), way: none}
	for _, e := range []*end{a, b} {
		e.Kill()
		e.forget()
	}
	a.StartOnly()
	b.StartOnly()
	for _, e := range []*end{a, b} {
		if f.err = e.Await(settled); f.err != nil {
			return f
		}
	}
	if f.err = settlePair(a, b); f.err != nil {
		w.t.Logf("%s to %s: %v\n%s", a.Name, b.Name, f.err, explanation(a.Node, b.Node))
		return f
	}
	a.Ping(b.Name, pace, patience, func(e mesh.Echoed) bool {
		if e.Lost {
			f.lost++
			return true
		}
		if f.first == 0 {
			f.first = e.At
		}
		f.way = wayOf(e.Path)
		if f.way == f.expected && f.best == 0 {
			f.best = e.At
		}
		return f.best == 0 || e.At < f.best+steady
	})
	switch {
	case f.first == 0:
		f.err = fmt.Errorf("no ping was answered in %s", patience)
	case f.way != f.expected:
		f.err = fmt.Errorf("the path is %s, theory says %s", f.way, f.expected)
	}
	if f.err != nil {
		w.t.Logf("%s to %s: %v\n%s", a.Name, b.Name, f.err, explanation(a.Node, b.Node))
	}
	return f
}

// grid measures the pairs of kinds that begin with some of them, one after another.
func (w *world) grid(of []kind, from []kind, report func(found)) {
	w.t.Helper()
	first := slices.IndexFunc(of, func(k kind) bool { return slices.Contains(from, k) })
	begins, ends := map[kind]*end{}, map[kind]*end{}
	for _, k := range of[first:] {
		if slices.Contains(from, k) {
			begins[k] = w.join(k)
		}
		ends[k] = w.join(k)
	}
	for i, a := range of {
		if begins[a] == nil {
			continue
		}
		for _, b := range of[i:] {
			report(w.pair(begins[a], ends[b]))
		}
	}
}

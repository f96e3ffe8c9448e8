package sim

import (
	"fmt"
	"sync"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// acknowledged: what the mesh said it decided is what everybody sees in the end.
type acknowledged struct{}

func (*acknowledged) Name() string        { return "decisions-last" }
func (*acknowledged) Promise() string     { return "what the mesh has acknowledged is never lost" }
func (*acknowledged) Safe(*View) []string { return nil }

func (*acknowledged) Live(v *View) (out []string) {
	revoked := v.revoked()
	for _, n := range v.Nodes {
		if _, ok := revoked[n.Status.Self.ID]; ok {
			continue
		}
		if n.Members == nil {
			out = append(out, fmt.Sprintf("%s cannot list the members", n.Host))
			continue
		}
		state := map[string]string{}
		for _, m := range n.Members {
			state[m.ID] = m.State
		}
		for _, d := range v.Decisions {
			if d.Kind == Joined && state[d.ID] == "" {
				out = append(out, fmt.Sprintf("%s does not know %s, which was admitted at %s", n.Host, d.Name, clock(d.At)))
			}
			if d.Kind == Revoked && state[d.ID] == localapi.MemberActive {
				out = append(out, fmt.Sprintf("%s holds %s for a member, which was revoked at %s", n.Host, d.Name, clock(d.At)))
			}
		}
	}
	return out
}

// everyPairMax is up to how many nodes every pair is tried; in larger meshes each node tries as many others, so that the check does
// not cost more than the run. A pair that has never met takes a connection and a tunnel: of hundreds of nodes each tries fewer, so that there are about
// pairsMax, but never less than chordsMin.
const (
	everyPairMax = 24
	pairsMax     = 1500
	chordsMin    = 2
)

// reachable: once nothing is in the way, everybody reaches everybody.
type reachable struct {
	done map[[2]string]bool // pairs that have reached each other since the faults ended, by the hosts' names
}

func newReachable() *reachable { return &reachable{done: map[[2]string]bool{}} }

func (*reachable) Name() string { return "reachable" }
func (*reachable) Promise() string {
	return "every two members reach each other once nothing is in the way"
}
func (*reachable) Safe(*View) []string { return nil }

func (c *reachable) Live(v *View) (out []string) {
	if v.Probe == nil {
		return nil
	}
	for _, name := range v.Silent {
		out = append(out, name+" does not run, or says nothing")
	}
	revoked := v.revoked()
	var names []string
	for _, n := range v.Nodes {
		if _, ok := revoked[n.Status.Self.ID]; !ok {
			names = append(names, n.Host)
		}
	}
	var mu sync.Mutex
	var probes sync.WaitGroup
	for _, p := range pairs(names) {
		if c.done[p] {
			continue
		}
		probes.Go(func() {
			err := v.Probe(p[0], p[1])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out = append(out, fmt.Sprintf("%s does not reach %s: %v", p[0], p[1], err))
				return
			}
			c.done[p] = true
		})
	}
	probes.Wait()
	return out
}

// pairs are those that are tried: all, or of many names a ring and chords of it, so that each is in everyPairMax of them, or in fewer of hundreds.
func pairs(names []string) (out [][2]string) {
	n := len(names)
	chords := min(everyPairMax/2, max(pairsMax/max(n, 1), chordsMin))
	for i := range n {
		for k := 1; k <= min(n-1-i, everyPairMax) && n <= everyPairMax; k++ {
			out = append(out, [2]string{names[i], names[i+k]})
		}
		for k := 1; k <= chords && n > everyPairMax; k++ {
			// Steps that grow cover near and far, also over the bounds of regions, which are in one piece.
			step := k * k
			if k == chords {
				step = max(step, n/3)
			}
			out = append(out, [2]string{names[i], names[(i+step)%n]})
		}
	}
	return out
}

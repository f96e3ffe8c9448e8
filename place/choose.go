package place

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// A node that nobody told its region belongs to the one whose members are nearest. Where a region is, those of its members say who were told
// that they are of it: a node that follows others must not follow those that follow it. In a region in which nobody was told, as in a mesh
// whose regions nobody has named, all members say it.
//
// Two things make a node go elsewhere, if they hold for so long that it is no mood of the network, and were measured:
//
//   - the other region is clearly nearer;
//   - nobody has named the node's own region, and the other is here: somebody beside this node has named it.

const (
	// clearlyShare and clearlyLeast: a region is clearly nearer at half the round trip or less, and 5 ms less. Within a city the
	// differences are below that, and no matter to whoever uses the mesh.
	clearlyShare = 2
	clearlyLeast = 5 * time.Millisecond
	// besideMost is how far away a machine of the same place may be: a city and its access lines.
	besideMost = 3 * time.Millisecond
	// sustained is for how long it has to hold: several times what a route that flaps, or a link that is full, takes to be as before.
	sustained = time.Minute
	// restMin..Max: between two moves. The least is what the leader grants in the long run (coordinator, moveEvery); each move makes it longer
	// for who moves on, until it has stayed for restForget.
	restMin    = 10 * time.Minute
	restMax    = 6 * time.Hour
	restForget = 24 * time.Hour
	// decidersMax is how many members a region's distance rests on: the median of three bears one that is wrong.
	decidersMax = 3
)

// Neighbour is a member that is alive, and how far away it is.
type Neighbour struct {
	ID     identity.NodeID
	Name   string
	Region string
	Named  bool // it was told its region
	// RTT is the round trip, 0 if nothing is known. Measured: just now, else it is estimated.
	RTT      time.Duration
	Measured bool
}

// Verdict is what a node is to do about its region.
type Verdict struct {
	Move string            // the region to go to; empty: stay
	Ask  []identity.NodeID // whose round trip is to be measured before the next step
	Why  string            // for people
}

// Chooser chooses the region of a node that was not told one. The zero value has seen nothing.
type Chooser struct {
	candidate string    // that would be better; empty: none
	since     time.Time // for how long it has been that
	moved     time.Time // when this node last moved; zero: never
	rest      time.Duration
}

// distance is how far away a region is.
type distance struct {
	region   string
	named    bool // somebody was told that it is of this region
	known    bool // rtt is
	rtt      time.Duration
	deciders []Neighbour // whom that rests on
}

// Step takes in where the others are, of which the node is in region home, and says what to do.
func (c *Chooser) Step(home string, others []Neighbour, now time.Time) Verdict {
	own, rest := survey(home, others)
	best, why := c.better(own, rest)
	if best == nil {
		c.candidate = ""
		return Verdict{Why: why}
	}
	if c.candidate != best.region {
		c.candidate, c.since = best.region, now
	}
	v := Verdict{Why: why, Ask: append(own.unmeasured(), best.unmeasured()...)}
	switch left := max(c.since.Add(sustained).Sub(now), c.restEnd().Sub(now)); {
	case left > 0:
		v.Why += fmt.Sprintf("; moves there in %v if it stays so", left.Round(time.Second))
	case len(v.Ask) > 0:
		v.Why += "; moves there once that is measured"
	default:
		v.Move = best.region
		c.rest = min(max(2*c.rest, restMin), restMax)
		if now.Sub(c.moved) >= restForget {
			c.rest = restMin
		}
		c.moved, c.candidate = now, ""
	}
	return v
}

func (c *Chooser) restEnd() time.Time {
	if c.moved.IsZero() {
		return time.Time{}
	}
	return c.moved.Add(c.rest)
}

// survey returns how far away the node's own region is, and the others by name.
func survey(home string, others []Neighbour) (own distance, rest []distance) {
	by := map[string][]Neighbour{}
	for _, n := range others {
		by[n.Region] = append(by[n.Region], n)
	}
	own = measure(home, by[home])
	delete(by, home)
	for region, members := range by {
		rest = append(rest, measure(region, members))
	}
	slices.SortFunc(rest, func(a, b distance) int { return strings.Compare(a.region, b.region) })
	return own, rest
}

// measure says where a region is, seen from here: as far as the median of the nearest three who were told that they are of it, or of all.
func measure(region string, members []Neighbour) distance {
	d := distance{region: region}
	if told := slices.DeleteFunc(slices.Clone(members), func(n Neighbour) bool { return !n.Named }); len(told) > 0 {
		d.named, members = true, told
	}
	near := slices.DeleteFunc(slices.Clone(members), func(n Neighbour) bool { return n.RTT <= 0 })
	if len(near) == 0 {
		d.known = len(members) == 0 // nobody is there: that is known
		return d
	}
	slices.SortFunc(near, func(a, b Neighbour) int { return cmp.Or(cmp.Compare(a.RTT, b.RTT), a.ID.Compare(b.ID)) })
	from := 0
	if !d.named {
		from = max((len(near)-decidersMax)/2, 0)
	}
	d.deciders = near[from:min(from+decidersMax, len(near))]
	d.known, d.rtt = true, d.deciders[(len(d.deciders)-1)/2].RTT
	return d
}

// better returns the region that the node should rather be of, nil if there is none, and why.
func (c *Chooser) better(own distance, rest []distance) (*distance, string) {
	if !own.known {
		return nil, "how far its members are away is not known yet"
	}
	var best, nearest *distance
	for i := range rest {
		d := &rest[i]
		if len(d.deciders) == 0 {
			continue
		}
		if nearest == nil || d.rtt < nearest.rtt {
			nearest = d
		}
		if (d.clearlyNearer(own) || d.beside(own)) && (best == nil || d.rtt < best.rtt) {
			best = d
		}
	}
	switch {
	case best != nil && best.clearlyNearer(own):
		return best, fmt.Sprintf("region %s is clearly nearer: %s against %s", best.region, best, own)
	case best != nil && len(own.deciders) == 0:
		return best, fmt.Sprintf("no other member of region %s is here, and region %s is: %s", own.region, best.region, best)
	case best != nil:
		return best, fmt.Sprintf("nobody has named region %s, and region %s is here: %s", own.region, best.region, best)
	case nearest == nil:
		return nil, "it is not known yet where another region is"
	case len(own.deciders) == 0:
		return nil, fmt.Sprintf("no other member of it is here, and no other region is: region %s is %s", nearest.region, nearest)
	}
	return nil, fmt.Sprintf("its members are %s; the nearest other region, %s, is %s", own, nearest.region, nearest)
}

func (d distance) clearlyNearer(own distance) bool {
	return len(own.deciders) > 0 && d.rtt*clearlyShare <= own.rtt && own.rtt-d.rtt >= clearlyLeast
}

// beside reports whether the region is here while the own one is nowhere: in it, nobody was told, or nobody is left.
func (d distance) beside(own distance) bool {
	return d.rtt <= besideMost && (!own.named && d.named || len(own.deciders) == 0)
}

func (d distance) unmeasured() (out []identity.NodeID) {
	for _, n := range d.deciders {
		if !n.Measured {
			out = append(out, n.ID)
		}
	}
	return out
}

// String is as in "0.4 ms away (nas, atlas)".
func (d distance) String() string {
	var names []string
	for _, n := range d.deciders {
		names = append(names, n.Name)
	}
	return fmt.Sprintf("%.1f ms away (%s)", float64(d.rtt.Microseconds())/1000, strings.Join(names, ", "))
}

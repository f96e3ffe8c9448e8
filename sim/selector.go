package sim

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/phantommesh/phantommesh/internal/nearest"
)

// Selector names machines: one (n3), those of a region (region:eu), or by what they are at that moment (coordinator:eu).
type Selector struct {
	words []string
}

// What a word of a selector may be, beside a machine's name and region:NAME.
const (
	wordAll     = "all"
	wordFounder = "founder" // the machine on which the mesh was founded
	wordLeader  = "leader"
	wordVoters  = "voters"
	wordMembers = "members" // who has no vote
	wordAny     = "any"     // one that runs, drawn by the seed
	wordOthers  = "others"  // in a partition: whoever is on no other side
)

var selectorWords = []string{wordAll, wordFounder, wordLeader, wordVoters, wordMembers, wordAny, wordOthers}

// Words that name a region.
const (
	regionPrefix      = "region:"
	coordinatorPrefix = "coordinator:" // whoever coordinates it
)

// parseSelector takes words separated by commas.
func parseSelector(words []string) (Selector, error) {
	var s Selector
	for _, w := range words {
		for part := range strings.SplitSeq(w, ",") {
			if part = strings.TrimSpace(part); part == "" {
				return s, errors.New("an empty name of a machine")
			}
			s.words = append(s.words, part)
		}
	}
	if len(s.words) > NodesMax {
		return s, fmt.Errorf("more than %d names", NodesMax)
	}
	return s, nil
}

func (s Selector) String() string { return strings.Join(s.words, ", ") }

// check looks whether the machines can be there. Those that join later count.
func (s Selector) check(scenario *Scenario) error {
	for _, w := range s.words {
		if slices.Contains(selectorWords, w) {
			continue
		}
		if name, ok := namedRegion(w); ok {
			var names []string
			for _, r := range scenario.Regions {
				names = append(names, r.Name)
			}
			if !slices.Contains(names, name) {
				return fmt.Errorf("no region %q%s", name, meant(name, names))
			}
			continue
		}
		number, isNode := strings.CutPrefix(w, "n")
		n, err := strconv.Atoi(number)
		if !isNode || err != nil || n < 1 {
			return fmt.Errorf("no machine is called %q: use n1 to n%d, region:NAME, coordinator:NAME%s", w, scenario.Nodes(), meant(w, selectorWords))
		}
		if most := scenario.Nodes() + scenario.joins(); n > most {
			return fmt.Errorf("there is no %s: the machines are n1 to n%d", w, most)
		}
	}
	return nil
}

// namedRegion is the region in a word that names one.
func namedRegion(w string) (string, bool) {
	if name, ok := strings.CutPrefix(w, coordinatorPrefix); ok {
		return name, true
	}
	return strings.CutPrefix(w, regionPrefix)
}

// joins is how many machines come during the timeline.
func (s *Scenario) joins() int {
	n := 0
	for _, step := range s.Timeline {
		if j, ok := step.Fault.(*join); ok {
			n += j.nodes
		}
	}
	return n
}

// pick finds the machines. Who is leader or has a vote is what the members say at this moment.
func (s Selector) pick(p *play) []*Host {
	var out []*Host
	add := func(h *Host) {
		if h != nil && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	for _, w := range s.words {
		for _, h := range pickWord(p, w) {
			add(h)
		}
	}
	return out
}

func pickWord(p *play, w string) []*Host {
	hosts := p.world.hosts
	switch w {
	case wordAll:
		return hosts
	case wordFounder:
		return hosts[:1]
	case wordLeader:
		return p.hostsByID(p.group().leader)
	case wordVoters:
		return p.hostsByID(p.group().voters...)
	case wordMembers:
		voters := p.hostsByID(p.group().voters...)
		return filter(hosts, func(h *Host) bool { return !slices.Contains(voters, h) })
	case wordAny:
		running := filter(hosts, (*Host).Running)
		if len(running) == 0 {
			return nil
		}
		return running[p.world.rand.IntN(len(running)):][:1]
	}
	if region, ok := strings.CutPrefix(w, regionPrefix); ok {
		return filter(hosts, func(h *Host) bool { return h.at.Region == region })
	}
	if region, ok := strings.CutPrefix(w, coordinatorPrefix); ok {
		return p.hostsByID(p.group().regions[region])
	}
	return filter(hosts, func(h *Host) bool { return h.name == w })
}

func filter(hosts []*Host, keep func(*Host) bool) []*Host {
	var out []*Host
	for _, h := range hosts {
		if keep(h) {
			out = append(out, h)
		}
	}
	return out
}

func meant(word string, known []string) string {
	if best, ok := nearest.Word(strings.ToLower(word), known); ok {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; known: " + strings.Join(known, ", ")
}

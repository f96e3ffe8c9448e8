package policy

import (
	"fmt"
	"strings"

	"github.com/phantommesh/phantommesh/internal/nearest"
)

// Problem is something about one line of a policy: an expect line that does not hold, or a rule that selects nobody.
type Problem struct {
	Line int
	Text string // the line, where there is one to quote
	Why  string
}

func (p Problem) String() string {
	if p.Text == "" {
		return fmt.Sprintf("line %d: %s", p.Line, p.Why)
	}
	return fmt.Sprintf("line %d: %s: %s", p.Line, p.Text, p.Why)
}

// pairsMax bounds the pairs of nodes that all expect lines together are tried on: some 0.2 s of the leader's time.
const pairsMax = 200_000

// Check tries the expect lines on the members and returns those that do not hold, with the rule that decided.
func (p *Policy) Check(members []Member) []Problem {
	t := trial{sides: newSides(p), sets: internedSets{rules: p.Rules, known: map[string]*Services{}}, members: members,
		matched: map[*Member]*matches{}, common: newBits(len(p.Rules))}
	var out []Problem
	for i := range p.Expects {
		e := &p.Expects[i]
		if why := t.try(e); why != "" {
			out = append(out, Problem{Line: e.Line, Text: e.String(), Why: why})
		}
	}
	return out
}

// trial tries expectations.
type trial struct {
	sides   *sides
	sets    internedSets
	members []Member
	matched map[*Member]*matches
	common  bits
	pairs   int
}

// matches are the rules that select a member, by family (IPv4 first) and side (from first).
type matches [2][2]bits

func (t *trial) match(m *Member) *matches {
	if known := t.matched[m]; known != nil {
		return known
	}
	out := &matches{}
	for family, v4 := range []bool{true, false} {
		if at, ok := m.address(v4); ok {
			out[family] = [2]bits{t.sides.from.match(m, at), t.sides.to.match(m, at)}
		}
	}
	t.matched[m] = out
	return out
}

// try returns why an expectation does not hold; empty if it does.
func (t *trial) try(e *Expect) string {
	from, to := selected(e.From, t.members), selected(e.To, t.members)
	switch {
	case len(from) == 0:
		return nobody(e.From, t.members)
	case len(to) == 0:
		return nobody(e.To, t.members)
	}
	tried := false
	for _, a := range from {
		for _, b := range to {
			if a == b {
				continue
			}
			if t.pairs++; t.pairs > pairsMax {
				return fmt.Sprintf("the expect lines concern more than %d pairs of nodes; name fewer", pairsMax)
			}
			tried = true
			if why := t.tryPair(e, a, b); why != "" {
				return why
			}
		}
	}
	if !tried {
		return "it is about a node and itself, between which there is no policy"
	}
	return ""
}

// tryPair tries an expectation on two members, over every family in which its selectors mean them.
func (t *trial) tryPair(e *Expect, a, b *Member) string {
	for family, v4 := range []bool{true, false} {
		from, ok := a.address(v4)
		to, also := b.address(v4)
		if !ok || !also || !e.From.selects(a, from) || !e.To.selects(b, to) {
			continue
		}
		which := t.match(a)[family][0].and(t.match(b)[family][1], t.common)
		set := t.sets.get(which)
		if e.Allow && !set.holds(e.Service) {
			return fmt.Sprintf("%s to %s %v is denied: %s", a.Name, b.Name, e.Service, t.denied(which))
		}
		if !e.Allow && set.touches(e.Service) {
			return fmt.Sprintf("%s to %s %v is allowed by the rule in line %d", a.Name, b.Name, e.Service, t.allowing(e.Service, which))
		}
	}
	return ""
}

// allowing returns the line of the first of some rules that allows any of a service.
func (t *trial) allowing(s Service, which bits) (line int) {
	which.each(func(i int) {
		if line == 0 && newServices(t.sides.rules[i:i+1], bits{1}).touches(s) {
			line = t.sides.rules[i].Line
		}
	})
	return line
}

// denied says what the rules between two nodes allow instead.
func (t *trial) denied(which bits) string {
	var lines []string
	which.each(func(i int) {
		if r := t.sides.rules[i]; len(lines) < 3 {
			lines = append(lines, fmt.Sprintf("line %d allows %s", r.Line, servicesText(r.Allow)))
		}
	})
	if len(lines) == 0 {
		return "no rule is from the one to the other"
	}
	return "no rule allows it (" + strings.Join(lines, ", ") + ")"
}

func servicesText(list []Service) string {
	var words []string
	for i, s := range list {
		if i == 5 {
			words = append(words, "…")
			break
		}
		words = append(words, s.String())
	}
	return strings.Join(words, " ")
}

func selected(s Selector, members []Member) []*Member {
	var out []*Member
	for i := range members {
		if s.selectsAny(&members[i]) {
			out = append(out, &members[i])
		}
	}
	return out
}

// nobody says that a selector selects no member, and what may have been meant.
func nobody(s Selector, members []Member) string {
	var known []string
	for i := range members {
		m := &members[i]
		switch s.Kind {
		case Node:
			known = append(known, m.Name)
		case Tag:
			known = append(known, m.Tags...)
		case Region:
			known = append(known, m.Region)
		}
	}
	why := fmt.Sprintf("no member is %s", bare(s))
	switch s.Kind {
	case Tag:
		why = "no member has the tag " + s.Name
	case Region:
		why = "no member is in the region " + s.Name
	case Prefix:
		why = "no member has an address in " + s.Prefix.String()
	}
	if best, ok := nearest.Word(s.Name, known); ok && best != s.Name {
		why += fmt.Sprintf("; did you mean %s?", best)
	}
	return why
}

// warningsMax bounds what Warnings returns.
const warningsMax = 100

// Warnings are the selectors of rules that select nobody now: a typing error, or a node that is to come.
func (p *Policy) Warnings(members []Member) []Problem {
	var out []Problem
	seen := map[Selector]bool{}
	for i := range p.Rules {
		r := &p.Rules[i]
		for _, s := range append(append([]Selector{}, r.From...), r.To...) {
			if seen[s] || len(out) == warningsMax {
				continue
			}
			seen[s] = true
			if s.Kind != Everyone && !anySelected(s, members) {
				out = append(out, Problem{Line: r.Line, Text: s.String(), Why: nobody(s, members)})
			}
		}
	}
	return out
}

func anySelected(s Selector, members []Member) bool {
	for i := range members {
		if s.selectsAny(&members[i]) {
			return true
		}
	}
	return false
}

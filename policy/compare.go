package policy

import (
	"slices"
)

// Change is what a policy changes between two groups of nodes that it treats alike.
type Change struct {
	From, To     []string // names; the first few of each group
	Pairs        int      // of a node of the one and a node of the other
	Family       string   // "IPv4" or "IPv6" where only one of them changes, or both do differently
	Gained, Lost []string // services, as a rule would say it
}

// namesMax bounds the names in one Change.
const namesMax = 5

// Changes is the difference between two policies on the members of a mesh.
type Changes struct {
	List  []Change // the first ones
	Pairs int      // pairs of nodes that any change concerns
	Total int      // changes, also those that List leaves out
	// Partial: the members fall into so many classes that not all were compared.
	Partial bool
}

// comparedMax bounds the pairs of classes that are compared: about five seconds.
const comparedMax = 4_000_000

// Compare tells what changes when after replaces before; a nil policy allows everything. List has at most most entries.
func Compare(before, after *Policy, members []Member, most int) Changes {
	c := comparison{sides: [2]*sides{newSides(before), newSides(after)}, most: most}
	for i := range c.sides {
		if c.sides[i] != nil {
			c.sets[i] = internedSets{rules: c.sides[i].rules, known: map[string]*Services{}}
		}
	}
	c.sort(members)
	for i, from := range c.classes {
		if i*len(c.classes) > comparedMax {
			c.out.Partial = true
			break
		}
		for _, to := range c.classes {
			c.compare(from, to)
		}
	}
	return c.out
}

// comparison sorts the members into classes that both policies treat alike, and compares the classes.
type comparison struct {
	sides   [2]*sides // before, after
	sets    [2]internedSets
	classes []*class
	most    int
	out     Changes
}

// class is a group of members that the same rules select.
type class struct {
	names []string
	count int
	match [2][2][2]bits // policy, family (IPv4 first), side (from first)
}

func (c *comparison) sort(members []Member) {
	known := map[string]*class{}
	for i := range members {
		m := &members[i]
		k, key := &class{}, []byte(nil)
		for policy, s := range c.sides {
			for family, v4 := range []bool{true, false} {
				at, ok := m.address(v4)
				if s == nil || !ok {
					key = append(key, boolByte(ok))
					if ok {
						k.match[policy][family] = [2]bits{{}, {}}
					}
					continue
				}
				k.match[policy][family] = [2]bits{s.from.match(m, at), s.to.match(m, at)}
				key = k.match[policy][family][1].append(k.match[policy][family][0].append(append(key, 1)))
			}
		}
		if known[string(key)] == nil {
			known[string(key)] = k
			c.classes = append(c.classes, k)
		}
		k = known[string(key)]
		if k.count++; len(k.names) < namesMax {
			k.names = append(k.names, m.Name)
		}
	}
}

func boolByte(b bool) byte {
	if b {
		return 3
	}
	return 2
}

// allowed is what the members of one class may open to those of another; ok is false without addresses of the family.
func (c *comparison) allowed(policy, family int, from, to *class) (s *Services, ok bool) {
	a, b := from.match[policy][family][0], to.match[policy][family][1]
	if a == nil || b == nil {
		return nil, false
	}
	if c.sides[policy] == nil {
		return everything, true
	}
	if !a.meets(b) {
		return nil, true
	}
	return c.sets[policy].get(a.and(b, make(bits, len(a)))), true
}

func (c *comparison) compare(from, to *class) {
	pairs := from.count * to.count
	if from == to {
		pairs -= from.count
	}
	if pairs == 0 {
		return
	}
	var found []Change
	for family, name := range []string{"IPv4", "IPv6"} {
		before, ok := c.allowed(0, family, from, to)
		after, _ := c.allowed(1, family, from, to)
		if !ok || before == after {
			continue
		}
		d := Change{From: from.names, To: to.names, Pairs: pairs, Family: name, Gained: after.minus(before), Lost: before.minus(after)}
		if len(d.Gained)+len(d.Lost) > 0 {
			found = append(found, d)
		}
	}
	if len(found) == 2 && slices.Equal(found[0].Gained, found[1].Gained) && slices.Equal(found[0].Lost, found[1].Lost) {
		found[0].Family, found = "", found[:1]
	}
	if len(found) > 0 {
		c.out.Pairs += pairs
	}
	for _, d := range found {
		if c.out.Total++; len(c.out.List) < c.most {
			c.out.List = append(c.out.List, d)
		}
	}
}

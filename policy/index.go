package policy

import (
	"encoding/binary"
	mbits "math/bits"
	"net/netip"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// bits is a set of rules, by their number.
type bits []uint64

func newBits(n int) bits { return make(bits, (n+63)/64) }

func (b bits) set(i int) { b[i/64] |= 1 << (i % 64) }

// and returns what is in both, in into.
func (b bits) and(o, into bits) bits {
	for i := range b {
		into[i] = b[i] & o[i]
	}
	return into
}

func (b bits) meets(o bits) bool {
	for i := range b {
		if b[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

func (b bits) each(f func(i int)) {
	for w, word := range b {
		for ; word != 0; word &= word - 1 {
			f(w*64 + mbits.TrailingZeros64(word))
		}
	}
}

// append adds the set's bytes to a key.
func (b bits) append(key []byte) []byte {
	for _, w := range b {
		key = binary.LittleEndian.AppendUint64(key, w)
	}
	return key
}

// index finds the rules of which one side selects a member, without asking every rule.
type index struct {
	size     int
	everyone bits
	tags     map[string]bits
	names    map[string]bits
	regions  map[string]bits
	ids      map[identity.NodeID]bits
	prefixes []prefixRule
}

type prefixRule struct {
	prefix netip.Prefix
	rule   int
}

func newIndex(rules []Rule, side func(*Rule) []Selector) *index {
	x := &index{size: len(rules), everyone: newBits(len(rules)), tags: map[string]bits{}, names: map[string]bits{}, regions: map[string]bits{},
		ids: map[identity.NodeID]bits{}}
	for i := range rules {
		for _, s := range side(&rules[i]) {
			switch {
			case s.Kind == Everyone:
				x.everyone.set(i)
			case s.Kind == Tag:
				put(x.tags, s.Name, i, len(rules))
			case s.Kind == Region:
				put(x.regions, s.Name, i, len(rules))
			case s.Kind == Prefix:
				x.prefixes = append(x.prefixes, prefixRule{s.Prefix, i})
			case s.ID.IsZero():
				put(x.names, s.Name, i, len(rules))
			default:
				put(x.ids, s.ID, i, len(rules))
			}
		}
	}
	return x
}

func put[K comparable](m map[K]bits, key K, rule, rules int) {
	if m[key] == nil {
		m[key] = newBits(rules)
	}
	m[key].set(rule)
}

// match returns the rules that select a member at one of its addresses. Those that select the member by what it is select it at any.
func (x *index) match(m *Member, at netip.Addr) bits {
	out := newBits(x.size)
	join := func(b bits) {
		for i := range b {
			out[i] |= b[i]
		}
	}
	join(x.everyone)
	for _, t := range m.Tags {
		join(x.tags[t])
	}
	join(x.names[m.Name])
	join(x.regions[m.Region])
	join(x.ids[m.ID])
	for _, p := range x.prefixes {
		if p.prefix.Contains(at) {
			out.set(p.rule)
		}
	}
	return out
}

// sides are the two indexes of a policy. Of no policy they are nil.
type sides struct {
	rules    []Rule
	from, to *index
}

func newSides(p *Policy) *sides {
	if p == nil {
		return nil
	}
	return &sides{rules: p.Rules, from: newIndex(p.Rules, func(r *Rule) []Selector { return r.From }),
		to: newIndex(p.Rules, func(r *Rule) []Selector { return r.To })}
}

// selects tells whether a selector selects a member at an address.
func (s Selector) selects(m *Member, at netip.Addr) bool {
	switch s.Kind {
	case Everyone:
		return true
	case Tag:
		for _, t := range m.Tags {
			if t == s.Name {
				return true
			}
		}
		return false
	case Region:
		return m.Region == s.Name
	case Prefix:
		return s.Prefix.Contains(at)
	case Node:
		return (s.ID.IsZero() && m.Name == s.Name) || (!s.ID.IsZero() && m.ID == s.ID)
	}
	return false
}

// selectsAny tells whether a selector selects a member at any of its addresses.
func (s Selector) selectsAny(m *Member) bool {
	for _, a := range m.Addresses {
		if s.selects(m, a) {
			return true
		}
	}
	return false
}

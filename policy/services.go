package policy

import (
	"cmp"
	"slices"
	"strings"
)

// Numbers of protocols in IP headers (IANA).
const (
	numberICMP4 = 1
	numberTCP   = 6
	numberUDP   = 17
	numberICMP6 = 58
)

// Services is a set of services, immutable. Nil is the empty set.
type Services struct {
	any, icmp bool
	tcp, udp  []portRange // sorted, apart from each other
}

type portRange struct{ first, last uint16 }

// Allows tells whether the set holds a protocol, by its number in IP headers, and destination port (of TCP and UDP).
func (s *Services) Allows(protocol uint8, port uint16) bool {
	switch {
	case s == nil:
		return false
	case s.any:
		return true
	case protocol == numberTCP:
		return within(s.tcp, port)
	case protocol == numberUDP:
		return within(s.udp, port)
	case protocol == numberICMP4, protocol == numberICMP6:
		return s.icmp
	}
	return false
}

func within(ranges []portRange, port uint16) bool {
	low, high := 0, len(ranges)
	for low < high {
		middle := int(uint(low+high) >> 1)
		switch r := &ranges[middle]; {
		case port < r.first:
			high = middle
		case port > r.last:
			low = middle + 1
		default:
			return true
		}
	}
	return false
}

// everything is the set of a mesh without a policy.
var everything = &Services{any: true}

// newServices joins the services of rules; nil if there are none.
func newServices(rules []Rule, which bits) *Services {
	var s *Services
	which.each(func(i int) {
		if s == nil {
			s = &Services{}
		}
		for _, a := range rules[i].Allow {
			s.add(a)
		}
	})
	if s != nil {
		s.tcp, s.udp = merged(s.tcp), merged(s.udp)
	}
	return s
}

func (s *Services) add(a Service) {
	switch a.Protocol {
	case AnyProtocol:
		s.any = true
	case ICMP:
		s.icmp = true
	case TCP:
		s.tcp = append(s.tcp, portRange{a.First, a.Last})
	case UDP:
		s.udp = append(s.udp, portRange{a.First, a.Last})
	}
}

// merged sorts ranges and joins those that overlap or touch.
func merged(in []portRange) []portRange {
	slices.SortFunc(in, func(a, b portRange) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last)) })
	var out []portRange
	for _, r := range in {
		if n := len(out); n > 0 && uint32(r.first) <= uint32(out[n-1].last)+1 {
			out[n-1].last = max(out[n-1].last, r.last)
			continue
		}
		out = append(out, r)
	}
	return slices.Clip(out)
}

// holds tells whether all of a service is in the set.
func (s *Services) holds(a Service) bool {
	if s == nil || s.any {
		return s != nil
	}
	switch a.Protocol {
	case ICMP:
		return s.icmp
	case TCP:
		return len(without([]portRange{{a.First, a.Last}}, s.tcp)) == 0
	case UDP:
		return len(without([]portRange{{a.First, a.Last}}, s.udp)) == 0
	}
	return false
}

// touches tells whether any of a service is in the set.
func (s *Services) touches(a Service) bool {
	if s == nil || s.any {
		return s != nil
	}
	meets := func(ranges []portRange) bool {
		return slices.ContainsFunc(ranges, func(r portRange) bool { return r.first <= a.Last && a.First <= r.last })
	}
	switch a.Protocol {
	case ICMP:
		return s.icmp
	case TCP:
		return meets(s.tcp)
	case UDP:
		return meets(s.udp)
	}
	return s.icmp || len(s.tcp)+len(s.udp) > 0
}

// without returns the parts of a that are not in b.
func without(a, b []portRange) []portRange {
	var out []portRange
	for _, r := range a {
		first, done := uint32(r.first), false
		for _, c := range b {
			if uint32(c.last) < first || c.first > r.last {
				continue
			}
			if uint32(c.first) > first {
				out = append(out, portRange{uint16(first), c.first - 1})
			}
			if first = uint32(c.last) + 1; first > uint32(r.last) {
				done = true
				break
			}
		}
		if !done {
			out = append(out, portRange{uint16(first), r.last})
		}
	}
	return out
}

// minus describes what is in s and not in o, as it would be written in a rule.
func (s *Services) minus(o *Services) []string {
	if s == nil || (o != nil && o.any) {
		return nil
	}
	if o == nil {
		o = &Services{}
	}
	if s.any {
		if rest := o.words(); len(rest) > 0 {
			return []string{"* except " + strings.Join(rest, " ")}
		}
		return []string{"*"}
	}
	return (&Services{icmp: s.icmp && !o.icmp, tcp: without(s.tcp, o.tcp), udp: without(s.udp, o.udp)}).words()
}

// words are the services of the set as they would be written in a rule.
func (s *Services) words() []string {
	var out []string
	switch {
	case s == nil:
		return nil
	case s.any:
		return []string{"*"}
	}
	for _, r := range s.tcp {
		out = append(out, Service{TCP, r.first, r.last}.String())
	}
	for _, r := range s.udp {
		out = append(out, Service{UDP, r.first, r.last}.String())
	}
	if s.icmp {
		out = append(out, "icmp")
	}
	return out
}

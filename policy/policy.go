package policy

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Bounds of a policy. A rule is about 80 bytes of YAML, so the text is full at about 3,000 rules.
const (
	TextMax      = 256 << 10 // bytes
	RulesMax     = 4096
	ExpectsMax   = 1024
	selectorsMax = 256 // of one side of a rule
	servicesMax  = 256 // of one rule
)

// Policy is what a text says, immutable.
type Policy struct {
	Rules   []Rule
	Expects []Expect
}

// Rule lets every node that From selects open Allow to every node that To selects.
type Rule struct {
	Line     int // in the text
	From, To []Selector
	Allow    []Service
}

// SelectorKind says what a selector looks at.
type SelectorKind uint8

// The kinds.
const (
	Everyone SelectorKind = iota // *
	Tag                          // tag:server
	Node                         // node:atlas, node:n-…
	Region                       // region:home
	Prefix                       // 10.86.1.0/24: overlay addresses
)

// Selector selects nodes, or some of their addresses.
type Selector struct {
	Kind   SelectorKind
	Name   string // of a tag, node or region
	ID     identity.NodeID
	Prefix netip.Prefix
}

// String is the selector as it is written.
func (s Selector) String() string {
	switch s.Kind {
	case Tag:
		return "tag:" + s.Name
	case Node:
		if !s.ID.IsZero() {
			return "node:" + s.ID.String()
		}
		return "node:" + s.Name
	case Region:
		return "region:" + s.Name
	case Prefix:
		return s.Prefix.String()
	}
	return "*"
}

// Protocol is what a service runs over.
type Protocol uint8

// The protocols that have a word of their own.
const (
	AnyProtocol Protocol = iota // *: also those without a word
	TCP
	UDP
	ICMP // ICMPv4 and ICMPv6, requests of all kinds
)

// String is the protocol's word.
func (p Protocol) String() string {
	return [...]string{"*", "tcp", "udp", "icmp"}[min(p, ICMP)]
}

// Service is what may be opened: a protocol and, of TCP and UDP, destination ports.
type Service struct {
	Protocol    Protocol
	First, Last uint16 // of TCP and UDP; 1 to 65535: all
}

// String is the service as it is written.
func (s Service) String() string {
	switch {
	case s.Protocol != TCP && s.Protocol != UDP, s.First <= 1 && s.Last == portMax:
		return s.Protocol.String()
	case s.First == s.Last:
		return s.Protocol.String() + "/" + strconv.Itoa(int(s.First))
	}
	return fmt.Sprintf("%v/%d-%d", s.Protocol, s.First, s.Last)
}

// Expect is a test that travels with the policy: what From opens to To is, or is not, allowed.
type Expect struct {
	Line     int
	From, To Selector // every node that each selects
	Service  Service
	Allow    bool
}

// String is the line as it is written.
func (e Expect) String() string {
	verdict := "deny"
	if e.Allow {
		verdict = "allow"
	}
	return fmt.Sprintf("%s -> %s %v %s", bare(e.From), bare(e.To), e.Service, verdict)
}

// bare is a selector in an expect line, where a node's name stands alone.
func bare(s Selector) string { return strings.TrimPrefix(s.String(), "node:") }

// Canonical is the policy without what has no meaning: comments, order, repetition, layout. It is YAML that Parse reads.
func (p *Policy) Canonical() []byte {
	var rules, expects []string
	for _, r := range p.Rules {
		rules = append(rules, fmt.Sprintf("  - {from: [%s], to: [%s], allow: [%s]}\n", quoted(r.From), quoted(r.To), quoted(r.Allow)))
	}
	for _, e := range p.Expects {
		expects = append(expects, fmt.Sprintf("  - %q\n", e.String()))
	}
	return []byte(block("rules", rules) + block("expect", expects))
}

func block(key string, lines []string) string {
	slices.Sort(lines)
	lines = slices.Compact(lines)
	if len(lines) == 0 {
		return key + ": []\n"
	}
	return key + ":\n" + strings.Join(lines, "")
}

func quoted[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i, x := range list {
		words[i] = strconv.Quote(x.String())
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ", ")
}

// Hash is the SHA-256 of the canonical form: policies with the same hash mean the same.
func (p *Policy) Hash() [32]byte { return sha256.Sum256(p.Canonical()) }

// Member is what a policy knows of a node.
type Member struct {
	ID        identity.NodeID
	Name      string
	Addresses []netip.Addr // of the overlay, at most one of each family
	Tags      []string
	Region    string
}

// address returns the member's address of a family.
func (m *Member) address(v4 bool) (netip.Addr, bool) {
	for _, a := range m.Addresses {
		if a.Is4() == v4 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

const portMax = 65535

// parseSelector reads tag:, node:, region:, an address or prefix, or *.
func parseSelector(word string) (Selector, error) {
	if word == "*" {
		return Selector{Kind: Everyone}, nil
	}
	if p, err := parsePrefix(word); err == nil {
		return Selector{Kind: Prefix, Prefix: p}, nil
	}
	kind, name, ok := strings.Cut(word, ":")
	kinds := map[string]SelectorKind{"tag": Tag, "node": Node, "region": Region}
	k, known := kinds[kind]
	switch {
	case strings.Contains(word, "/"):
		return Selector{}, fmt.Errorf("%q is no address range; write one like 10.86.1.0/24", short(word))
	case !ok:
		return Selector{}, fmt.Errorf("%q selects nothing; write tag:%[1]s, node:%[1]s, region:%[1]s, an address range or \"*\"", short(word))
	case !known:
		return Selector{}, fmt.Errorf("unknown selector %q%s", short(kind)+":", meant(kind, []string{"tag", "node", "region"}))
	}
	if k == Node {
		if id, err := identity.ParseNodeID(name); err == nil {
			return Selector{Kind: Node, ID: id}, nil
		}
	}
	if err := certificate.CheckLabel(name); err != nil {
		return Selector{}, fmt.Errorf("%q: %w", short(word), err)
	}
	return Selector{Kind: k, Name: name}, nil
}

func parsePrefix(word string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(word); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(word)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, errors.New("no prefix")
	}
	if p != p.Masked() {
		return netip.Prefix{}, errors.New("bits beyond the prefix")
	}
	return p, nil
}

// parseService reads tcp/22, tcp/8000-8100, tcp, udp/53, icmp or *.
func parseService(word string) (Service, error) {
	if word == "*" {
		return Service{Protocol: AnyProtocol}, nil
	}
	name, ports, has := strings.Cut(word, "/")
	switch name {
	case "icmp":
		if has {
			return Service{}, fmt.Errorf("%q: icmp has no ports", short(word))
		}
		return Service{Protocol: ICMP}, nil
	case "tcp", "udp":
	default:
		return Service{}, fmt.Errorf("%q is no service%s", short(word), meant(name, []string{"tcp", "udp", "icmp"}))
	}
	s := Service{Protocol: TCP, First: 1, Last: portMax}
	if name == "udp" {
		s.Protocol = UDP
	}
	if !has || ports == "*" {
		return s, nil
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	var err error
	if s.First, err = parsePort(first); err == nil {
		s.Last, err = parsePort(last)
	}
	if err != nil || s.First > s.Last {
		return Service{}, fmt.Errorf("%q: ports are 1 to %d, or a range like 8000-8100", short(word), portMax)
	}
	return s, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && (n == 0 || s[0] == '0') {
		err = errors.New("no port")
	}
	return uint16(n), err
}

const expectForm = `want a line like "laptop-1 -> nas tcp/445 deny" or "laptop-1 -> nas:445 allow"`

// parseExpect reads "FROM -> TO SERVICE allow|deny". FROM and TO are names of nodes or selectors; TO:PORT is short for TO tcp/PORT.
func parseExpect(line string) (Expect, error) {
	var e Expect
	words := strings.Fields(line)
	if len(words) < 4 || len(words) > 5 || words[1] != "->" {
		return e, fmt.Errorf("%q: %s", short(line), expectForm)
	}
	verdict := words[len(words)-1]
	if verdict != "allow" && verdict != "deny" {
		return e, fmt.Errorf("%q ends in neither allow nor deny", short(line))
	}
	e.Allow = verdict == "allow"
	to, service := words[2], ""
	if len(words) == 5 {
		service = words[3]
	} else {
		i := strings.LastIndexByte(to, ':')
		if i < 0 {
			return e, fmt.Errorf("%q names no port or protocol: %s", short(line), expectForm)
		}
		to, service = to[:i], "tcp/"+to[i+1:]
	}
	var err error
	if e.From, err = parseEnd(words[0]); err != nil {
		return e, err
	}
	if e.To, err = parseEnd(to); err != nil {
		return e, err
	}
	if e.Service, err = parseService(service); err != nil {
		return e, err
	}
	if e.Service.Protocol == AnyProtocol && e.Allow {
		return e, fmt.Errorf("%q: name what is to be allowed, or say deny", short(line))
	}
	return e, nil
}

// parseEnd reads one end of an expect line: a selector, or the bare name or ID of a node.
func parseEnd(word string) (Selector, error) {
	if s, err := parseSelector(word); err == nil || strings.ContainsAny(word, ":/") {
		return s, err
	}
	return parseSelector("node:" + word)
}

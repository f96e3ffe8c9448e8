package node

import (
	"context"
	"fmt"
	"strings"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// Netcheck tells what this node has learned of the network in front of it.
func (n *Node) Netcheck(context.Context) (*localapi.Netcheck, error) {
	return nil, localapi.Fail(localapi.Failed, "this version cannot check the network", nil, "")
}

// Why explains the path to a node.
func (n *Node) Why(_ context.Context, r localapi.WhyRequest) (*localapi.Why, error) {
	if _, err := n.find(r.Node); err != nil {
		return nil, err
	}
	return nil, localapi.Fail(localapi.Failed, "this version cannot explain paths", nil, "")
}

// explain fills the words of an explanation from its facts: the sentence and what could be changed. relays are members that would do as a relay.
func explain(w *localapi.Why, relays []string) {
	w.Summary = summary(w)
	w.Change = advice(w, relays)
}

// summary is one sentence: direct or relayed, and why.
func summary(w *localapi.Why) string {
	ours, theirs := w.Self, w.Peer
	switch {
	case w.Path.Kind == localapi.PathDirect && w.Path.Transport == localapi.TransportTCP:
		return fmt.Sprintf("direct to %s over TCP, because UDP %s", w.Path.Endpoint, orWhere(blockedWhere(w), "does not get through"))
	case w.Path.Kind == localapi.PathDirect && ours.NAT == localapi.NATNone && theirs.NAT == localapi.NATNone:
		return fmt.Sprintf("direct to %s: neither side is behind a NAT", w.Path.Endpoint)
	case w.Path.Kind == localapi.PathDirect:
		return fmt.Sprintf("direct to %s", w.Path.Endpoint)
	case w.Path.Kind == localapi.PathRelay:
		return fmt.Sprintf("relayed through %s, because %s", orWhere(w.ViaName, "another member"), obstacle(w))
	}
	if len(w.Tried) == 0 {
		return "no path: nothing was sent to this node lately, so none was looked for"
	}
	return "no path: nothing that was tried was answered, and no relay led to it"
}

// obstacle is what keeps two nodes from a direct path, as far as theory goes.
func obstacle(w *localapi.Why) string {
	ours, theirs := w.Self.NAT, w.Peer.NAT
	switch {
	case blockedWhere(w) != "":
		return "UDP " + blockedWhere(w)
	case noFamily(w):
		return "the two have no IP version in common"
	case ours == localapi.NATHard && theirs == localapi.NATHard:
		return "both NATs give every destination another port, so neither side can know where to send"
	case ours == localapi.NATHard:
		return "the NAT here gives every destination another port, and no hole was found yet"
	case theirs == localapi.NATHard:
		return "the NAT there gives every destination another port, and no hole was found yet"
	}
	return "no direct attempt has succeeded yet"
}

// blockedWhere says on which side UDP is blocked; empty: on none.
func blockedWhere(w *localapi.Why) string {
	ours, theirs := w.Self.NAT == localapi.NATBlocked, w.Peer.NAT == localapi.NATBlocked
	switch {
	case ours && theirs:
		return "is blocked on both sides"
	case ours:
		return "is blocked here"
	case theirs:
		return "is blocked there"
	}
	return ""
}

// noFamily tells whether one side has only IPv6 addresses and the other only IPv4 ones.
func noFamily(w *localapi.Why) bool {
	families := func(s localapi.Side) (v4, v6 bool) {
		for _, e := range s.Endpoints {
			if strings.HasPrefix(e, "[") {
				v6 = true
			} else {
				v4 = true
			}
		}
		return v4, v6
	}
	our4, our6 := families(w.Self)
	their4, their6 := families(w.Peer)
	return (our4 || our6) && (their4 || their6) && !(our4 && their4) && !(our6 && their6)
}

func orWhere(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// advice lists what a person could change, the likeliest to help first. A direct path over UDP needs none.
func advice(w *localapi.Why, relays []string) []string {
	if w.Path.Kind == localapi.PathDirect && w.Path.Transport != localapi.TransportTCP {
		return nil
	}
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	sides := []struct {
		localapi.Side
		where string
	}{{w.Self, "here"}, {w.Peer, "at " + w.Name}}
	for _, s := range sides {
		if s.NAT == localapi.NATBlocked {
			add("%s: let outgoing UDP through the firewall", s.where)
		}
	}
	translated := func(s localapi.Side) bool { return s.NAT == localapi.NATEasy || s.NAT == localapi.NATHard }
	for _, s := range sides {
		if translated(s.Side) && (s.PortMapping == "none" || s.PortMapping == "") {
			add("%s: enable UPnP, NAT-PMP or PCP on the router, or forward the UDP port by hand and name it with --advertise ADDR:PORT", s.where)
		}
	}
	switch {
	case w.Self.IPv6 && w.Peer.IPv6:
	case w.Self.IPv6:
		add("at %s: use IPv6, which needs no NAT", w.Name)
	case w.Peer.IPv6:
		add("here: use IPv6, which needs no NAT; %s has it", w.Name)
	default:
		if translated(w.Self) && translated(w.Peer) {
			add("on both sides: use IPv6, which needs no NAT")
		}
	}
	if w.Path.Kind != localapi.PathDirect {
		switch len(relays) {
		case 0:
			add("run a member on a machine that everybody can reach, as a relay near both")
		default:
			add("a relay nearer to both shortens the way; these could be one: %s", strings.Join(relays, ", "))
		}
	}
	return out
}

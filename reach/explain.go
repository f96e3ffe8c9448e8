package reach

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

// Side is what is known of one of two nodes.
type Side struct {
	Name       string
	NAT        peer.NAT
	Mapping    nat.Dependence
	Mapped     []netip.AddrPort
	IPv4, IPv6 bool // has an address of the family that everybody reaches, or could by way of a NAT
	PortMapped bool // a router has granted it a port, or somebody forwarded one
}

// RelayConsidered is a relay that leads, or might have led, to a member.
type RelayConsidered struct {
	ID     identity.NodeID
	Name   string
	RTT    time.Duration // to us; zero: unknown
	Load   uint8         // percent
	Ours   bool          // at hand for us
	Theirs bool          // the member names it
	InUse  bool          // packets go this way

	Appointed bool   // by the mesh, for this node's region
	Result    string // of the last attempt; empty: not tried
}

// Explanation says why the path to a member is what it is.
type Explanation struct {
	ID           identity.NodeID
	Path         Path // Kind NoPath: there is none
	Ours, Theirs Side
	Summary      string // one sentence
	Tried        []Tried
	Punches      []Punch // the latest last
	Relays       []RelayConsidered
	Advice       []string // what the user could change, the most promising first; empty if nothing need be
}

// facts are what an explanation is drawn from.
type facts struct {
	Path         Path
	Ours, Theirs Side
	Port         uint16 // ours
	Tried        []Tried
	Punches      []Punch
	Relays       []RelayConsidered
	// GoodRelay is the member that is reached directly with the lowest round trip and does not relay; empty: there is none.
	GoodRelay string
	Mapper    bool // a router is asked for a port
}

// summary says in one sentence what is so and why.
func (f facts) summary() string {
	name := f.Theirs.Name
	switch f.Path.Kind {
	case Direct:
		return fmt.Sprintf("packets go to %s directly, at %s", name, f.Path.Addr)
	case Pipe:
		return fmt.Sprintf("packets go to %s directly, but over TCP: %s", name, f.why())
	case Relayed:
		return fmt.Sprintf("packets go to %s through the relay %s: %s", name, f.via(), f.why())
	}
	return fmt.Sprintf("there is no path to %s: %s", name, f.why())
}

func (f facts) via() string {
	for _, r := range f.Relays {
		if r.InUse {
			return r.Name
		}
	}
	return f.Path.Via.Short()
}

// why says what keeps the two from a direct path, by the NATs of both.
func (f facts) why() string {
	ours, theirs, name := f.Ours.NAT, f.Theirs.NAT, f.Theirs.Name
	switch {
	case !f.shareFamily():
		return fmt.Sprintf("one of the two has only IPv4 and the other only IPv6 (this machine %s, %s %s)", families(f.Ours), name, families(f.Theirs))
	case ours == peer.NATBlocked && theirs == peer.NATBlocked:
		return "UDP is blocked by the networks of both"
	case ours == peer.NATBlocked:
		return "UDP is blocked by this machine's network"
	case theirs == peer.NATBlocked:
		return fmt.Sprintf("UDP is blocked by the network of %s", name)
	case ours == peer.NATHard && theirs == peer.NATHard:
		return "both NATs are hard: each gives another port for every destination, so neither side can be told where to send"
	case ours == peer.NATHard && theirs == peer.NATEasy:
		return fmt.Sprintf("this machine's NAT is hard, and many ports toward the easy one of %s did not help yet", name)
	case ours == peer.NATEasy && theirs == peer.NATHard:
		return fmt.Sprintf("the NAT of %s is hard, and trying many of its ports did not help yet", name)
	case ours == peer.NATEasy && theirs == peer.NATEasy:
		return "both NATs are easy, yet no check got through: one of them may stand behind another, or both behind the same one"
	case ours == peer.NATUnknown && theirs == peer.NATUnknown:
		return "neither knows yet which NAT stands in front of it"
	case ours == peer.NATUnknown:
		return "this machine does not know yet which NAT stands in front of it"
	case theirs == peer.NATUnknown:
		return fmt.Sprintf("%s does not know yet which NAT stands in front of it", name)
	case ours == peer.NATNone && theirs == peer.NATNone:
		return "no NAT stands between them, yet no check got through: a firewall may drop them"
	case ours == peer.NATNone:
		return fmt.Sprintf("%s is behind a NAT and could reach this machine, yet no check got through: a firewall here may drop them", name)
	}
	return fmt.Sprintf("this machine is behind a NAT and could reach %s, yet no check got through: a firewall there may drop them", name)
}

// shareFamily reports whether both have addresses of one family; not knowing of any counts as yes.
func (f facts) shareFamily() bool {
	o, t := f.Ours, f.Theirs
	return o.IPv4 && t.IPv4 || o.IPv6 && t.IPv6 || !o.IPv4 && !o.IPv6 || !t.IPv4 && !t.IPv6
}

func families(s Side) string {
	switch {
	case s.IPv4 && s.IPv6:
		return "has both"
	case s.IPv6:
		return "has IPv6"
	}
	return "has IPv4"
}

// advice is what the user could change, the most promising first.
func (f facts) advice() []string {
	if f.Path.Kind == Direct {
		return nil
	}
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	name := f.Theirs.Name
	if f.Ours.NAT == peer.NATBlocked {
		add("allow outgoing UDP in this machine's network, or use another network: it lets only TCP through")
	}
	if f.Theirs.NAT == peer.NATBlocked {
		add("allow outgoing UDP in the network of %s", name)
	}
	ours, theirs := behind(f.Ours), behind(f.Theirs)
	port := "UDP" // to whom UDP is blocked a TCP port helps
	if f.Ours.NAT == peer.NATBlocked || f.Theirs.NAT == peer.NATBlocked {
		port = "TCP"
	}
	if ours {
		add("forward %s port %d on this machine's router to this machine, and start it with --advertise ADDRESS:%d", port, f.Port, f.Port)
		if f.Mapper {
			add("enable UPnP, NAT-PMP or PCP on this machine's router: it granted no port that works")
		} else {
			add("start this machine without --no-port-mapping, and enable UPnP, NAT-PMP or PCP on its router")
		}
	}
	if theirs {
		add("forward a %s port on the router of %s to it, or enable UPnP, NAT-PMP or PCP there", port, name)
	}
	out = append(out, f.adviceIPv6()...)
	if f.Ours.NAT == peer.NATNone && f.Theirs.NAT != peer.NATBlocked {
		add("let UDP port %d in through this machine's firewall", f.Port)
	}
	if f.Theirs.NAT == peer.NATNone && f.Ours.NAT != peer.NATBlocked {
		add("let its UDP port in through the firewall of %s", name)
	}
	if f.GoodRelay != "" {
		add("%s would make a good relay, the nearest of the members that do not: let others reach it (forward a port, --advertise), without --no-relay", f.GoodRelay)
	}
	return out
}

// behind reports whether a port opened by hand would help the side.
func behind(s Side) bool {
	return (s.NAT == peer.NATEasy || s.NAT == peer.NATHard || s.NAT == peer.NATUnknown) && !s.PortMapped
}

// adviceIPv6 says who would have to have IPv6 for no NAT to stand in the way.
func (f facts) adviceIPv6() []string {
	if f.Ours.NAT == peer.NATNone && f.Theirs.NAT == peer.NATNone && f.shareFamily() {
		return nil
	}
	switch {
	case !f.Ours.IPv6 && !f.Theirs.IPv6:
		return []string{fmt.Sprintf("use IPv6, which needs no NAT: neither this machine nor %s has it", f.Theirs.Name)}
	case !f.Ours.IPv6:
		return []string{fmt.Sprintf("use IPv6, which needs no NAT: %s has it, this machine does not", f.Theirs.Name)}
	case !f.Theirs.IPv6:
		return []string{fmt.Sprintf("use IPv6, which needs no NAT: this machine has it, %s does not", f.Theirs.Name)}
	}
	return []string{fmt.Sprintf("both have IPv6, yet it does not get through: let UDP in through the IPv6 firewalls of both routers (here port %d)", f.Port)}
}

// explain puts the facts into words.
func explain(id identity.NodeID, f facts) Explanation {
	return Explanation{
		ID: id, Path: f.Path, Ours: f.Ours, Theirs: f.Theirs, Summary: f.summary(), Tried: f.Tried, Punches: f.Punches, Relays: f.Relays,
		Advice: f.advice(),
	}
}

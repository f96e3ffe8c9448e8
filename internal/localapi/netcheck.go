package localapi

import "time"

// Kinds of NAT, as Self.NAT and Netcheck.NAT say them.
const (
	NATNone    = "none"    // others see the node's own address
	NATEasy    = "easy"    // one mapping for all destinations: a hole can be punched
	NATHard    = "hard"    // another mapping for every destination
	NATBlocked = "blocked" // no UDP at all
	NATUnknown = "unknown" // nobody has told yet
)

// Mapping behaviours (RFC 4787 §4.1).
const (
	MappingIndependent = "endpoint-independent"
	MappingAddress     = "address-dependent"
	MappingPort        = "address-and-port-dependent"
)

// Transports of a path.
const (
	TransportUDP = "udp"
	TransportTCP = "tcp"
)

// Netcheck answers phantom netcheck: what stands between this node and the others.
type Netcheck struct {
	NAT         string       `json:"nat"`
	Mapping     string       `json:"mapping"` // empty: not known
	Mapped      List[string] `json:"mapped"`  // addresses under which others see this node
	PortMapping PortMapping  `json:"port_mapping"`
	UDP         bool         `json:"udp"`  // somebody answered over UDP
	IPv6        bool         `json:"ipv6"` // somebody answered over IPv6
	Relays      List[Relay]  `json:"relays"`

	Local        List[string]    `json:"local"`        // addresses of this host's interfaces that are offered
	Filtering    string          `json:"filtering"`    // what may come in, in the terms of mapping; empty: not known
	Hairpin      string          `json:"hairpin"`      // yes, no, unknown: the NAT turns packets to its own mappings around (RFC 4787 §6)
	CarrierNAT   bool            `json:"carrier_nat"`  // a second NAT, the provider's, stands behind the router's
	Reasons      List[string]    `json:"reasons"`      // what this is concluded from
	Reachable    bool            `json:"reachable"`    // others can begin: an address that is open to all is known to work
	OffersRelay  bool            `json:"offers_relay"` // this node forwards for others
	Asked        List[Asked]     `json:"asked"`        // who was asked for our address, and what they said
	Coordinators List[RoundTrip] `json:"coordinators"`
	At           time.Time       `json:"at"` // when it was last learned
}

// PortMapping is what the router gave when it was asked for a port.
type PortMapping struct {
	Protocol string `json:"protocol"` // pcp, nat-pmp, upnp, none
	External string `json:"external"` // host:port; empty: none
	Error    string `json:"error,omitempty"`
}

// Relay is a member that forwards for others.
type Relay struct {
	RoundTrip
	Load   int    `json:"load"`    // percent of what it offers to carry
	AtHand bool   `json:"at_hand"` // this node is registered there
	Theirs bool   `json:"theirs"`  // the other node is
	InUse  bool   `json:"in_use"`  // packets to the other node go this way
	Result string `json:"result"`  // of the last attempt; empty: not tried

	Appointed bool `json:"appointed"` // by the mesh, for this node's region
}

// RoundTrip is a member and the time to it and back.
type RoundTrip struct {
	ID    string  `json:"id"`
	Name  string  `json:"name"`
	RTTMs float64 `json:"rtt_ms"` // 0: not measured
}

// Asked is one server's answer to the question for our address.
type Asked struct {
	Server string  `json:"server"` // host:port
	Name   string  `json:"name"`   // of the member it is; empty: a STUN server
	Mapped string  `json:"mapped"` // empty: no answer
	RTTMs  float64 `json:"rtt_ms"`
}

// WhyRequest names the node.
type WhyRequest struct {
	Node string `json:"node"`
}

// Why answers phantom why NODE: how packets get there, why so, and what could be better.
type Why struct {
	ID      string        `json:"id"`
	Name    string        `json:"name"`
	Path    Path          `json:"path"`
	ViaName string        `json:"via_name"` // of the relay
	Summary string        `json:"summary"`  // one sentence: direct or relayed, and why
	Self    Side          `json:"self"`
	Peer    Side          `json:"peer"`
	Relays  List[Relay]   `json:"relays"` // that lead there, or might
	Tried   List[Attempt] `json:"tried"`  // the latest last
	Change  List[string]  `json:"change"` // what would make it better, the likeliest first; empty: nothing
}

// Side is one end of a path, as it says of itself.
type Side struct {
	NAT        string       `json:"nat"`
	Mapping    string       `json:"mapping"` // empty: not known
	Mapped     List[string] `json:"mapped"`  // addresses under which others see it
	IPv4       bool         `json:"ipv4"`    // has a public address, or could have by way of a NAT
	IPv6       bool         `json:"ipv6"`
	PortMapped bool         `json:"port_mapped"` // a router gave it a port, or somebody forwarded one
}

// What an Attempt tried.
const (
	TriedAddress = "address" // checks to one address
	TriedPunch   = "punch"   // both sides at the same time
	TriedRelay   = "relay"   // a channel through a relay
	TriedTCP     = "tcp"     // a connection over TCP
)

// Attempt is one thing that was tried to get to a node.
type Attempt struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`
	How    string    `json:"how"`    // the strategy of a punch, the address, the name of the relay
	Began  bool      `json:"began"`  // here; false: the peer began
	Result string    `json:"result"` // direct, or why not
	TookMs float64   `json:"took_ms"`
}

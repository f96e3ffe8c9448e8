package reach

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

// Stream is one stream of a protocol with a member.
type Stream interface {
	net.Conn
	// Peer is the member at the other end, as control has authenticated it.
	Peer() identity.NodeID
}

// Streams opens and serves streams by protocol name, with members only. [OverControl] makes one of a control.Host.
type Streams interface {
	Open(ctx context.Context, id identity.NodeID, protocol string) (Stream, error)
	// Handle registers what serves a protocol; serve owns its stream, and ctx ends with it.
	Handle(protocol string, serve func(ctx context.Context, s Stream))
}

// PathKind says how packets get to a member.
type PathKind uint8

// The kinds of path.
const (
	NoPath  PathKind = iota
	Direct           // UDP, nobody in between
	Pipe             // TCP, nobody in between
	Relayed          // through another member
)

// Path is how a member is reached now.
type Path struct {
	Kind  PathKind
	Addr  netip.AddrPort // zero through a relay
	Via   identity.NodeID
	RTT   time.Duration
	Heard time.Time // when the last packet came from there
	// Tunnel: packets of the overlay travel this way, not only gossip and the like.
	Tunnel bool
}

// Tried is one address at which a member was looked for.
type Tried struct {
	Addr   netip.AddrPort
	Via    identity.NodeID // the relay, of a channel
	Pipe   bool            // TCP
	Result string          // "answered", "silent", or the system's error
	RTT    time.Duration
	At     time.Time
}

// Grant is what a relay gave a pair of nodes: the number under which each sends to the other.
type Grant struct{ ForA, ForB uint32 }

// Underlay is what this package needs of *underlay.Socket; [OverSocket] makes one.
type Underlay interface {
	// Path is how a member is reached now; false if it is not.
	Path(id identity.NodeID) (Path, bool)
	// Paths are those of all members that have one.
	Paths() map[identity.NodeID]Path
	// Watch signals changes of paths and of local addresses.
	Watch() (changed <-chan struct{}, cancel func())
	// Connect finds a path to a member, whatever kind.
	Connect(ctx context.Context, id identity.NodeID) error
	// Probe measures the round trip to a member over its active path.
	Probe(ctx context.Context, id identity.NodeID) (time.Duration, error)
	// Try has these addresses of a member checked now.
	Try(id identity.NodeID, addrs []netip.AddrPort) error
	// FanOut has an address of a member checked from many sockets at once, FanIn many ports of one; both return when they are through, have found a
	// path, or ctx ends.
	FanOut(ctx context.Context, id identity.NodeID, to netip.AddrPort, sockets int) error
	FanIn(ctx context.Context, id identity.NodeID, plan nat.Plan) error
	// DialPipe opens a TCP connection to whoever is at an address and returns the address of the link, to Try.
	DialPipe(ctx context.Context, to netip.AddrPort) (netip.AddrPort, error)
	// Keep keeps a path to a member, and its NAT mapping, alive.
	Keep(id identity.NodeID, on bool)
	// Tried are the latest results of looking for a member.
	Tried(id identity.NodeID) []Tried

	// Ask sends a question of a discovery until it is answered, its time is up or ctx ends, and says how long the answer took.
	Ask(ctx context.Context, q nat.Ask) (nat.Reply, time.Duration)
	// Observed are the addresses at which members have seen us, and how many of them.
	Observed() map[netip.AddrPort]int
	LocalEndpoints() []netip.AddrPort
	// Unsolicited is how many members reached us at an address to which we had sent nothing before.
	Unsolicited() int

	// OpenChannel makes an address of the channel that a relay granted; CloseChannel gives it back.
	OpenChannel(relay identity.NodeID, number uint32) (netip.AddrPort, error)
	CloseChannel(addr netip.AddrPort)
	// AcceptChannels: the relay may send us frames of channels that others opened.
	AcceptChannels(relay identity.NodeID, yes bool)
	// RelayPair begins to forward between two members, RelayEnd ends it.
	RelayPair(a, b identity.NodeID) (Grant, error)
	RelayEnd(g Grant)
	// RelayLoad is how much of the rate for forwarding is used, in percent.
	RelayLoad() int
}

// Mapping is what a router has granted.
type Mapping struct {
	Protocol string         // "pcp", "nat-pmp", "upnp"; empty: none
	External netip.AddrPort // at which the router takes our packets in
}

// Mapper asks the router for a port. nat/portmap has one.
type Mapper interface {
	// Run keeps the mapping until ctx ends, then takes it back and returns.
	Run(ctx context.Context)
	Mappings() []Mapping
	// Watch signals changes.
	Watch() (changed <-chan struct{}, cancel func())
}

// Table is what this package needs of *peer.Table.
type Table interface {
	Self() identity.NodeID
	Get(id identity.NodeID) (peer.Entry, bool)
	All() []peer.Entry
	Watch() (changed <-chan struct{}, cancel func())
}

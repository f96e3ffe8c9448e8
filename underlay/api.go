package underlay

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// What callers may test for.
var (
	// ErrClosed: the socket was closed.
	ErrClosed = errors.New("underlay: socket is closed")
	// ErrPortInUse: another program holds the UDP port; the error is a [*PortError].
	ErrPortInUse = errors.New("UDP port is in use by another program")
	// ErrUnknownNode: the node is not in the peer table, or was revoked.
	ErrUnknownNode = errors.New("underlay: not a member that we know")
	// ErrNoCandidates: nobody has told an address of the node.
	ErrNoCandidates = errors.New("underlay: no address of the node is known")
	// ErrUnreachable: no address of the node answered.
	ErrUnreachable = errors.New("underlay: none of the node's addresses answers")
	// ErrNoPath: there is no path to the node at the moment. One is being looked for.
	ErrNoPath = errors.New("underlay: no path to the node")
	// ErrTooLarge: the packet does not fit the smallest path.
	ErrTooLarge = errors.New("underlay: packet is too large")
)

// PortError says which UDP port could not be opened.
type PortError struct {
	Port uint16
	Err  error
}

// Error says what to do about it.
func (e *PortError) Error() string {
	return fmt.Sprintf("underlay: open UDP port %d: %v; stop that program or choose another port (--port 0 picks a free one)", e.Port, e.Err)
}

// Unwrap returns the reason, [ErrPortInUse].
func (e *PortError) Unwrap() error { return e.Err }

// Sizes of packets in bytes.
const (
	// GossipMax is the largest gossip packet that every path carries: the IPv6 minimum MTU less IPv6, UDP and the byte of ours.
	GossipMax = 1280 - 40 - 8 - 1
	// gossipLimit is the largest that is sent at all: an Ethernet frame less the same.
	gossipLimit = 1500 - 40 - 8 - 1
)

// Addr is the address of a node as QUIC sees it: its key, never where it is.
type Addr struct{ Key identity.WireGuardKey }

// Network returns "phantom".
func (Addr) Network() string { return "phantom" }

// String returns the key in base64.
func (a Addr) String() string { return a.Key.String() }

// PathKind says how packets get to a node.
type PathKind uint8

// The kinds of path.
const (
	PathNone PathKind = iota
	PathDirect
	PathRelay
)

// String returns the kind as in `status --json`.
func (k PathKind) String() string {
	switch k {
	case PathDirect:
		return "direct"
	case PathRelay:
		return "relay"
	}
	return "none"
}

// Way is how packets get to a node, or could.
type Way struct {
	Kind PathKind
	// Endpoint is the node's address, invalid on a relayed path.
	Endpoint netip.AddrPort
	// Via is the relay, zero on a direct path.
	Via identity.NodeID
	// Transport is "udp" or "tcp"; on a relayed path that of the leg to the relay.
	Transport string
	// RTT is the smoothed round trip of the checks.
	RTT time.Duration
}

// PathInfo describes the path to a node.
type PathInfo struct {
	ID identity.NodeID
	Way
	// MTU is that of the tunnel over this path, in bytes.
	MTU int
	// Fragments: not even packets of the smallest tunnel MTU, 1280, fit the path; they are fragmented on the way.
	Fragments bool
	// Lossy: checks pass, but (nearly) none of our data arrives, and there is no better path.
	Lossy bool
	// Since is when packets began to travel this way, Heard when the last one came from there.
	Since time.Time
	Heard time.Time
	// Tunnel: the WireGuard device has the node as a peer, so that packets of the overlay travel this way, or did minutes ago.
	Tunnel bool
	// Standby are the other validated ways to the node.
	Standby []Way
}

// GossipPacket is a sealed packet for the gossip pool.
type GossipPacket struct {
	// From is where it came from, invalid if that is no address of UDP. FromID is who sits there, zero if that is no member's validated path: then anybody may have sent it.
	From   netip.AddrPort
	FromID identity.NodeID
	Data   []byte
	At     time.Time
}

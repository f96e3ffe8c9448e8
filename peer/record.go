package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Bounds of a record. The largest record they allow is computed, and held against RecordMax, in codec.go.
const (
	// EndpointsMax is the number of addresses a node may announce: two interfaces, two families, local and mapped.
	EndpointsMax = 8
	// RegionMax is the longest region name in bytes, that of a DNS label (RFC 1035 §2.3.4).
	RegionMax = 63
	// RelaysMax is the number of relays through which a node says it can be reached: one in use and one in reserve.
	RelaysMax = 2
	// RecordMax is the largest encoded record in bytes. Memberlist's node meta holds 512; 32 are left to whoever wraps it.
	RecordMax = 480
)

// recordContext keeps a record's signature from being taken for one of another purpose.
const recordContext = "phantommesh peer record v1"

// What is wrong with a record that was refused.
var (
	ErrRecordForm      = errors.New("peer: malformed record")
	ErrRecordSignature = errors.New("peer: record is not signed by the node it speaks for")
)

// EndpointKind says how a node came to know one of its addresses.
type EndpointKind uint8

// The kinds of endpoint.
const (
	// Local is the address of one of the node's own interfaces.
	Local EndpointKind = 1
	// Mapped is an address that others (STUN, path checks) saw the node's packets come from.
	Mapped EndpointKind = 2
	// PortMapped is an address that a router gave on request (PCP, NAT-PMP, UPnP).
	PortMapped EndpointKind = 3
)

// String returns the kind as the CLI and the logs show it.
func (k EndpointKind) String() string {
	switch k {
	case Local:
		return "local"
	case Mapped:
		return "mapped"
	case PortMapped:
		return "port-mapped"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// NAT is the kind of NAT in front of a node, by how hard it is to get through.
type NAT uint8

// The kinds of NAT. The numbers are part of the record.
const (
	NATUnknown NAT = 0
	// NATNone: the node's own address is the one others see.
	NATNone NAT = 1
	// NATEasy: one mapping for all destinations (RFC 4787 endpoint-independent mapping), so that others can be told of it.
	NATEasy NAT = 2
	// NATHard: another mapping for every destination (address-dependent, or address and port-dependent).
	NATHard NAT = 3
	// NATBlocked: no UDP gets through.
	NATBlocked NAT = 4
)

var natNames = [...]string{NATUnknown: "unknown", NATNone: "none", NATEasy: "easy", NATHard: "hard", NATBlocked: "blocked"}

// String returns the kind as in `status --json`.
func (n NAT) String() string {
	if int(n) < len(natNames) {
		return natNames[n]
	}
	return fmt.Sprintf("nat-%d", uint8(n))
}

// Endpoint is an underlay address at which a node says it may be reached. It is a claim: only a path check makes it a path.
type Endpoint struct {
	Addr netip.AddrPort
	Kind EndpointKind
}

// valid reports whether the endpoint may stand in a record: a unicast address in its plain form (no zone, no IPv4 inside IPv6)
// and a port.
func (e Endpoint) valid() bool {
	a := e.Addr.Addr()
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.Is4In6(), a.Zone() != "", e.Addr.Port() == 0:
		return false
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	}
	return e.Kind >= Local && e.Kind <= PortMapped
}

// Record is what a node says of itself. It is signed with the node's Ed25519 key, so whoever passes it on cannot change it.
type Record struct {
	// ID is the node that speaks. It is not in the encoded bytes (gossip's node name and the DHT's key carry it) but is signed.
	ID identity.NodeID
	// Sequence grows with every record a node makes, across restarts too; a receiver keeps the highest.
	Sequence uint64
	// Region is where the node says it stands; empty if it does not say.
	Region string
	// Named says that a person named the region; else the node has chosen it.
	Named bool
	// Endpoints are where it may be reached, the likeliest first.
	Endpoints []Endpoint
	// Relays are the nodes through which it may be reached when no endpoint works.
	Relays []identity.NodeID
	// StateVersion is the ledger index of the newest signed state the node holds: who is behind pulls from who is ahead.
	StateVersion uint64
	// Voter says that the node is a voter of the Raft group.
	Voter bool
	// Relay says that the node carries other members' packets.
	Relay bool
	// Busy says that it carries about as much as it can: others are better asked first.
	Busy bool
	// NAT is what stands between the node and the others, as far as it knows.
	NAT NAT
	// Coordinate is where the node stands in the space of round trips, as far as it knows; only if Placed.
	Coordinate Coordinate
	Placed     bool
}

// Network is the network that fails as one with the node, as far as its addresses tell: the /24 or /48 of the first that is not private, else of
// the first. Invalid if it has none.
func (r Record) Network() netip.Prefix {
	var at netip.Addr
	for _, e := range r.Endpoints {
		if a := e.Addr.Addr().Unmap(); !at.IsValid() || at.IsPrivate() && !a.IsPrivate() {
			at = a
		}
	}
	bits := 48
	if at.Is4() {
		bits = 24
	}
	p, err := at.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// Sign encodes the record for key's node and signs it. Endpoints that may not stand in a record, and those beyond
// [EndpointsMax], are left out; so are relays beyond [RelaysMax]. The result is never longer than [RecordMax]. The record must
// speak for key's own node (a zero ID is filled in), and its region must fit [RegionMax].
func (r Record) Sign(key *identity.Key) ([]byte, error) {
	if r.ID.IsZero() {
		r.ID = key.ID()
	}
	if r.ID != key.ID() {
		return nil, fmt.Errorf("peer: sign record of %s with the key of %s", r.ID.Short(), key.ID().Short())
	}
	if !validRegion(r.Region) {
		return nil, fmt.Errorf("peer: region %q is not a name of at most %d bytes; choose a shorter, printable one", r.Region, RegionMax)
	}
	if r.NAT > NATBlocked {
		r.NAT = NATUnknown
	}
	r.Endpoints = announced(r.Endpoints)
	r.Relays = listed(r.Relays)
	body := r.appendBody(nil)
	return append(body, key.SignEd25519(recordContext, signedBytes(r.ID, body))...), nil
}

// VerifyRecord parses the record of the node with the public half pub and checks its signature.
// It returns [ErrRecordForm] or [ErrRecordSignature].
func VerifyRecord(pub *identity.Public, b []byte) (Record, error) {
	id := pub.NodeID()
	r, err := ParseRecord(id, b)
	if err != nil {
		return Record{}, err
	}
	split := len(b) - signatureSize
	if err := pub.VerifyEd25519(recordContext, signedBytes(id, b[:split]), b[split:]); err != nil {
		return Record{}, fmt.Errorf("%w: record %d of %s: %w", ErrRecordSignature, r.Sequence, id.Short(), err)
	}
	return r, nil
}

// announced returns the endpoints that may stand in a record, in their order and plain form, each once.
func announced(endpoints []Endpoint) []Endpoint {
	var out []Endpoint
	for _, e := range endpoints {
		e.Addr = netip.AddrPortFrom(e.Addr.Addr().Unmap().WithZone(""), e.Addr.Port())
		if !e.valid() || hasAddr(out, e.Addr) {
			continue
		}
		if out = append(out, e); len(out) == EndpointsMax {
			break
		}
	}
	return out
}

// listed returns the relays that may stand in a record, each once.
func listed(relays []identity.NodeID) []identity.NodeID {
	var out []identity.NodeID
	for _, id := range relays {
		if id.IsZero() || slices.Contains(out, id) {
			continue
		}
		if out = append(out, id); len(out) == RelaysMax {
			break
		}
	}
	return out
}

func hasAddr(endpoints []Endpoint, addr netip.AddrPort) bool {
	return slices.ContainsFunc(endpoints, func(e Endpoint) bool { return e.Addr == addr })
}

// signedBytes is what the signature covers: the speaker's ID, then the body.
func signedBytes(id identity.NodeID, body []byte) []byte {
	return append(append(make([]byte, 0, len(id)+len(body)), id[:]...), body...)
}

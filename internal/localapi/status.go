package localapi

import "time"

// Status answers phantom status: the mesh, this node, the coordinators and the peers, in one look.
type Status struct {
	Mesh         Mesh         `json:"mesh"`
	Self         Self         `json:"self"`
	Coordinators Coordinators `json:"coordinators"`
	Peers        List[Peer]   `json:"peers"`
	// Health holds plain sentences about what is wrong now, such as "no quorum: decisions wait, traffic goes on". Empty: all is well.
	Health List[string] `json:"health"`
}

// Mesh names the mesh. Both fields are empty on a node that is in none.
type Mesh struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// What a node can say of its own place in the mesh (Self.State).
const (
	StateOnline    = "online"    // in the mesh: tunnels and the control channel are served
	StateEnrolling = "enrolling" // has a token, has no certificate yet
	StatePending   = "pending"   // asked to be admitted, nobody approved yet
	StateOffline   = "offline"   // in no mesh, or stopping
)

// Roles of Self.Role.
const (
	RoleCoordinator = "coordinator"
	RoleMember      = "member"
)

// Self is this node.
type Self struct {
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	Addresses   List[string] `json:"addresses"` // overlay addresses, IPv4 first
	Region      string       `json:"region"`
	RegionNamed bool         `json:"region_named"`         // by a person; else the node has chosen it
	RegionWhy   string       `json:"region_why,omitempty"` // what the choice rests on
	Role        string       `json:"role"`
	State       string       `json:"state"`
	Endpoints   List[string] `json:"endpoints"` // addresses of the physical network, host:port
	NAT         string       `json:"nat"`       // none, easy, hard, blocked, unknown
	Certificate Certificate  `json:"certificate"`
	Interface   string       `json:"interface"`         // the network device, or "userspace"
	Proxies     *Proxies     `json:"proxies,omitempty"` // ways into the overlay for programs of this host, in userspace mode
	Pending     *Pending     `json:"pending,omitempty"` // in StatePending, once a member holds the request
}

// Pending is this node's request to be let into a mesh.
type Pending struct {
	Code    string    `json:"code"` // six digits, the same on the member
	Mesh    Mesh      `json:"mesh"`
	Member  string    `json:"member"`  // node ID of who holds the request
	Address string    `json:"address"` // and where that is, host:port
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires"`
}

// Proxies are where programs reach the overlay without a device: host:port.
type Proxies struct {
	SOCKS5 string `json:"socks5"`
	HTTP   string `json:"http"`
}

// Certificate is the part of the member certificate that people ask about. NotAfter is nil on a node without one.
type Certificate struct {
	NotAfter *time.Time `json:"not_after"`
	Serial   string     `json:"serial"`
}

// Coordinators is the group's state as status shows it: node IDs only.
type Coordinators struct {
	Quorum  bool         `json:"quorum"`
	Leader  string       `json:"leader"` // empty: none known
	Term    uint64       `json:"term"`
	Voters  List[string] `json:"voters"`
	Regions List[Region] `json:"regions"`
}

// Region says who coordinates a region.
type Region struct {
	Region      string `json:"region"`
	Coordinator string `json:"coordinator"` // empty: nobody of the region can be reached
	Term        uint64 `json:"term"`        // grows with every change
}

// Peer is another node as this node sees it.
type Peer struct {
	ID        string       `json:"id"`
	Name      string       `json:"name"`
	Addresses List[string] `json:"addresses"`
	Region    string       `json:"region"`
	Tags      List[string] `json:"tags"`
	State     string       `json:"state"` // alive, suspect, dead, left
	Path      Path         `json:"path"`
	Tunnel    Tunnel       `json:"tunnel"`
}

// Path kinds.
const (
	PathDirect = "direct"
	PathRelay  = "relay"
	PathNone   = "none"
)

// Path is the way packets take to a peer now.
type Path struct {
	Kind     string  `json:"kind"`
	Endpoint string  `json:"endpoint"` // host:port, of the peer or of the relay
	Via      string  `json:"via"`      // node ID of the relay
	ViaName  string  `json:"via_name,omitempty"`
	RTTMs    float64 `json:"rtt_ms"` // 0: not measured
	MTU      int     `json:"mtu"`
	// Transport of the leg that begins here: udp or tcp. Empty: there is no path.
	Transport string `json:"transport"`
}

// Tunnel states.
const (
	TunnelUp         = "up"
	TunnelConnecting = "connecting"
	TunnelIdle       = "idle"
)

// Tunnel is the WireGuard tunnel to a peer.
type Tunnel struct {
	State         string `json:"state"`
	PostQuantum   bool   `json:"post_quantum"`
	PSKEpoch      uint64 `json:"psk_epoch"`
	PSKAgeS       int64  `json:"psk_age_s"`
	HandshakeAgeS int64  `json:"handshake_age_s"`
	RxBytes       uint64 `json:"rx_bytes"`
	TxBytes       uint64 `json:"tx_bytes"`
}

// PeerList answers phantom peers.
type PeerList struct {
	Peers List[Peer] `json:"peers"`
}

// CoordinatorList answers phantom coordinators: Coordinators with names and times.
type CoordinatorList struct {
	Quorum  bool               `json:"quorum"`
	Leader  string             `json:"leader"`
	Term    uint64             `json:"term"`
	Voters  List[Voter]        `json:"voters"`
	Regions List[RegionDetail] `json:"regions"`
}

// Voter is a member of the Raft group.
type Voter struct {
	ID    string    `json:"id"`
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
}

// RegionDetail is a region with the name of its coordinator.
type RegionDetail struct {
	Region      string    `json:"region"`
	Coordinator string    `json:"coordinator"`
	Name        string    `json:"name"`
	Term        uint64    `json:"term"`
	Since       time.Time `json:"since"` // when the term began

	Relays List[RelayDuty] `json:"relays"` // appointed for the region
}

// RelayDuty is a member that was appointed to relay.
type RelayDuty struct {
	ID    string    `json:"id"`
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
}

package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/peer"
)

// Doctor gives what only the running node knows; the command adds its checks of the host.
func (n *Node) Doctor(ctx context.Context) (*localapi.Doctor, error) {
	d := &findings{OK: true}
	m := n.online.Load()
	if m == nil {
		d.add(localapi.Finding{Check: "mesh", Severity: localapi.SeverityError, What: "this node is in no mesh",
			Why: "it was neither invited nor told to found one", Next: "phantom join TOKEN, or phantom up --new NAME"})
		return (*localapi.Doctor)(d), nil
	}
	state := m.group.State()
	for _, f := range []localapi.Finding{
		m.checkQuorum(state), m.checkPeers(), m.checkCertificate(state), m.checkReplica(), m.checkInterface(), m.checkEndpoints(),
		m.checkPolicy(state), m.checkLAN(state), m.checkRelays(), m.checkRegion(ctx, state),
	} {
		d.add(f)
	}
	if f, several := m.checkOtherRegions(); several {
		d.add(f)
	}
	return (*localapi.Doctor)(d), nil
}

// count is a number and its noun.
func count(n int, noun string) string { return countOf(n, noun, noun+"s") }

func countOf(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// findings collects.
type findings localapi.Doctor

func (d *findings) add(f localapi.Finding) {
	d.Findings = append(d.Findings, f)
	if !f.OK && f.Severity == localapi.SeverityError {
		d.OK = false
	}
}

// checkQuorum tells whether the mesh can decide.
func (m *membership) checkQuorum(state *coordinator.State) localapi.Finding {
	c := state.Coordinators
	if c.Quorum {
		return localapi.Finding{Check: "quorum", OK: true, Severity: localapi.SeverityInfo,
			What: fmt.Sprintf("the mesh can decide: %s, leader %s", count(len(c.Voters), "coordinator"), m.nameOf(state, c.Leader.String()))}
	}
	var missing []string
	for _, id := range c.Voters {
		if !m.alive(id) {
			missing = append(missing, m.nameOf(state, id.String()))
		}
	}
	why := "no leader with a majority of the coordinators behind it"
	next := "wait some seconds: an election may be running"
	if len(missing) > 0 {
		why = "these coordinators cannot be reached: " + strings.Join(missing, ", ")
		next = "start phantom on them, or reconnect them; traffic between members goes on meanwhile. If most coordinators are lost for good: " +
			m.recoverHint(state)
	}
	return localapi.Finding{Check: "quorum", Severity: localapi.SeverityError, What: "no quorum: nothing can be decided (invite, join, revoke)",
		Why: why, Next: next}
}

// recoverHint says what to type when the quorum is lost for good, and where.
func (m *membership) recoverHint(state *coordinator.State) string {
	if state.MaySpeakRaft(m.node.ID(), m.node.cfg.Now()) {
		return "phantom coordinators recover on this machine"
	}
	for _, i := range state.Issuers {
		if m.alive(i.ID) && state.MaySpeakRaft(i.ID, m.node.cfg.Now()) {
			return "phantom coordinators recover on " + m.nameOf(state, i.ID.String())
		}
	}
	return "phantom restore FILE --as-only-coordinator with a coordinator's backup"
}

// regionWait bounds the question to the region's coordinator.
const regionWait = 2 * time.Second

// checkRegion has the coordinator of this node's region say how it is there.
func (m *membership) checkRegion(ctx context.Context, state *coordinator.State) localapi.Finding {
	region := state.RegionOf(m.node.ID())
	f := localapi.Finding{Check: "region", Severity: localapi.SeverityWarning}
	id, _, ok := state.RegionCoordinator(region)
	if !ok {
		f.What = "region " + region + " has no coordinator"
		f.Why = "none of its members can be reached by the leader, or nothing can be decided now"
		f.Next = "phantom coordinators shows whether there is a quorum; members of the region ask the voters meanwhile"
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, regionWait)
	defer cancel()
	h, err := m.group.RegionHealth(ctx, region)
	if err != nil {
		f.What = "the coordinator of region " + region + ", " + m.node.nameOf(id) + ", did not say how the region is"
		f.Why, f.Next = err.Error(), "look again in a moment: another is elected within seconds if it is gone; then phantom why "+m.node.nameOf(id)
		return f
	}
	if told := m.toldRegion(); told != "" && told != region {
		f.What = "this node was told to be of region " + told + " and is of " + region
		f.Why, f.Next = "the mesh has not moved it yet", "the log says why, if it takes longer than a minute: four moves at once, then one in ten minutes"
		return f
	}
	f.OK, f.Severity = true, localapi.SeverityInfo
	f.What = fmt.Sprintf("%s coordinates %s: %s, %d alive, %d with an older state, %d with a certificate that ends soon, %s appointed",
		m.node.nameOf(id), region, count(h.Members, "member"), h.Alive, h.Behind, h.Expiring, count(len(h.Relays), "relay"))
	if m.toldRegion() == "" {
		f.What += "; this node has chosen the region: " + m.regionWhy()
	}
	return f
}

// checkOtherRegions tells which other regions are out of sight; of a mesh with one there is nothing to tell.
func (m *membership) checkOtherRegions() (f localapi.Finding, several bool) {
	seen, lost := m.abroad.sight()
	if len(seen)+len(lost) == 0 {
		return f, false
	}
	if len(lost) == 0 {
		return localapi.Finding{Check: "regions", OK: true, Severity: localapi.SeverityInfo,
			What: fmt.Sprintf("%s in sight: %s", countOf(len(seen), "other region", "other regions"), strings.Join(seen, ", "))}, true
	}
	return localapi.Finding{Check: "regions", Severity: localapi.SeverityWarning,
		What: "out of sight: " + strings.Join(lost, ", "),
		Why:  "nobody who speaks for it has been heard of: it is off, or the network between here and there is cut",
		Next: "its members count as dead until it is back; phantom coordinators shows who coordinates it, phantom why NODE what the way there is"}, true
}

// checkRelays tells whether members that cannot be reached directly have somebody to relay for them.
func (m *membership) checkRelays() localapi.Finding {
	var hard, relays []string
	others := 0
	for _, e := range m.node.peers.All() {
		if e.Revoked || !e.HasRecord || e.Member == nil || e.State != peer.Alive || e.ID == m.node.ID() {
			continue
		}
		others++
		if e.Record.Relay {
			relays = append(relays, e.Member.Name)
		}
		if e.Record.NAT == peer.NATHard || e.Record.NAT == peer.NATBlocked {
			hard = append(hard, e.Member.Name)
		}
	}
	own := m.reach.NAT()
	if own == peer.NATHard || own == peer.NATBlocked {
		hard = append(hard, "this node")
	}
	if m.reach.OffersRelay() {
		relays = append(relays, "this node")
	}
	if others == 0 || len(hard) == 0 || len(relays) > 0 {
		return localapi.Finding{Check: "relays", OK: true, Severity: localapi.SeverityInfo,
			What: fmt.Sprintf("%s can relay, %s behind a hard NAT or without UDP", count(len(relays), "member"), count(len(hard), "member"))}
	}
	return localapi.Finding{Check: "relays", Severity: localapi.SeverityWarning, What: "no member can relay for others",
		Why:  "these are behind a hard NAT or their UDP is blocked, and may not reach each other directly: " + strings.Join(hard, ", "),
		Next: "forward the UDP port of one machine in its router, or add a machine that others reach (any small server); see phantom netcheck"}
}

func (m *membership) nameOf(state *coordinator.State, id string) string {
	for _, member := range state.Members {
		if member.ID.String() == id {
			return member.Certificate.Name
		}
	}
	return "unknown"
}

// checkPeers tells whether anybody can be reached.
func (m *membership) checkPeers() localapi.Finding {
	var alive, all int
	var silent []string
	for _, e := range m.node.peers.All() {
		if e.Revoked || e.ID == m.node.ID() {
			continue
		}
		all++
		if e.State == peer.Alive {
			alive++
			continue
		}
		silent = append(silent, e.Member.Name)
	}
	f := localapi.Finding{Check: "peers", OK: true, Severity: localapi.SeverityInfo, What: fmt.Sprintf("%d of %d other members can be reached", alive, all)}
	accuser := m.node.accuser()
	switch {
	case accuser != "":
		f.OK, f.Severity, f.What = false, localapi.SeverityError, accuser+" says that this node's membership was revoked"
		f.Why = "no coordinator has confirmed it yet; until then this node keeps trying"
		f.Next = "ask who runs the mesh; if it is so, move the state folder away and join again with a new invitation"
	case all == 0:
		f.What, f.Next = "this node is the only member so far", "phantom invite makes a token for the next machine"
	case alive == 0:
		f.OK, f.Severity = false, localapi.SeverityError
		f.Why = "nobody answers at any known address"
		f.Next = fmt.Sprintf("check this machine's network, that UDP port %d is not blocked by a firewall here or there, and "+
			"that the others run; if all of them have moved, say where one is: phantom up --bootstrap HOST:PORT", m.node.socket.Port())
	case len(silent) > 0:
		f.Why = "not reached: " + strings.Join(silent, ", ")
	}
	return f
}

// checkReplica tells whether this node's copy of the ledger works, where it is a coordinator.
func (m *membership) checkReplica() localapi.Finding {
	if err := m.group.Fault(); err != nil {
		return localapi.Finding{Check: "ledger", Severity: localapi.SeverityError, What: "this coordinator's copy of the ledger does not work",
			Why: err.Error(), Next: "make room on the disk if it is full; then restart the node: phantom down, phantom up"}
	}
	return localapi.Finding{Check: "ledger", OK: true, Severity: localapi.SeverityInfo, What: fmt.Sprintf("the mesh's state is at version %d", m.group.Version())}
}

func (m *membership) checkInterface() localapi.Finding {
	f := localapi.Finding{Check: "interface", OK: true, Severity: localapi.SeverityInfo, What: "packets go through " + m.tun}
	if m.userspace {
		f.What = fmt.Sprintf("userspace networking: SOCKS5 at %s, HTTP proxy at %s", m.proxies.socks.Addr(), m.proxies.http.Addr())
	}
	for _, t := range m.taken {
		f.OK, f.Severity, f.Why = false, localapi.SeverityWarning, fmt.Sprintf("a route to %s, which is also this mesh's range, leads to %s: here the mesh has no IPv4", t.Range, t.Device)
		f.Next = "use the members' IPv6 addresses; or take the other route away and start this node again. A mesh that is founded with --ipv4 has a range of its own"
	}
	if m.degraded != nil {
		f.OK, f.Severity, f.Why = false, localapi.SeverityWarning, m.degraded.Error()
		f.Next = "run as root or give the binary CAP_NET_ADMIN for a network device"
	}
	return f
}

// checkEndpoints tells whether others have any address to reach this node at.
func (m *membership) checkEndpoints() localapi.Finding {
	local := m.node.socket.LocalEndpoints()
	if len(local) > 0 {
		return localapi.Finding{Check: "endpoints", OK: true, Severity: localapi.SeverityInfo,
			What: fmt.Sprintf("offered to others: %s, first %s", countOf(len(local), "address", "addresses"), local[0])}
	}
	return localapi.Finding{Check: "endpoints", Severity: localapi.SeverityError, What: "this machine has no address that others could reach",
		Why: "it has none but loopback and link-local addresses, or --listen names none of its own", Next: "connect it to a network that gives it an address, or check --listen"}
}

// checkLAN tells of the other meshes of the LAN. To be alone in one's own beside another is seldom meant: two first machines that did not hear each
// other have founded one each.
func (m *membership) checkLAN(state *coordinator.State) localapi.Finding {
	f := localapi.Finding{Check: "lan", OK: true, Severity: localapi.SeverityInfo, What: "no beacons: this node does not look at the LAN"}
	if m.node.lan == nil {
		return f
	}
	neighbours := m.node.lan.Neighbours()
	f.What = fmt.Sprintf("%s heard on the LAN", count(len(neighbours), "beacon"))
	var others []string
	for _, found := range meshesOf(neighbours, "") {
		if found.fingerprint != state.Mesh.ID.Short() {
			others = append(others, fmt.Sprintf("%s (%s)", found.name, found.fingerprint))
		}
	}
	if len(others) == 0 {
		return f
	}
	f.Why = "other meshes: " + strings.Join(others, ", ")
	if len(state.Members) > 1 {
		return f
	}
	f.OK, f.Severity, f.What = false, localapi.SeverityWarning, "this node is alone in its mesh, and there is another on the LAN"
	f.Next = "if this machine belongs there: phantom leave, then phantom up --mesh NAME"
	return f
}

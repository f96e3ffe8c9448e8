package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/dataplane/firewall"
	"github.com/phantommesh/phantommesh/discovery/dht"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/place"
	"github.com/phantommesh/phantommesh/reach"
)

// membership is what a node has only while it is in a mesh. It is assembled once and closed once.
type membership struct {
	node  *Node
	group *coordinator.Group

	// Constant after assemble.
	reach     *reach.Reach
	gossip    *gossip.Host
	abroad    *abroad
	dht       atomic.Pointer[dht.DHT] // nil: --no-dht
	plane     *dataplane.Plane
	guard     guard // the packet filter
	userspace bool
	degraded  error // why there is no device although nobody asked for userspace
	taken     []dataplane.RangeTaken
	proxies   proxies
	tun       string // the device's name

	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup

	pools   pools
	keys    keyring    // only followState uses it
	said    place.Said // only describe uses it
	region  region
	news    versionNews
	changed chan struct{}        // 1: the ledger or its copy has changed
	gone    chan identity.NodeID // whose last control connection has ended
	publish chan struct{}        // 1: what we say of ourselves may have changed

	networkChanged, mapperChanged chan struct{} // 1: the machine's network has changed, for reach and for its mapper

	mu      sync.Mutex
	cutOff  map[identity.NodeID]bool // revoked nodes whose tunnels and connections were ended
	adopted map[identity.NodeID]uint64
	voters  map[identity.NodeID]time.Time // since when each has been seen to vote
}

// proxies are the ways into the overlay for programs of a host without a device.
type proxies struct {
	socks, http net.Listener
	forwards    []config.Forward
}

// assemble brings the membership to life around a group that has been founded, joined or read from disk.
func (n *Node) newMembership() *membership {
	m := &membership{
		node: n, networkChanged: make(chan struct{}, 1), mapperChanged: make(chan struct{}, 1), changed: make(chan struct{}, 1), gone: make(chan identity.NodeID, goneMax), publish: make(chan struct{}, 1), cutOff: map[identity.NodeID]bool{},
		adopted: map[identity.NodeID]uint64{}, voters: map[identity.NodeID]time.Time{},
		pools: pools{leaving: map[gossip.Scope]context.CancelFunc{}, opened: map[gossip.Scope]time.Time{}},
	}
	m.abroad = newAbroad(m)
	m.guard.firewall = firewall.New()
	m.region.look, m.region.told, m.region.measured = make(chan struct{}, 1), n.cfg.Settings.Region, map[identity.NodeID]measurement{}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// groupConfig is the coordinator group's share of the node.
func (n *Node) groupConfig(m *membership) coordinator.Config {
	timing := coordinator.LAN()
	if n.cfg.Settings.Timing == config.WAN {
		timing = coordinator.WAN()
	}
	return coordinator.Config{
		Key: n.key, Control: n.control, Peers: n.peers, Dir: n.folder.path, Rand: n.cfg.Rand, Now: n.cfg.Now, Log: n.log,
		Timing: timing, Alive: m.alive, Holds: m.abroad.holds, OnState: m.wake, NoSync: n.cfg.NoSync, Disk: n.cfg.Disk, Shelf: n.cfg.Shelf,
	}
}

// wake notes that the state changed. It is called from within the group and must return at once.
func (m *membership) wake() { signal(m.changed) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// alive is gossip's view, for the deciders.
func (m *membership) alive(id identity.NodeID) bool {
	if id == m.node.ID() {
		return true
	}
	e, ok := m.node.peers.Get(id)
	return ok && e.State == peer.Alive
}

// start brings up everything that stands on the group: peer table, tunnels, gossip, loops. On an error nothing is left running but the group.
func (m *membership) start(group *coordinator.Group) (err error) {
	n := m.node
	m.group = group
	state := group.State()
	self, ok := state.Member(n.ID())
	if !ok {
		return fmt.Errorf("the mesh's state does not list this node %s; the state folder is of another identity", n.ID().Short())
	}
	n.mesh.Store(m)
	m.adoptMembers(state)
	m.noteVoters(state)
	if self.Status != coordinator.Active {
		return &coordinator.Refused{Code: coordinator.RefusedRevoked, Reason: "this node's membership of " + state.Mesh.Name + " was revoked; " +
			"to join again, remove its state folder and ask for a new invitation"}
	}
	if err := m.startPlane(state, self.Certificate); err != nil {
		return err
	}
	if err := m.startReach(); err != nil {
		return err
	}
	if err := m.startGossip(state); err != nil {
		return err
	}
	if err := m.startDHT(state); err != nil {
		return err
	}
	m.loops.Go(m.followState)
	m.loops.Go(m.abroad.run)
	m.loops.Go(m.followGossip)
	m.loops.Go(m.followRumours)
	m.loops.Go(m.publishRecords)
	m.loops.Go(m.rememberPaths)
	m.loops.Go(m.seekBootstrap)
	m.loops.Go(m.followRegion)
	m.loops.Go(m.watchRefusals)
	if state.Version == 0 {
		m.fetchMembers(state.Coordinators.Leader)
		signal(m.region.look)
		m.loops.Go(m.fetchLater)
	}
	m.awaitLeader(state)
	if err := m.renewFirst(); err != nil {
		return err
	}
	if state.Version > 0 {
		if err := m.firstWord(state); err != nil {
			return err
		}
	}
	m.awaitCompany()
	n.online.Store(m)
	n.phase.Store(localapi.StateOnline)
	n.log.Info("online", "mesh", state.Mesh.Name, "peer", n.ID().Short(), "addresses", self.Certificate.Addresses(), "port", n.socket.Port())
	return nil
}

func (m *membership) startPlane(state *coordinator.State, self *certificate.Member) error {
	n := m.node
	s := n.cfg.Settings
	v6 := identity.OverlayPrefix(state.Mesh.ID)
	spec := InterfaceSpec{TUN: s.TUN, MTU: s.MTU, Routes: []netip.Prefix{state.Mesh.IPv4, v6}}
	for _, a := range self.Addresses() {
		bits := v6.Bits()
		if a.Is4() {
			bits = state.Mesh.IPv4.Bits()
		}
		spec.Addresses = append(spec.Addresses, netip.PrefixFrom(a, bits))
	}
	host, userspace, degraded, err := n.openInterface(spec)
	if err != nil {
		return err
	}
	m.userspace, m.degraded, m.taken = userspace, degraded, dataplane.Taken(host)
	if degraded != nil {
		n.log.Warn("no network device, using userspace networking", "err", degraded)
	}
	m.tun, _ = host.Name()
	config := dataplane.Config{
		Key: n.key, Self: n.ID(), Mesh: state.Mesh.ID, Bind: n.socket.Bind(), Peers: n.peers, Control: n.control, Connect: n.socket.Connect,
		Orphans: n.socket.OnOrphan, Known: n.socket.WireGuardKnown, Network: host, Overlay: spec.Routes, Resolve: n.resolveName,
		Filter: m.firstFilter(state), OnPeer: n.cfg.OnPeer, Rand: n.cfg.Rand, Log: n.log,
	}
	if s.MTU == 0 {
		config.PathMTU, config.Paths = n.pathMTU, n.socket.Watch
	}
	if m.plane, err = dataplane.New(config); err != nil {
		return err
	}
	if !userspace {
		return nil
	}
	return m.openProxies(s)
}

// leaderWait bounds how long a node that is the only voter waits for itself to lead: one election, which takes at most twice its timeout.
const leaderWait = 3 * time.Second

// awaitLeader returns when a mesh whose only voter is this node can decide, so that the command after phantom up finds it so. Where others vote
// too, nobody waits for them.
func (m *membership) awaitLeader(state *coordinator.State) {
	voters := state.Coordinators.Voters
	if len(voters) != 1 || voters[0] != m.node.ID() {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, leaderWait)
	defer cancel()
	for !m.group.State().Coordinators.Quorum && sleep(ctx, leaderLook) {
	}
}

// leaderLook is the time between two looks of awaitLeader and awaitCompany.
const leaderLook = 10 * time.Millisecond

// companyWait bounds how long a node waits for a first word of gossip, which takes some 50 ms in a LAN and two round trips elsewhere.
const companyWait = 500 * time.Millisecond

// awaitCompany returns when somebody else is heard: what phantom up prints, and whoever looks next, shall not find the others dead.
func (m *membership) awaitCompany() {
	if m.group.State().ActiveMembers() < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, companyWait)
	defer cancel()
	for !m.anybodyAlive() && sleep(ctx, leaderLook) {
	}
}

// openProxies opens what programs of this host use instead of a device. A port that was asked for must be free; the default may move.
func (m *membership) openProxies(s config.Settings) (err error) {
	if m.proxies.socks, err = listenProxy(s.SOCKS5, defaultSOCKS5); err != nil {
		return localapi.Fail(localapi.Failed, "cannot open the SOCKS5 proxy", err, "choose another address with --socks5 HOST:PORT")
	}
	if m.proxies.http, err = listenProxy(s.HTTPProxy, defaultHTTPProxy); err != nil {
		return localapi.Fail(localapi.Failed, "cannot open the HTTP proxy", err, "choose another address with --http-proxy HOST:PORT")
	}
	m.serveProxy("SOCKS5", m.proxies.socks, m.plane.ServeSOCKS)
	m.serveProxy("HTTP", m.proxies.http, m.plane.ServeHTTPProxy)
	for _, f := range s.Forward {
		if _, err := m.plane.Forward(f.Port, f.To); err != nil {
			return localapi.Fail(localapi.Failed, "cannot forward overlay port "+f.String(), err, "check --forward")
		}
	}
	m.proxies.forwards = s.Forward
	return nil
}

func (m *membership) serveProxy(kind string, l net.Listener, serve func(net.Listener) error) {
	m.loops.Go(func() {
		if err := serve(l); err != nil && m.ctx.Err() == nil {
			m.node.log.Warn("proxy ended", "proxy", kind, "addr", l.Addr().String(), "err", err)
		}
	})
}

// Where the proxies listen if nobody says: the usual ports, on the loopback address, so that only this machine's users get in.
const (
	defaultSOCKS5    = "127.0.0.1:1080"
	defaultHTTPProxy = "127.0.0.1:8118"
)

func listenProxy(wanted, usual string) (net.Listener, error) {
	if wanted != "" {
		return net.Listen("tcp", wanted)
	}
	l, err := net.Listen("tcp", usual)
	if err != nil {
		// Several nodes on one host: the second takes any free port. Status shows it.
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	return l, err
}

func (m *membership) startGossip(state *coordinator.State) (err error) {
	n := m.node
	for _, h := range n.book.All() {
		n.socket.Hint(h.ID, h.Addrs)
	}
	m.gossip, err = gossip.NewHost(gossip.HostConfig{
		Self: n.ID(), Key: n.key, Mesh: state.Mesh.ID, Peers: n.peers, Packets: n.socket, Control: n.control, Connect: n.socket.Connect,
		Keyring: state.Keyring.Keys, Coordinates: n.place, Record: m.record(), Shared: m.abroad, Rand: n.cfg.Rand, Now: n.cfg.Now, Log: n.log,
	})
	if err != nil {
		return err
	}
	return m.adjustPools(state)
}

// close hands over duties, says goodbye, and ends everything, newest first. It returns within ctx's time and little more.
func (m *membership) close(ctx context.Context) {
	m.node.online.Store(nil)
	m.sayGoodbye(ctx)
	m.cancel()
	for _, l := range []net.Listener{m.proxies.socks, m.proxies.http} {
		if l != nil {
			l.Close()
		}
	}
	if m.plane != nil {
		m.plane.Close()
	}
	if m.gossip != nil {
		m.gossip.Close()
	}
	m.closeDHT()
	if m.reach != nil {
		m.node.reach.Store(nil)
		m.reach.Close() // after gossip's farewell, which may travel through a relay
	}
	m.group.Close()
	m.loops.Wait()
}

// How long each part of an orderly stop may take: an election and a change of voters, some rounds of gossip. A mesh that loses its quorum while it
// is taken down as a whole has nobody to hand over to, and should not make people wait for that.
const (
	handoverMax = 2500 * time.Millisecond
	farewellMax = time.Second
)

// sayGoodbye hands over this node's duties and tells the others that it goes.
func (m *membership) sayGoodbye(ctx context.Context) {
	handover, cancel := context.WithTimeout(ctx, handoverMax)
	defer cancel()
	if err := m.group.Handover(handover); err != nil {
		m.node.log.Warn("duties not handed over", "err", err)
	}
	if m.gossip == nil {
		return
	}
	farewell, cancel := context.WithTimeout(ctx, farewellMax)
	defer cancel()
	if err := m.gossip.Leave(farewell); err != nil {
		m.node.log.Debug("leaving unheard", "err", err)
	}
}

// resolveName gives the overlay addresses of a node's name, for the proxies.
func (n *Node) resolveName(name string) []netip.Addr {
	entries := n.peers.Resolve(name)
	if len(entries) != 1 || entries[0].Revoked {
		return nil
	}
	return entries[0].Member.Addresses()
}

// isOverlay reports whether an address is of the mesh itself: such an address must never be offered as a way to reach this node, or the
// tunnel would run through itself.
func (n *Node) isOverlay(a netip.Addr) bool {
	m := n.mesh.Load()
	if m == nil {
		return false
	}
	mesh := m.group.State().Mesh
	return mesh.IPv4.Contains(a) || identity.OverlayPrefix(mesh.ID).Contains(a)
}

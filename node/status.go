package node

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// startingMax is how long Status waits for a node that is just being started.
const startingMax = 5 * time.Second

// Status never fails for lack of a mesh or a quorum: it says so in the answer.
func (n *Node) Status(ctx context.Context) (*localapi.Status, error) {
	// A node that has just been started is asked at once by scripts; half an answer would mislead them.
	starting, cancel := context.WithTimeout(ctx, startingMax)
	defer cancel()
	_ = n.awaitReady(starting)
	s := &localapi.Status{Self: localapi.Self{
		ID: n.ID().String(), Name: n.cfg.Settings.Name, Region: n.cfg.Settings.Region, Role: localapi.RoleMember, State: n.phase.Load().(string),
		NAT: peer.NATUnknown.String(),
	}}
	s.Self.Endpoints = texts(addressesOf(n.endpoints()))
	if r := n.reach.Load(); r != nil {
		s.Self.NAT = r.NAT().String()
	}
	m := n.online.Load()
	if m == nil {
		s.Self.Pending = n.applying.Load().shown()
		select {
		case <-n.stop:
			if n.ended != nil {
				s.Health = append(s.Health, n.ended.Error())
			}
		default:
		}
		return s, nil
	}
	state := m.group.State()
	s.Mesh = localapi.Mesh{ID: state.Mesh.ID.String(), Name: state.Mesh.Name}
	m.describeSelf(state, &s.Self)
	s.Coordinators = coordinators(state)
	s.Peers = m.describePeers()
	s.Health = m.health(state, s.Peers)
	return s, nil
}

func (m *membership) describeSelf(state *coordinator.State, self *localapi.Self) {
	if _, _, ok := state.Coordinates(m.node.ID()); ok || state.Coordinators.Voter(m.node.ID()) {
		self.Role = localapi.RoleCoordinator
	}
	me, ok := state.Member(m.node.ID())
	if !ok {
		return
	}
	c := me.Certificate
	self.Name, self.Region = c.Name, state.RegionOf(m.node.ID())
	told := m.toldRegion()
	if self.RegionNamed = told != ""; told == "" {
		self.RegionWhy = m.regionWhy()
	} else if told != self.Region {
		self.RegionWhy = "on the way to " + told
	}
	self.Addresses = addressText(c.Addresses())
	until := c.NotAfter.UTC()
	self.Certificate = localapi.Certificate{NotAfter: &until, Serial: strconv.FormatUint(c.Serial, 10)}
	if m.userspace {
		self.Proxies = &localapi.Proxies{SOCKS5: m.proxies.socks.Addr().String(), HTTP: m.proxies.http.Addr().String()}
		self.Interface = "userspace"
		return
	}
	self.Interface = m.tun
}

func addressText(addresses []netip.Addr) localapi.List[string] {
	out := make(localapi.List[string], len(addresses))
	for i, a := range addresses {
		out[i] = a.String()
	}
	return out
}

// current forgets who led when there was a quorum: it leads nobody now.
func current(c coordinator.Coordinators) coordinator.Coordinators {
	if !c.Quorum {
		c.Leader = identity.NodeID{}
	}
	return c
}

func coordinators(state *coordinator.State) localapi.Coordinators {
	c := current(state.Coordinators)
	out := localapi.Coordinators{Quorum: c.Quorum, Term: c.Term, Leader: idText(c.Leader)}
	for _, v := range c.Voters {
		out.Voters = append(out.Voters, v.String())
	}
	for _, r := range state.Regions.List {
		id, _, _ := state.RegionCoordinator(r.Name)
		out.Regions = append(out.Regions, localapi.Region{Region: r.Name, Coordinator: idText(id), Term: r.Term})
	}
	return out
}

func idText(id identity.NodeID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// describePeers lists every other member in good standing, by name.
func (m *membership) describePeers() localapi.List[localapi.Peer] {
	tunnels := map[identity.NodeID]dataplane.TunnelStatus{}
	for _, t := range m.plane.Tunnels() {
		tunnels[t.ID] = t
	}
	out := localapi.List[localapi.Peer]{}
	for _, e := range m.node.peers.All() {
		if e.ID == m.node.ID() || e.Revoked {
			continue
		}
		t, ok := tunnels[e.ID]
		if !ok {
			t = dataplane.TunnelStatus{State: dataplane.TunnelIdle, HandshakeAge: -1}
		}
		out = append(out, localapi.Peer{
			ID: e.ID.String(), Name: e.Member.Name, Addresses: addressText(e.Member.Addresses()), Region: e.Member.Region,
			Tags: slices.Clone(e.Member.Tags), State: peerState(e.State), Path: m.node.path(e.ID), Tunnel: tunnel(t),
		})
	}
	return out
}

// peerState is gossip's verdict in the contract's words; a member of whom nothing was heard since this node started counts as dead.
func peerState(s peer.State) string {
	if s == peer.Unknown {
		return peer.Dead.String()
	}
	return s.String()
}

func (n *Node) path(id identity.NodeID) localapi.Path {
	p, ok := n.socket.Path(id)
	if !ok || p.Kind == underlay.PathNone {
		return localapi.Path{Kind: localapi.PathNone}
	}
	out := localapi.Path{Kind: p.Kind.String(), RTTMs: millis(p.RTT), MTU: p.MTU, Transport: p.Transport, Via: idText(p.Via)}
	if !p.Via.IsZero() {
		out.ViaName = n.nameOf(p.Via)
	}
	if p.Endpoint.IsValid() {
		out.Endpoint = p.Endpoint.String()
	}
	return out
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func tunnel(t dataplane.TunnelStatus) localapi.Tunnel {
	return localapi.Tunnel{
		State: string(t.State), PostQuantum: t.PostQuantum, PSKEpoch: t.PSKEpoch, PSKAgeS: int64(t.PSKAge / time.Second),
		HandshakeAgeS: seconds(t.HandshakeAge), RxBytes: t.Rx, TxBytes: t.Tx,
	}
}

// seconds rounds down; none stays -1.
func seconds(d time.Duration) int64 {
	if d < 0 {
		return -1
	}
	return int64(d / time.Second)
}

// health says in plain sentences what is wrong now.
func (m *membership) health(state *coordinator.State, peers []localapi.Peer) localapi.List[string] {
	out := localapi.List[string]{}
	if !state.Coordinators.Quorum {
		out = append(out, "no quorum: decisions (invite, join, revoke) wait until most coordinators are back; traffic goes on")
	}
	if o := m.group.Overruled(); o != nil {
		by := o.Recovery.By.Short()
		if member, ok := state.Member(o.Recovery.By); ok {
			by = member.Certificate.Name
		}
		said := fmt.Sprintf("the mesh was recovered on %s while this node was away (%s)", by, o.Recovery.At.Format("2006-01-02 15:04 MST"))
		if o.Total > 0 {
			said += "; void since then: " + countOf(o.Total, "decision", "decisions") + " taken here, which the node's log lists"
		}
		out = append(out, said)
	}
	if who := m.node.accuser(); who != "" {
		out = append(out, who+" says that this node was revoked: see phantom doctor")
	}
	alive := 0
	for _, p := range peers {
		if p.State == peer.Alive.String() {
			alive++
		}
	}
	if len(peers) > 0 && alive == 0 {
		out = append(out, fmt.Sprintf("none of the %d other members can be reached: see phantom doctor", len(peers)))
	}
	if me, ok := state.Member(m.node.ID()); ok {
		if what, _, _ := m.certificateTrouble(me.Certificate, m.node.cfg.Now()); what != "" {
			out = append(out, what+": see phantom doctor")
		}
	}
	for _, t := range m.taken {
		out = append(out, fmt.Sprintf("this machine reaches nobody at %s: a route to it leads to %s; see phantom doctor", t.Range, t.Device))
	}
	if m.degraded != nil {
		out = append(out, "no network device: other programs reach the mesh through the proxies only ("+m.degraded.Error()+")")
	}
	return out
}

// Members is what the ledger says.
func (n *Node) Members(ctx context.Context) (*localapi.MemberList, error) {
	m, err := n.membership("list the members")
	if err != nil {
		return nil, err
	}
	out := m.onRecord()
	for _, h := range m.gather(ctx) {
		if slices.ContainsFunc(out.Members, func(o localapi.Member) bool { return o.ID == h.Node.String() }) {
			continue // a member that asks again, or was let in just now
		}
		out.Members = append(out.Members, localapi.Member{ID: h.Node.String(), Name: h.Name, State: localapi.MemberQuarantined,
			Addresses: localapi.List[string]{}, Tags: localapi.List[string]{}})
	}
	return out, nil
}

// MembersOnRecord is Members without those in quarantine, for whom others would have to be asked.
func (n *Node) MembersOnRecord() (*localapi.MemberList, error) {
	m, err := n.membership("list the members")
	if err != nil {
		return nil, err
	}
	return m.onRecord(), nil
}

func (m *membership) onRecord() *localapi.MemberList {
	out := &localapi.MemberList{}
	for _, member := range m.group.State().Members {
		c := member.Certificate
		state := localapi.MemberActive
		if member.Status != coordinator.Active {
			// The contract knows no state for who left; either way the node is out for good.
			state = localapi.MemberRevoked
		}
		out.Members = append(out.Members, localapi.Member{
			ID: member.ID.String(), Name: c.Name, Addresses: addressText(c.Addresses()), Region: c.Region, Tags: slices.Clone(c.Tags), State: state,
			NotAfter: c.NotAfter.UTC(),
		})
	}
	slices.SortStableFunc(out.Members, func(a, b localapi.Member) int { return compareText(a.Name, b.Name) })
	return out
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Coordinators tells who decides.
func (n *Node) Coordinators(context.Context) (*localapi.CoordinatorList, error) {
	m, err := n.membership("show the coordinators")
	if err != nil {
		return nil, err
	}
	state := m.group.State()
	m.noteVoters(state) // a change of who votes is no change of the state
	c := current(state.Coordinators)
	out := &localapi.CoordinatorList{Quorum: c.Quorum, Leader: idText(c.Leader), Term: c.Term}
	for _, id := range c.Voters {
		v := localapi.Voter{ID: id.String(), Since: m.voterSince(id).UTC()}
		if member, ok := state.Member(id); ok {
			v.Name = member.Certificate.Name
		}
		out.Voters = append(out.Voters, v)
	}
	for _, r := range state.Regions.List {
		id, _, _ := state.RegionCoordinator(r.Name)
		d := localapi.RegionDetail{Region: r.Name, Coordinator: idText(id), Term: r.Term, Since: r.Since.UTC()}
		if member, ok := state.Member(id); ok {
			d.Name = member.Certificate.Name
		}
		for _, r := range state.Relays.Of(r.Name) {
			duty := localapi.RelayDuty{ID: r.Node.String(), Since: r.Since.UTC()}
			if member, ok := state.Member(r.Node); ok {
				duty.Name = member.Certificate.Name
			}
			d.Relays = append(d.Relays, duty)
		}
		out.Regions = append(out.Regions, d)
	}
	return out, nil
}

// membership is the node's, or the failure of a verb that needs one.
func (n *Node) membership(what string) (*membership, error) {
	if m := n.online.Load(); m != nil && n.phase.Load() == localapi.StateOnline {
		return m, nil
	}
	return nil, localapi.Fail(localapi.Failed, "cannot "+what, coordinator.ErrNoMesh, "")
}

// Version says what this node was built from.
func (n *Node) Version(context.Context) (*localapi.Version, error) {
	v := n.cfg.Version
	return &v, nil
}

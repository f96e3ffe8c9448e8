package node

import (
	"context"
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/discovery"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/internal/netchange"
	"github.com/phantommesh/phantommesh/nat/portmap"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/reach"
	"github.com/phantommesh/phantommesh/underlay"
)

// startReach brings up what gets this node to the others and them to it.
func (m *membership) startReach() (err error) {
	n := m.node
	s := n.cfg.Settings
	cfg := reach.Config{
		Underlay: reach.OverSocket(n.socket, s.RelayRate), Streams: reach.OverControl(n.control), Table: n.peers, NoRelay: s.NoRelay, STUN: s.STUN,
		Resolve: n.resolve, Advertise: s.Advertise, NetworkChanged: m.networkChanged, Changed: func() { signal(m.publish) },
		Appointed: m.appointed,
		Rand:      n.cfg.Rand, Log: n.log,
	}
	if !s.NoPortMapping {
		cfg.Mapper = n.mapper(m.mapperChanged)
	}
	if m.reach, err = reach.New(cfg); err != nil {
		return err
	}
	n.reach.Store(m.reach)
	return nil
}

// appointed tells whether a member was appointed to relay for this node's region.
func (m *membership) appointed(id identity.NodeID) bool {
	state := m.group.State()
	return state.Relays.Appointed(state.RegionOf(m.node.ID()), id)
}

// mapper is who asks the router for a port; nil: nobody.
func (n *Node) mapper(changed <-chan struct{}) reach.Mapper {
	switch {
	case n.cfg.Mapper != nil:
		return n.cfg.Mapper(n.socket.Port(), changed)
	case n.cfg.Bind != nil: // not this machine's network
		return nil
	}
	return portMapper{portmap.New(portmap.Config{
		Port: n.socket.Port(), TCP: !n.cfg.Settings.NoRelay, Changed: changed, Log: n.log,
		Gateway: func() (portmap.Gateway, error) { return portmap.DefaultGateway(n.isOurDevice) },
	})}
}

// portMapper is portmap's mapper in reach's words.
type portMapper struct{ *portmap.Mapper }

// Mappings are those of UDP; TCP's port, if it is the same, is found by its number.
func (p portMapper) Mappings() []reach.Mapping {
	var out []reach.Mapping
	for _, m := range p.Mapper.Mappings() {
		if m.Transport == portmap.UDP {
			out = append(out, reach.Mapping{Protocol: m.Protocol, External: m.External})
		}
	}
	return out
}

// What a node carries for others at most, unless it was told to carry nothing: as much as reach grants.
func (n *Node) relayCapacity() underlay.RelayCapacity {
	if n.cfg.Settings.NoRelay {
		return underlay.RelayCapacity{}
	}
	most := reach.DefaultCapacity
	return underlay.RelayCapacity{BytesPerSecond: n.cfg.Settings.RelayRate, Channels: most.Channels, Peers: most.Peers}
}

// assist is how the underlay asks for help with a member that it cannot reach directly. Without a mesh there is none.
func (n *Node) assist(id identity.NodeID) {
	n.seekInDHT(id)
	help := func() {
		if r := n.reach.Load(); r != nil {
			r.Assist(id)
		}
	}
	m := n.online.Load()
	begun := time.Now()
	sought := func(found bool) {
		// An address that has just become known gets the head start that the others had; and the other side may have been quicker. A path from which
		// nothing has come since may be one that no longer works.
		if found && !sleep(m.ctx, underlay.AssistAfter) {
			return
		}
		if p, ok := n.socket.Path(id); ok && p.Kind != underlay.PathNone && p.Heard.After(begun) {
			return
		}
		help()
	}
	if m == nil || !m.abroad.seek(id, sought) {
		help()
		return
	}
	if e, ok := n.peers.Get(id); ok && e.HasRecord { // perhaps of before it moved
		help()
	}
}

// watchNetwork tells everybody who learned something of the network that it has changed. It ends with ctx.
func (n *Node) watchNetwork(ctx context.Context) {
	if n.cfg.Bind != nil { // not this machine's network
		for {
			select {
			case <-ctx.Done():
				return
			case <-n.cfg.NetworkChanges:
				n.noteNetworkChange()
			}
		}
	}
	for e := range netchange.Watch(ctx, netchange.Config{IgnoreInterface: n.isOurDevice, Log: n.log}) {
		n.log.Info("network changed", "what", e.Kind.String())
		n.noteNetworkChange()
	}
}

func (n *Node) noteNetworkChange() {
	signal(n.networkChanged)
	signal(n.lanChanged)
	n.place.Roamed()
	if m := n.mesh.Load(); m != nil {
		signal(m.networkChanged)
		signal(m.mapperChanged)
	}
}

// isOurDevice reports whether a network interface is this node's own tunnel.
func (n *Node) isOurDevice(name string) bool {
	m := n.mesh.Load()
	return m != nil && !m.userspace && name == m.tun
}

// resolve looks a host up, for STUN servers.
func (n *Node) resolve(ctx context.Context, hostPort string) (out []netip.AddrPort, err error) {
	discovery.Bootstrap{Resolver: n.cfg.Resolver}.Resolve(ctx, []string{hostPort}, func(f discovery.Failure) {
		if err = f.Err; err == nil {
			out = append(out, f.Addr)
		}
	})
	return out, err
}

// endpoints are the addresses that this node tells others, the likeliest first.
func (n *Node) endpoints() []peer.Endpoint {
	if r := n.reach.Load(); r != nil {
		return r.Endpoints()
	}
	var out []peer.Endpoint
	for _, a := range n.socket.LocalEndpoints() {
		out = append(out, peer.Endpoint{Addr: a, Kind: peer.Local})
	}
	return out
}

func addressesOf(endpoints []peer.Endpoint) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range endpoints {
		out = append(out, e.Addr)
	}
	return out
}

// Netcheck asks members and servers anew what they see of this node.
func (n *Node) Netcheck(ctx context.Context) (*localapi.Netcheck, error) {
	m, err := n.membership("check the network")
	if err != nil {
		return nil, err
	}
	out := netcheckAnswer(m.reach.Netcheck(ctx), n.nameOf)
	out.Coordinators = m.roundTrips(m.group.State().Coordinators.Voters)
	return out, nil
}

// Why explains the path to a node.
func (n *Node) Why(_ context.Context, q localapi.WhyRequest) (*localapi.Why, error) {
	m, err := n.membership("explain paths")
	if err != nil {
		return nil, err
	}
	e, err := n.find(q.Node)
	if err != nil {
		return nil, err
	}
	if e.ID == n.ID() {
		return nil, localapi.Fail(localapi.Usage, "no path leads to "+e.Member.Name, nil, "that is this node; phantom netcheck shows what it knows of its network")
	}
	return whyAnswer(m.reach.Explain(e.ID), n.path(e.ID), n.nameOf), nil
}

// nameOf is what people call a member.
func (n *Node) nameOf(id identity.NodeID) string {
	if e, ok := n.peers.Get(id); ok && e.Member != nil {
		return e.Member.Name
	}
	return id.Short()
}

// roundTrips are those to members, by the paths that packets take now.
func (m *membership) roundTrips(ids []identity.NodeID) localapi.List[localapi.RoundTrip] {
	out := localapi.List[localapi.RoundTrip]{}
	for _, id := range ids {
		if id == m.node.ID() {
			continue
		}
		rt := localapi.RoundTrip{ID: id.String(), Name: m.node.nameOf(id)}
		if p, ok := m.node.socket.Path(id); ok {
			rt.RTTMs = millis(p.RTT)
		}
		out = append(out, rt)
	}
	return out
}

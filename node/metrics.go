package node

import (
	"context"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// Metrics writes the Prometheus text exposition. Everything is gathered when asked for: an idle node pays nothing.
func (n *Node) Metrics(_ context.Context, w io.Writer) error {
	r := prometheus.NewRegistry()
	if err := r.Register(collector{n}); err != nil {
		return err
	}
	families, err := r.Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return err
		}
	}
	return nil
}

// collector turns the parts' counters into metrics.
type collector struct{ node *Node }

var (
	descBuild        = desc("build_info", "What the binary was built from.", "version", "commit", "go")
	descReceived     = desc("packets_received_total", "Packets that arrived on the UDP port, by class.", "class")
	descDropped      = desc("packets_dropped_total", "Packets that were not passed on, by reason.", "reason")
	descPaths        = desc("paths", "Paths to members, by kind.", "kind")
	descNAT          = desc("nat", "1 for the kind of NAT that this node is behind.", "kind")
	descRelayed      = desc("relay_bytes_total", "Bytes carried for other members.")
	descRelayPackets = desc("relay_packets_total", "Packets carried for other members.")
	descRelayDropped = desc("relay_dropped_total", "Frames of other members that were not carried, by reason.", "reason")
	descRelayLoad    = desc("relay_load", "What is carried for others now, by what it is: pairs, members, bytes that wait.", "of")
	descMembers      = desc("gossip_members", "Other members, by gossip's verdict.", "state")
	descGossipBytes  = desc("gossip_bytes_total", "Gossip traffic in bytes, packets and streams.", "direction")
	descPools        = desc("gossip_pools", "Gossip pools that this node is in: its region's, and the wide one if it connects regions.")
	descBulletins    = desc("bulletins_total", "Bulletins of regions, by what became of them.", "result")
	descDark         = desc("regions_lost", "Other regions that are out of sight.")
	descLookups      = desc("region_lookups_total", "Searches for members of other regions, by result.", "result")
	descTunnels      = desc("tunnels", "Tunnels, by state.", "state")
	descTunnelBytes  = desc("tunnel_bytes_total", "Bytes through the tunnels that exist now.", "direction")
	descExchanges    = desc("exchanges_total", "Post-quantum key exchanges begun here, by result.", "result")
	descExchangeTime = desc("exchange_seconds_total", "Time that the successful exchanges took.")
	descConns        = desc("control_connections", "Live control connections.")
	descTerm         = desc("raft_term", "Term of the coordinator group.")
	descQuorum       = desc("raft_quorum", "1 if the mesh can decide.")
	descRegion       = desc("region_coordinator", "1 on the coordinator of its region while it is in office, else 0.", "region")
	descRegionTerm   = desc("region_term", "Term of each region's coordinator.", "region")
	descRefused      = desc("region_orders_refused_total", "Orders of coordinators that had been replaced.")
	descVersion      = desc("state_version", "Version of the mesh's signed state held here.")
	descBeacons      = desc("lan_beacons_total", "Messages of the LAN's beacons, by what became of them.", "result")
	descNeighbours   = desc("lan_neighbours", "Machines of the LAN that beacons tell of.")
	descPetitions    = desc("requests_refused_total", "Requests to join without an invitation that were over a bound.")
	descCoordinate   = desc("coordinate_observations_total", "Round trips taken in for the network coordinate, by what became of them: bounded ones would have moved it too far.", "result")
	descChecks       = desc("path_checks_total", "Keyed path checks, sent and answered.", "kind")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("phantom_"+name, help, labels, nil)
}

// Describe sends nothing: the collector is unchecked, as a node outside a mesh has fewer metrics.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the parts.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	n := c.node
	gauge(descBuild, 1, n.cfg.Version.Version, n.cfg.Version.Commit, n.cfg.Version.Go)
	s := n.socket.Stats()
	for class, v := range s.Received {
		count(descReceived, v, class)
	}
	for reason, v := range s.Dropped {
		count(descDropped, v, "underlay_"+reason)
	}
	count(descChecks, s.Checks, "sent")
	count(descChecks, s.Answers, "answered")
	if r := n.reach.Load(); r != nil {
		gauge(descNAT, 1, r.NAT().String())
	}
	relayed := n.socket.RelayStats()
	count(descRelayed, relayed.Bytes)
	count(descRelayPackets, relayed.Packets)
	for reason, v := range relayed.Dropped {
		count(descRelayDropped, v, reason)
	}
	gauge(descRelayLoad, float64(relayed.Channels), "pairs")
	gauge(descRelayLoad, float64(relayed.Peers), "members")
	gauge(descRelayLoad, float64(relayed.QueuedBytes), "bytes")
	kinds := map[underlay.PathKind]int{underlay.PathDirect: 0, underlay.PathRelay: 0, underlay.PathNone: 0}
	for _, p := range n.socket.Paths() {
		kinds[p.Kind]++
	}
	for kind, v := range kinds {
		gauge(descPaths, float64(v), kind.String())
	}
	n.collectLAN(gauge, count)
	n.collectHeld(gauge)
	c.collectPlace(count)
	gauge(descConns, float64(n.control.Stats().Connections))
	if m := n.online.Load(); m != nil {
		m.collect(gauge, count)
	}
}

// collectLAN counts what was heard on the LAN; nothing of a node that does not listen there.
func (n *Node) collectLAN(gauge emitGauge, count emitCount) {
	count(descPetitions, n.petitions.refusals())
	if n.lan == nil {
		return
	}
	s := n.lan.Stats()
	for result, v := range map[string]uint64{
		"sent": s.Sent, "received": s.Received, "malformed": s.Malformed, "off_link": s.OffLink, "flooded": s.Flooded, "full": s.Full,
	} {
		count(descBeacons, v, result)
	}
	gauge(descNeighbours, float64(len(n.lan.Neighbours())))
}

// collectPlace counts what moved the coordinate.
func (c collector) collectPlace(count emitCount) {
	s := c.node.place.Stats()
	count(descCoordinate, s.Observed-s.Bounded, "taken")
	count(descCoordinate, s.Bounded, "bounded")
	count(descCoordinate, s.Refused, "refused")
}

type emitGauge func(d *prometheus.Desc, v float64, labels ...string)
type emitCount func(d *prometheus.Desc, v uint64, labels ...string)

func (m *membership) collect(gauge emitGauge, count emitCount) {
	g := m.gossip.Stats()
	members := map[peer.State]int{}
	for _, e := range m.node.peers.All() {
		if !e.Revoked && e.ID != m.node.ID() {
			members[e.State]++
		}
	}
	for _, state := range []peer.State{peer.Alive, peer.Suspect, peer.Dead, peer.Left} {
		gauge(descMembers, float64(members[state]), state.String())
	}
	count(descGossipBytes, g.BytesSent+g.StreamBytesSent, "sent")
	count(descGossipBytes, g.BytesReceived+g.StreamBytesReceived, "received")
	for reason, v := range g.Refused {
		count(descDropped, v, "gossip_"+reason)
	}
	m.abroad.collect(gauge, count)
	m.collectDHT(gauge, count)
	m.collectPlane(gauge, count)
	m.collectFilter(gauge, count)
	state := m.group.State()
	gauge(descTerm, float64(state.Coordinators.Term))
	quorum := 0.0
	if state.Coordinators.Quorum {
		quorum = 1
	}
	gauge(descQuorum, quorum)
	gauge(descVersion, float64(state.Version))
	for _, r := range state.Regions.List {
		gauge(descRegionTerm, float64(r.Term), r.Name)
	}
	inOffice := 0.0
	if _, ok := m.group.Office(); ok {
		inOffice = 1
	}
	gauge(descRegion, inOffice, state.RegionOf(m.node.ID()))
	count(descRefused, m.group.RefusedOrders())
}

func (a *abroad) collect(gauge emitGauge, count emitCount) {
	gauge(descPools, float64(len(a.m.gossip.Pools())))
	count(descBulletins, a.counts.taken.Load(), "taken")
	count(descBulletins, a.counts.stale.Load(), "stale")
	count(descBulletins, a.counts.ahead.Load(), "ahead")
	count(descBulletins, a.counts.refused.Load(), "refused")
	a.mu.Lock()
	defer a.mu.Unlock()
	lost := 0
	for _, dark := range a.dark {
		if dark {
			lost++
		}
	}
	gauge(descDark, float64(lost))
	count(descLookups, a.search.found, "found")
	count(descLookups, a.search.total-a.search.found, "not_found")
}

func (m *membership) collectPlane(gauge emitGauge, count emitCount) {
	states := map[dataplane.TunnelState]int{dataplane.TunnelUp: 0, dataplane.TunnelConnecting: 0, dataplane.TunnelIdle: 0}
	var rx, tx uint64
	for _, t := range m.plane.Tunnels() {
		states[t.State]++
		rx, tx = rx+t.Rx, tx+t.Tx
	}
	for state, v := range states {
		gauge(descTunnels, float64(v), string(state))
	}
	count(descTunnelBytes, rx, "received")
	count(descTunnelBytes, tx, "sent")
	s := m.plane.Stats()
	count(descExchanges, s.Exchanges, "agreed")
	count(descExchanges, s.ExchangesFailed, "failed")
	gauge(descExchangeTime, s.ExchangeTime.Seconds())
	for reason, v := range map[string]uint64{
		"off_overlay": s.DroppedOffOverlay, "no_member": s.DroppedNoMember, "no_tunnel": s.DroppedNoTunnel,
		"wait_too_long": s.DroppedWaitTooLong, "queue_full": s.DroppedQueueFull, "filter": s.DroppedByFilter,
	} {
		count(descDropped, v, "tunnel_"+reason)
	}
}

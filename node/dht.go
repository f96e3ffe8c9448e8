package node

import (
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/discovery/dht"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// dhtSeedsMax bounds the members that the hash table is told of before it asks anybody; of a larger mesh any of them lead to the rest.
const dhtSeedsMax = 64

// startDHT takes part in the mesh's hash table, unless the settings forbid it.
func (m *membership) startDHT(state *coordinator.State) error {
	n := m.node
	if n.cfg.Settings.NoDHT {
		return nil
	}
	d, err := dht.New(dht.Config{
		Key: n.key, Mesh: state.Mesh.ID, Control: n.control, Peers: n.peers, Trust: n.trust, Chain: n.chain, Seeds: m.dhtSeeds,
		Server: func() bool { return reachable(m.reach.NAT()) }, Reached: n.hasPath, Hint: m.dhtHint, Now: n.cfg.Now, Log: n.log,
	})
	if err != nil {
		return err
	}
	m.dht.Store(d)
	return nil
}

// reachable reports whether who stands behind such a NAT is reached by others without much ado, and so answers them. Not to know is no reason
// against it: a LAN without an outside never does.
func reachable(k peer.NAT) bool { return k != peer.NATHard && k != peer.NATBlocked }

// dhtSeeds are the members to ask: those alive, then those that were seen last.
func (m *membership) dhtSeeds() []identity.NodeID {
	var out []identity.NodeID
	for _, e := range m.node.peers.All() {
		if e.State == peer.Alive && e.ID != m.node.ID() && !e.Revoked && (!e.HasRecord || reachable(e.Record.NAT)) {
			out = append(out, e.ID)
		}
	}
	for _, id := range m.node.book.IDs() {
		if len(out) >= dhtSeedsMax {
			break
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out[:min(len(out), dhtSeedsMax)]
}

// dhtHint keeps what the table says of where a member is: a hint, as any other.
func (m *membership) dhtHint(id identity.NodeID, addrs []netip.AddrPort) {
	m.node.socket.Hint(id, addrs)
	m.node.log.Debug("found in the hash table", "peer", id.Short(), "addresses", len(addrs))
}

// hasPath reports whether a member can be reached now.
func (n *Node) hasPath(id identity.NodeID) bool {
	p, ok := n.socket.Path(id)
	return ok && p.Kind != underlay.PathNone
}

// seekInDHT asks the hash table for a member that does not answer where it was. It returns at once.
func (n *Node) seekInDHT(id identity.NodeID) {
	if m := n.mesh.Load(); m != nil {
		if d := m.dht.Load(); d != nil {
			d.Seek(id)
		}
	}
}

// publishInDHT stores what this node says of itself, and looks at whether it serves.
func (m *membership) publishInDHT(r peer.Record) {
	if d := m.dht.Load(); d != nil {
		d.Reconsider()
		d.Publish(r)
	}
}

// closeDHT leaves the table.
func (m *membership) closeDHT() {
	d := m.dht.Load()
	if d == nil {
		return
	}
	began := time.Now()
	if err := d.Close(); err != nil {
		m.node.log.Debug("hash table not closed in order", "err", err, "after", time.Since(began))
	}
}

var (
	descDHTBytes   = desc("dht_bytes_total", "Traffic of the hash table in bytes, without what the control channel adds.", "direction")
	descDHTLookups = desc("dht_lookups_total", "Lookups begun here.")
	descDHTAsked   = desc("dht_questions_total", "Questions of the hash table, by what became of them.", "result")
	descDHTRefused = desc("dht_values_refused_total", "Records that failed the checks.")
	descDHTStale   = desc("dht_values_stale_total", "Records that were older than another of the same node.")
	descDHTRecords = desc("dht_records", "Records kept in the hash table here.")
	descDHTTable   = desc("dht_routing_table", "Members in the hash table's routing table.")
	descDHTServer  = desc("dht_server", "1 if this node answers other members' questions.")
)

func (m *membership) collectDHT(gauge emitGauge, count emitCount) {
	d := m.dht.Load()
	if d == nil {
		return
	}
	s := d.Stats()
	count(descDHTBytes, s.BytesSent, "sent")
	count(descDHTBytes, s.BytesReceived, "received")
	count(descDHTLookups, s.Lookups)
	count(descDHTAsked, s.Asked-s.Failed, "asked")
	count(descDHTAsked, s.Failed, "failed")
	count(descDHTAsked, s.Answered, "answered")
	count(descDHTAsked, s.TurnedAway, "turned_away")
	count(descDHTAsked, s.Malformed, "malformed")
	count(descDHTRefused, s.Refused)
	count(descDHTStale, s.Stale)
	gauge(descDHTRecords, float64(s.Records))
	gauge(descDHTTable, float64(s.Routing))
	server := 0.0
	if s.Server {
		server = 1
	}
	gauge(descDHTServer, server)
}

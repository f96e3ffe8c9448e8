package gossip

import (
	"bytes"
	"errors"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// delegate is what memberlist calls, much of it with its lock held. Every method decides, notes and returns.
type delegate struct{ p *Pool }

var (
	_ memberlist.Delegate         = delegate{}
	_ memberlist.EventDelegate    = delegate{}
	_ memberlist.AliveDelegate    = delegate{}
	_ memberlist.MergeDelegate    = delegate{}
	_ memberlist.ConflictDelegate = delegate{}
	_ memberlist.PingDelegate     = delegate{}
)

// refusalErrors are what memberlist writes into its log, one for each reason, made once.
var refusalErrors = func() (out [refusalReasons]error) {
	for r := range refusalReasons {
		out[r] = errors.New("gossip: refused: " + r.String())
	}
	return out
}()

// NodeMeta is our own signed record.
func (d delegate) NodeMeta(int) []byte { return d.p.host.own.announced.Load().signed }

// NotifyAlive decides whether a node may be held alive.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	p := d.p
	if n.Name == p.selfName {
		// Let memberlist refute what is said of us, above all what an earlier run of ours left behind.
		if p.host.own.heard(n.Meta) {
			p.host.announce()
		}
		return nil
	}
	now := time.Now()
	_, why, ok := p.admission.judge(n, p.host.cfg.Now(), now)
	if ok {
		return nil
	}
	p.stats.refuse(why)
	if why == refusedStranger || why == refusedExpired || why == refusedScope {
		p.missing(n, now)
	}
	return refusalErrors[why]
}

// NotifyMerge looks at a whole list before it is merged. Each alive node in it is judged on its own afterwards, so a stranger among
// them does not spoil the rest: he may be a member whose certificate travels slower than this list. Only a list that no honest
// member sends is refused whole.
func (d delegate) NotifyMerge(nodes []*memberlist.Node) error {
	for _, n := range nodes {
		if _, err := identity.ParseNodeID(n.Name); err != nil {
			d.p.stats.refuse(refusedName)
			return refusalErrors[refusedName]
		}
	}
	d.p.exchanged.Store(true)
	return nil
}

// NotifyConflict hears of two addresses for one node. The addresses follow from the IDs and are checked before, so this is a member
// that lies, or our own mistake.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.p.stats.refuse(refusedConflict)
	d.p.log.Warn("a node is announced at two addresses; the first stays", "peer", existing.Name, "addr", existing.Address(),
		"other", other.Address())
}

// NotifyJoin hears that a node is alive that was not, or not here.
func (d delegate) NotifyJoin(n *memberlist.Node) {
	if id, record, ok := d.p.recordOf(n); ok {
		d.p.roster.joined(id, record, time.Now())
	}
}

// NotifyUpdate hears of a node's new record.
func (d delegate) NotifyUpdate(n *memberlist.Node) {
	if id, record, ok := d.p.recordOf(n); ok {
		d.p.roster.updated(id, record)
	}
}

// NotifyLeave hears that a node died or left.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	if id, err := identity.ParseNodeID(n.Name); err == nil {
		d.p.roster.gone(id, time.Now())
	}
}

// AckPayload is our coordinate, unless our record says as much.
func (d delegate) AckPayload() []byte {
	if d.p.host.cfg.Coordinates == nil {
		return nil
	}
	c, say := d.p.host.cfg.Coordinates.Tell(d.p.host.own.announced.Load().record)
	if !say {
		return nil
	}
	return c.Append(nil)
}

// NotifyPingComplete hears of an answered probe.
func (d delegate) NotifyPingComplete(n *memberlist.Node, rtt time.Duration, payload []byte) {
	if bytes.Equal(payload, spared) {
		return // nobody was asked
	}
	id, err := identity.ParseNodeID(n.Name)
	if err != nil || rtt <= 0 {
		return
	}
	record := d.p.roster.answered(id, rtt)
	if d.p.host.cfg.Coordinates == nil {
		return
	}
	if c, ok := peer.ParseCoordinate(payload); ok {
		d.p.host.cfg.Coordinates.Observe(id, c, rtt)
	} else if record.Placed && len(payload) == 0 {
		d.p.host.cfg.Coordinates.Observe(id, record.Coordinate, rtt)
	}
}

// NotifyMsg takes a rumour in.
func (d delegate) NotifyMsg(b []byte) { d.p.host.rumours.take(d.p, b) }

// GetBroadcasts gives nothing to be sent along: rumours go on their own, see tellRumours.
func (d delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState is what is shared beside the members, see [Shared]. Records ride in the members' metas, the ledger's state in its own protocol.
func (d delegate) LocalState(bool) []byte { return d.p.sharedState() }

// MergeRemoteState takes what another shares.
func (d delegate) MergeRemoteState(b []byte, _ bool) {
	if shared := d.p.host.cfg.Shared; shared != nil && len(b) > 0 {
		shared.Merge(d.p.scope, b)
	}
}

package node

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/place"
)

const (
	// regionLook is how often a node looks whether it is of the right region: some times in the minute for which that must hold.
	regionLook = 10 * time.Second
	// measuredFor is how long a measured round trip counts instead of an estimate, or that a member did not answer: longer than a choice
	// takes, so that a member that lies about where it is costs each of the others three checks in two minutes and no more.
	measuredFor = 2 * time.Minute
	// measureWait bounds one measurement, the search for a path included.
	measureWait = 5 * time.Second
	// moveRetryMin..Max: between two requests to move that were refused, or for which there was no quorum.
	moveRetryMin = regionLook
	moveRetryMax = 10 * time.Minute
)

// region is what a node knows of its place among the regions.
type region struct {
	look chan struct{} // 1: what the node was told has changed

	mu       sync.Mutex // guards what follows
	told     string     // the region that the node was told; empty: it chooses
	why      string     // what the choice rests on, for people; empty: nothing was chosen
	measured map[identity.NodeID]measurement

	// Only followRegion uses these.
	chooser place.Chooser
	retry   time.Time
	pause   time.Duration
}

// measurement is a round trip; 0: there was no answer.
type measurement struct {
	rtt time.Duration
	at  time.Time
}

// measured takes in a round trip on a member's active path. While a mesh is calm gossip probes the same two members again and again; the
// checks of paths tell of the others.
func (n *Node) measured(id identity.NodeID, rtt time.Duration) {
	if e, ok := n.peers.Get(id); ok && !e.Revoked && e.Record.Placed {
		n.place.Observe(id, e.Record.Coordinate, rtt)
	}
}

// toldRegion is the region that this node was told to be of; empty: it chooses.
func (m *membership) toldRegion() string {
	m.region.mu.Lock()
	defer m.region.mu.Unlock()
	return m.region.told
}

// regionWhy is what the choice of the region rests on.
func (m *membership) regionWhy() string {
	m.region.mu.Lock()
	defer m.region.mu.Unlock()
	return m.region.why
}

// followRegion keeps the node in the region that it was told, or that is nearest.
func (m *membership) followRegion() {
	tick := time.NewTicker(regionLook)
	defer tick.Stop()
	for {
		m.node.place.Retain(m.node.isMember)
		if told := m.toldRegion(); told != "" {
			m.moveTo(told, "it was told to")
		} else {
			m.chooseRegion()
		}
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
		case <-m.region.look:
			m.region.retry, m.region.pause = time.Time{}, 0
		}
	}
}

// chooseRegion looks where the others are and moves if it must.
func (m *membership) chooseRegion() {
	state := m.group.State()
	home := state.RegionOf(m.node.ID())
	if state.Version == 0 {
		return // who has just enrolled does not know the mesh yet
	}
	if len(state.Regions.List) < 2 {
		m.say("there is no other region")
		return
	}
	v := m.region.chooser.Step(home, m.neighbours(), time.Now())
	m.say(v.Why)
	m.measure(v.Ask)
	if v.Move != "" {
		m.moveTo(v.Move, v.Why)
	}
}

func (m *membership) say(why string) {
	m.region.mu.Lock()
	defer m.region.mu.Unlock()
	m.region.why = why
}

// neighbours are the members that are alive, with what is known of how far away they are. The others of a region are represented by those
// whose records come here.
func (m *membership) neighbours() (out []place.Neighbour) {
	ours, settled := m.node.place.Coordinate()
	m.region.mu.Lock()
	defer m.region.mu.Unlock()
	for id, x := range m.region.measured {
		if time.Since(x.at) >= measuredFor {
			delete(m.region.measured, id)
		}
	}
	for _, e := range m.node.peers.All() {
		if e.ID == m.node.ID() || e.Revoked || e.State != peer.Alive {
			continue
		}
		x := place.Neighbour{ID: e.ID, Name: e.Member.Name, Region: cmp.Or(e.Member.Region, coordinator.DefaultRegion), Named: e.Record.Named}
		if got, ok := m.region.measured[e.ID]; ok {
			x.RTT, x.Measured = got.rtt, got.rtt > 0
		} else if settled && e.Record.Placed {
			x.RTT = ours.RTT(e.Record.Coordinate)
		}
		out = append(out, x)
	}
	return out
}

// measure asks members for a sign of life, all at once.
func (m *membership) measure(ids []identity.NodeID) {
	ctx, cancel := context.WithTimeout(m.ctx, measureWait)
	defer cancel()
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			rtt, err := m.node.socket.Probe(ctx, id)
			if err != nil {
				rtt = 0
			}
			m.region.mu.Lock()
			defer m.region.mu.Unlock()
			m.region.measured[id] = measurement{rtt, time.Now()}
		})
	}
	all.Wait()
}

// moveTo makes the node a member of another region, if it is not one yet. What is refused is asked for again later, with pauses.
func (m *membership) moveTo(to, why string) {
	from := m.group.State().RegionOf(m.node.ID())
	if from == to || time.Now().Before(m.region.retry) {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, decideMax)
	defer cancel()
	err := m.group.MoveRegion(ctx, to)
	if err == nil {
		m.node.log.Info("moved to another region", "region", to, "before", from, "why", why)
		m.region.retry, m.region.pause = time.Time{}, 0
		return
	}
	m.region.pause = min(max(2*m.region.pause, moveRetryMin), moveRetryMax)
	m.region.retry = time.Now().Add(m.region.pause)
	level := m.node.log.Warn
	if errors.Is(err, coordinator.ErrNoQuorum) {
		level = m.node.log.Debug
	}
	level("the region is not changed yet", "region", to, "before", from, "err", err, "again", m.region.pause)
}

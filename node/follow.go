package node

import (
	"context"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay"
)

// Topics of rumours.
const (
	// topicState tells that the mesh's signed state has reached a version: 8 bytes, big-endian. Who is behind pulls from who told.
	topicState uint8 = 1
	// topicBulletin is a region's bulletin, topicLargeBulletin the name of a region whose bulletin fits no rumour: its author has it.
	topicBulletin      uint8 = 2
	topicLargeBulletin uint8 = 3
	// topicRecord is the signed record of a member that all regions need, by itself.
	topicRecord uint8 = 4
	// topicHorizon is what those who speak for a region have lost sight of. It stays in the region's pool.
	topicHorizon uint8 = 5
)

// stateCheckInterval is how often a node compares its state's version with what its peers say of theirs: the safety net under the rumours.
const stateCheckInterval = 10 * time.Second

// followState acts on every change of the ledger or its copy.
func (m *membership) followState() {
	tick := time.NewTicker(stateCheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.changed:
			m.stateChanged()
		case <-tick.C:
			m.pullFromAhead()
			m.followPools(m.group.State()) // whether this node has a replica is in no state
			m.adoptKeys(m.group.State().Keyring.Keys)
		}
	}
}

func (m *membership) stateChanged() {
	m.heedRenewal()
	state := m.group.State()
	m.adoptMembers(state)
	m.noteVoters(state)
	m.enforceRevocations(state)
	m.followPools(state)
	signal(m.abroad.wake)
	m.adoptPolicy(state)
	m.adoptKeys(state.Keyring.Keys)
	m.spreadVersion(state)
	signal(m.publish)
}

// adoptMembers enters the ledger's members into the peer table, from where everything else learns of them.
func (m *membership) adoptMembers(state *coordinator.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, member := range state.Members {
		if m.adopted[member.ID] == member.Version && member.Version != 0 {
			continue
		}
		m.adopted[member.ID] = member.Version
		if member.Certificate != nil && len(member.Raw) > 0 {
			m.node.peers.Admit(member.Certificate, member.Raw)
		}
		if member.Status != coordinator.Active && m.node.online.Load() == nil {
			m.node.peers.Revoke(member.ID) // later, enforceRevocations does it: who is connected is to hear why
		}
	}
}

// noteVoters keeps since when each coordinator has been one, as far as this node has seen.
func (m *membership) noteVoters(state *coordinator.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.node.cfg.Now()
	for _, id := range state.Coordinators.Voters {
		if _, ok := m.voters[id]; !ok {
			m.voters[id] = now
		}
	}
	maps.DeleteFunc(m.voters, func(id identity.NodeID, _ time.Time) bool { return !state.Coordinators.Voter(id) })
}

func (m *membership) voterSince(id identity.NodeID) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.voters[id]
}

// enforceRevocations cuts revoked nodes off: their tunnel, their connections, their paths. What they open anew is refused by Trust.
func (m *membership) enforceRevocations(state *coordinator.State) {
	for _, member := range state.Members {
		if member.Status == coordinator.Active {
			continue
		}
		m.mu.Lock()
		done := m.cutOff[member.ID]
		m.cutOff[member.ID] = true
		m.mu.Unlock()
		if done {
			continue
		}
		if member.ID == m.node.ID() {
			m.node.turnedAway(state.Mesh.Name, "the mesh's state says so")
			continue
		}
		m.node.log.Info("membership ended", "peer", member.ID.Short(), "name", member.Certificate.Name, "status", member.Status.String())
		if member.Status == coordinator.Left {
			m.loops.Go(func() {
				if sleep(m.ctx, leaveGrace) {
					m.cut(member.ID)
				}
			})
			continue
		}
		m.cut(member.ID)
	}
}

// leaveGrace is how long who left in good order may still be spoken to: it has to hear that it is out.
const leaveGrace = time.Second

// cut ends all there is with a node. Its connections are closed first, while there is a path on which it can hear why.
func (m *membership) cut(id identity.NodeID) {
	m.node.control.Disconnect(id, control.ReasonRevoked)
	m.node.peers.Revoke(id)
	m.plane.Drop(id)
	if d := m.dht.Load(); d != nil {
		d.Cut(id)
	}
	m.node.socket.Forget(id)
}

// spreadVersion tells the others of a state that is newer than what they may have.
func (m *membership) spreadVersion(state *coordinator.State) {
	version := state.Version
	if !m.news.tell(version, state.Coordinators.Voter(m.node.ID())) {
		return
	}
	if err := m.gossip.Rumour(topicState, binary.BigEndian.AppendUint64(nil, version)); err != nil {
		m.node.log.Debug("rumour not spread", "err", err)
	}
}

// followRumours pulls what others say they have.
func (m *membership) followRumours() {
	for {
		select {
		case <-m.ctx.Done():
			return
		case r := <-m.gossip.Rumours():
			m.hearRumour(r)
		}
	}
}

// pullFromAhead asks one of those whose records claim a newer state than ours. A liar costs one pull an interval.
func (m *membership) pullFromAhead() {
	ours := m.group.State().Version
	var ahead []identity.NodeID
	for _, e := range m.node.peers.All() {
		if e.State == peer.Alive && e.HasRecord && e.Record.StateVersion > ours {
			ahead = append(ahead, e.ID)
		}
	}
	if len(ahead) == 0 {
		return
	}
	slices.SortFunc(ahead, func(a, b identity.NodeID) int { return a.Compare(b) })
	// Another one every time, so that a liar does not keep us from the truth.
	m.group.PullSoon(ahead[int(time.Now().UnixNano()/int64(stateCheckInterval))%len(ahead)])
}

// followGossip hands gossip's news to whom they concern.
func (m *membership) followGossip() {
	n := m.node
	for {
		select {
		case <-m.ctx.Done():
			return
		case id := <-m.gone:
			m.dropLeft(id)
		case e := <-m.gossip.Events():
			n.log.Debug("gossip", "peer", e.ID.Short(), "event", e.Kind.String(), "pool", string(e.Scope))
			signal(m.abroad.wake)
			voter := m.group.State().Coordinators.Voter(e.ID)
			comesOrGoes := voter && e.Kind != gossip.MemberSuspect && e.Kind != gossip.MemberUpdated
			// A vote that is given to one who may sign already changes nothing in the ledger, which would be news.
			if newVote := e.Kind == gossip.MemberUpdated && e.Record.Voter != voter; comesOrGoes || newVote {
				m.group.Refresh()
			}
			switch e.Kind {
			case gossip.MemberAlive, gossip.MemberUpdated:
				m.note(e.ID, addresses(e.Record))
				if e.Record.StateVersion > m.group.State().Version {
					m.group.PullSoon(e.ID)
				}
				if e.Kind == gossip.MemberAlive {
					n.control.Suspect(e.ID)
				}
			case gossip.MemberDead:
				n.control.Suspect(e.ID)
			case gossip.MemberLeft:
				m.dropLeft(e.ID)
			case gossip.UnknownMember:
				m.pullUnknown(e)
			}
		}
	}
}

// heed is told that a member of another region has changed its state, by what its region says.
func (m *membership) heed(id identity.NodeID, state peer.State) {
	if m.group.State().Coordinators.Voter(id) {
		m.group.Refresh()
	}
	switch state {
	case peer.Alive, peer.Dead:
		m.node.control.Suspect(id)
	case peer.Left:
		m.dropLeft(id)
	}
}

// firstFew is how many nodes the address book must hold before the next may wait some seconds for its place on the disk: any one of these
// leads a node that was killed back to the mesh.
const firstFew = 8

// note keeps where a member is.
func (m *membership) note(id identity.NodeID, addrs []netip.AddrPort) {
	book := m.node.book
	_, known := book.Get(id)
	book.Note(id, addrs, m.node.cfg.Now())
	if known || len(book.IDs()) > firstFew {
		return
	}
	if err := book.Flush(); err != nil {
		m.node.log.Warn("address book not kept", "err", err)
	}
}

// goneMax is how many lost connections may wait to be looked at. Whose does not find room keeps its tunnel until it comes back.
const goneMax = 64

// connectionChanged notes who has lost its last control connection. It must not block.
func (n *Node) connectionChanged(p control.Peer, up bool) {
	m := n.online.Load()
	if m == nil || up {
		return
	}
	select {
	case m.gone <- p.ID:
	default:
	}
}

// dropLeft ends the tunnel to a node that has stopped, and so has taken its keys with it: the first packet after its return then waits for new
// ones instead of being lost under the old. Gossip's word alone is not enough, the node must be gone from the control channel as well: one who
// lies about another must not touch its tunnels.
func (m *membership) dropLeft(id identity.NodeID) {
	e, ok := m.node.peers.Get(id)
	if ok && e.State == peer.Left && !m.node.control.Connected(id) {
		m.plane.Drop(id)
	}
}

// pullUnknown fetches the state that has a member of whom only gossip told us: from who told, else from any voter.
func (m *membership) pullUnknown(e gossip.Event) {
	if !e.Via.IsZero() {
		m.group.PullSoon(e.Via)
		return
	}
	for _, id := range m.group.State().Coordinators.Voters {
		if id != m.node.ID() {
			m.group.PullSoon(id)
			return
		}
	}
}

// rememberPaths keeps the addresses at which members were really reached.
func (m *membership) rememberPaths() {
	n := m.node
	changed, cancel := n.socket.Watch()
	defer cancel()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-changed:
			for _, p := range n.socket.Paths() {
				if p.Endpoint.IsValid() {
					n.book.Note(p.ID, m.knownAddresses(p), n.cfg.Now())
				}
			}
		}
	}
}

// knownAddresses are where a member was reached just now, then where it says it may be.
func (m *membership) knownAddresses(p underlay.PathInfo) []netip.AddrPort {
	out := []netip.AddrPort{p.Endpoint}
	for _, w := range p.Standby {
		if w.Endpoint.IsValid() {
			out = append(out, w.Endpoint)
		}
	}
	if e, ok := m.node.peers.Get(p.ID); ok {
		out = append(out, addresses(e.Record)...)
	}
	return out
}

func addresses(r peer.Record) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range r.Endpoints {
		out = append(out, e.Addr)
	}
	return out
}

// publishInterval is how often a node looks at what it says of itself; news are spread at once but not more often than publishPause.
const (
	publishInterval = 30 * time.Second
	publishPause    = 500 * time.Millisecond
)

// publishRecords keeps the node's own record true.
func (m *membership) publishRecords() {
	tick := time.NewTicker(publishInterval)
	defer tick.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	last, told := peer.Record{}, peer.Record{}
	var versionDue time.Time // when the next record may say no more than a newer version
	later := time.NewTimer(publishInterval)
	defer later.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.publish:
		case <-tick.C:
		case <-later.C:
		}
		select {
		case <-m.ctx.Done():
			return
		case <-pause.C:
		}
		pause.Reset(publishPause)
		r := m.describe()
		if sameNews(r, last) {
			continue
		}
		state, now := m.group.State(), time.Now()
		if wait := versionDue.Sub(now); wait > 0 && mayWait(r, last, state.Keyring.Version) {
			later.Reset(wait)
			continue
		}
		pace := coordinator.VersionPace(state.CountOf(state.RegionOf(m.node.ID())))
		versionDue = now.Add(pace/2 + rand.N(pace+1))
		last = r
		r.Sequence = m.nextSequence()
		m.publishInDHT(r)
		if err := m.gossip.SetRecord(r); err != nil && m.ctx.Err() == nil {
			m.node.log.Warn("own record not spread", "err", err)
		}
		told = m.tellRegions(r, told)
	}
}

// mayWait reports whether a record says no more than that its node holds a newer state. That it holds the mesh's newest key does not wait: the leader moves
// on when all have said so.
func mayWait(r, last peer.Record, keyring uint64) bool {
	return sameMatter(r, last) && (last.StateVersion >= keyring || r.StateVersion < keyring)
}

// sameMatter is sameNews but for the version of the state, which changes with every decision.
func sameMatter(a, b peer.Record) bool {
	a.StateVersion = b.StateVersion
	return sameNews(a, b)
}

func sameNews(a, b peer.Record) bool {
	return a.Region == b.Region && a.StateVersion == b.StateVersion && a.Voter == b.Voter && a.Relay == b.Relay && a.Busy == b.Busy && a.NAT == b.NAT &&
		slices.Equal(a.Endpoints, b.Endpoints) && slices.Equal(a.Relays, b.Relays) &&
		a.Named == b.Named && a.Placed == b.Placed && a.Coordinate == b.Coordinate
}

// describe is what there is to say of this node now, without a sequence.
func (m *membership) describe() peer.Record {
	n := m.node
	state := m.group.State()
	r := peer.Record{ID: n.ID(), StateVersion: state.Version, Voter: state.Coordinators.Voter(n.ID())}
	if self, ok := state.Member(n.ID()); ok {
		r.Region = self.Certificate.Region
	}
	r.Endpoints, r.Relays, r.Relay, r.NAT = m.reach.Endpoints(), m.reach.Relays(), m.reach.OffersRelay(), m.reach.NAT()
	r.Busy = r.Relay && m.reach.Busy()
	r.Named = m.toldRegion() == r.Region
	r.Coordinate, r.Placed = m.said.Step(n.place, time.Now())
	return r
}

// record is the first record of a run.
func (m *membership) record() peer.Record {
	r := m.describe()
	r.Sequence = m.nextSequence()
	return r
}

func (m *membership) nextSequence() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.node.sequence.take()
	if err != nil {
		m.node.log.Warn("record sequence not kept", "err", err)
	}
	return s
}

// sleep waits, or returns false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

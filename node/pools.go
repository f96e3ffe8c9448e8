package node

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/internal/config"
)

// A node takes part in the pool of its own region and, if it is one that connects regions, in the wide pool: those who have a replica of the
// ledger and the coordinators of regions. Which these are follows the mesh's state. A mesh with one region has no wide pool.

// poolLinger is how long a node stays in a pool in which it is not wanted any more: until those of its new region have been told of it, and
// theirs has told others; less than gossip's scopeGrace, so that it is still heard when it goes. One that is wanted again has never been away.
const poolLinger = 10 * time.Second

// poolFarewell bounds saying goodbye in a pool.
const poolFarewell = 5 * time.Second

// pools are those that this node takes part in. adjust is called by one goroutine at a time.
type pools struct {
	mu      sync.Mutex
	wide    map[identity.NodeID]bool            // whom the signed state lets into the wide pool
	book    []identity.NodeID                   // who should be there
	version uint64                              // of the state that these are by
	leaving map[gossip.Scope]context.CancelFunc // ends the wait to leave; nil once it is being left
	opened  map[gossip.Scope]time.Time
}

// regionScope is the pool of a member's region by its certificate.
func regionScope(region string) gossip.Scope {
	if region == "" {
		region = coordinator.DefaultRegion
	}
	return gossip.Scope(region)
}

// widePool tells whether a state has several regions, which need connecting.
func widePool(state *coordinator.State) bool {
	first := ""
	for _, m := range state.Members {
		switch region := state.RegionOf(m.ID); {
		case m.Status != coordinator.Active:
		case first == "":
			first = region
		case region != first:
			return true
		}
	}
	return false
}

// connects tells whether this node connects its region with the others.
func (m *membership) connects(state *coordinator.State) bool {
	_, _, coordinates := state.Coordinates(m.node.ID())
	return widePool(state) && (coordinates || m.group.Serving() || state.Coordinators.Voter(m.node.ID()))
}

// adjustPools opens the pools that the state wants this node in, and leaves others.
func (m *membership) adjustPools(state *coordinator.State) error {
	m.noteWide(state)
	want := []gossip.Config{m.regionPool(state.RegionOf(m.node.ID()))}
	if m.connects(state) {
		want = append(want, m.widePool())
	}
	wanted := map[gossip.Scope]bool{}
	for _, cfg := range want {
		wanted[cfg.Scope] = true
		if !m.stay(cfg.Scope) || m.gossip.Pool(cfg.Scope) != nil {
			continue
		}
		if _, err := m.gossip.Open(cfg); err != nil {
			return err
		}
		m.pools.mu.Lock()
		m.pools.opened[cfg.Scope] = time.Now()
		m.pools.mu.Unlock()
		m.node.log.Info("gossip pool joined", "pool", string(cfg.Scope))
	}
	for _, p := range m.gossip.Pools() {
		if !wanted[p.Scope()] {
			m.leavePool(p)
		}
		p.Reconsider()
	}
	return nil
}

// followPools is adjustPools for those who can do nothing about a failure but try again with the next change.
func (m *membership) followPools(state *coordinator.State) {
	if err := m.adjustPools(state); err != nil && m.ctx.Err() == nil {
		m.node.log.Error("gossip pool not joined", "err", err)
	}
}

// noteWide keeps whom the state lets into the wide pool, and who should be there. Issuers are let in, so that a vote that moves from one to
// another tears nobody out: who votes is hearsay, who may vote is signed. Certificates expire and clocks are set, so that it is asked now and then
// although no state has come.
func (m *membership) noteWide(state *coordinator.State) {
	wide, now := map[identity.NodeID]bool{}, m.node.cfg.Now()
	for _, i := range state.Issuers {
		if state.MaySpeakRaft(i.ID, now) {
			wide[i.ID] = true
		}
	}
	var book []identity.NodeID
	for _, v := range state.Coordinators.Voters {
		if wide[v] {
			book = append(book, v)
		}
	}
	for _, r := range state.Regions.List {
		if id, _, ok := state.RegionCoordinator(r.Name); ok {
			wide[id] = true
			book = append(book, id)
		}
	}
	m.pools.mu.Lock()
	if state.Version < m.pools.version {
		m.pools.mu.Unlock()
		return
	}
	changed := !maps.Equal(wide, m.pools.wide)
	m.pools.version, m.pools.wide, m.pools.book = state.Version, wide, book
	m.pools.mu.Unlock()
	if p := m.gossip.Pool(gossip.Wide); changed && p != nil {
		p.Reconsider()
	}
}

// shouldBeWide tells whether a member has a place in the wide pool: it votes or coordinates a region. Others that are let in may be there, or
// speak for their region from outside.
func (m *membership) shouldBeWide(id identity.NodeID) bool {
	m.pools.mu.Lock()
	defer m.pools.mu.Unlock()
	return slices.Contains(m.pools.book, id)
}

// mayBeWide tells whether the signed state lets a member into the wide pool.
func (m *membership) mayBeWide(id identity.NodeID) bool {
	m.pools.mu.Lock()
	defer m.pools.mu.Unlock()
	return m.pools.wide[id]
}

// profile is the timing of this node's region.
func (m *membership) profile() gossip.Profile {
	if m.node.cfg.Settings.Timing == config.WAN {
		return gossip.WAN()
	}
	return gossip.LAN()
}

// regionPool is the pool of a region: who is of it by its certificate is in it.
func (m *membership) regionPool(region string) gossip.Config {
	scope := gossip.Scope(region)
	return gossip.Config{Scope: scope, Profile: m.profile(), Admits: func(id identity.NodeID) bool {
		e, ok := m.node.peers.Get(id)
		return ok && regionScope(e.Member.Region) == scope
	}}
}

// widePool is the pool of those who connect the regions, which are far apart.
func (m *membership) widePool() gossip.Config {
	return gossip.Config{Scope: gossip.Wide, Profile: gossip.WAN(),
		Admits: m.mayBeWide,
		Book: func() []identity.NodeID {
			m.pools.mu.Lock()
			defer m.pools.mu.Unlock()
			return m.pools.book
		},
	}
}

// stay ends the wait to leave a pool. It is false while the pool is being left: who does so has adjustPools look again.
func (m *membership) stay(scope gossip.Scope) bool {
	m.pools.mu.Lock()
	defer m.pools.mu.Unlock()
	cancel, leaving := m.pools.leaving[scope]
	if leaving && cancel == nil {
		return false
	}
	if leaving {
		cancel()
		delete(m.pools.leaving, scope)
	}
	return true
}

// leavePool leaves a pool in good order, after a while.
func (m *membership) leavePool(p *gossip.Pool) {
	m.pools.mu.Lock()
	defer m.pools.mu.Unlock()
	if _, already := m.pools.leaving[p.Scope()]; already {
		return
	}
	wait, cancel := context.WithCancel(m.ctx)
	m.pools.leaving[p.Scope()] = cancel
	m.loops.Go(func() {
		defer cancel()
		if !sleep(wait, poolLinger) {
			return
		}
		m.pools.mu.Lock()
		if wait.Err() != nil {
			m.pools.mu.Unlock()
			return
		}
		m.pools.leaving[p.Scope()] = nil
		m.pools.mu.Unlock()
		ctx, done := context.WithTimeout(m.ctx, poolFarewell)
		defer done()
		if err := p.Leave(ctx); err != nil {
			m.node.log.Debug("left a gossip pool unheard", "pool", string(p.Scope()), "err", err)
		}
		_ = p.Close()
		m.node.log.Info("gossip pool left", "pool", string(p.Scope()))
		m.pools.mu.Lock()
		delete(m.pools.leaving, p.Scope())
		m.pools.mu.Unlock()
		m.wake()
		signal(m.abroad.wake)
	})
}

// poolSince is since when this node has been in a pool.
func (m *membership) poolSince(scope gossip.Scope) time.Time {
	m.pools.mu.Lock()
	defer m.pools.mu.Unlock()
	return m.pools.opened[scope]
}

// homePool is the pool of this node's region.
func (m *membership) homePool() *gossip.Pool {
	return m.gossip.Pool(gossip.Scope(m.group.State().RegionOf(m.node.ID())))
}

// greet begins to gossip with a member that was found by other means, or has it say what the mesh's state is, if it is of another region.
func (m *membership) greet(id identity.NodeID) {
	var err error
	for _, p := range m.gossip.Pools() {
		if !p.Admits(id) {
			continue
		}
		if _, err = p.Join(m.ctx, []identity.NodeID{id}); err == nil {
			return
		}
	}
	if err != nil {
		m.node.log.Debug("gossip will try the member again", "peer", id.Short(), "err", err)
	}
	m.group.PullSoon(id)
	m.abroad.askAbout(id)
}

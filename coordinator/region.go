package coordinator

import (
	"context"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// What a coordinator does for its region, beside being asked first for the state (poll): it orders members whose record shows an older
// state to pull it from here, over the protocol "region":
//
//	coordinator  message: array [kind 2, 0, region, term, state version]
//	member       message: array [highest term it knows of, refused]
//
// A member refuses an order of a lower term than it knows, or of the same term from somebody else; an order of a higher term than it knows
// it takes from a member of the region, for all that it is told to do is to fetch what is signed. Who is refused has been replaced, asks the
// member for the state that says so, and is out of office with it.

const (
	// behindFor is how long a member's record may show an older state until its coordinator sends an order: rumours and records take
	// less.
	behindFor = 3 * time.Second
	// ordersPerTick bounds how many members a coordinator orders at once; the others follow with the next ticks.
	ordersPerTick = 16
)

// fenced tells whether what a node says as the coordinator of a region is to be refused.
func (s *State) fenced(o Office) bool {
	id, term, ok := s.RegionCoordinator(o.Region)
	switch {
	case o.Term != term:
		return o.Term < term
	case ok:
		return o.Node != id
	}
	return true // the term's coordinator was taken out of office, and nobody elected yet
}

// serveRegion answers the leader's beats and a coordinator's orders.
func (g *Group) serveRegion(ctx context.Context, s Stream) {
	defer s.Close()
	ctx, done := g.within(ctx)
	defer done()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	for {
		s.SetDeadline(time.Now().Add(4*g.cfg.Timing.Ping + g.cfg.Timing.RPC))
		var m regionMessage
		if err := wire.ReadMessage(s, &m, regionMessageMax); err != nil {
			return
		}
		reply, ok := g.heedRegion(s.Peer().ID, m)
		if !ok || wire.WriteMessage(s, reply, regionMessageMax) != nil || m.Kind != regionBeat {
			return
		}
	}
}

func (g *Group) heedRegion(from identity.NodeID, m regionMessage) (regionReply, bool) {
	s := g.state.Load()
	_, term, _ := s.RegionCoordinator(m.Region)
	switch m.Kind {
	case regionBeat:
		if !s.MaySpeakRaft(from, g.cfg.Now()) {
			g.PullSoon(from) // perhaps its certificate is newer than our state
			return regionReply{}, false
		}
		if !g.beats.note(m) {
			return regionReply{}, false
		}
		if m.Version > s.Version || s.Coordinators.Leader != from {
			g.PullSoon(from)
		}
		return regionReply{Term: term}, true
	case regionOrder:
		if s.RegionOf(from) != m.Region || s.RegionOf(g.self) != m.Region || !s.Active(from) ||
			s.fenced(Office{Region: m.Region, Term: m.Term, Node: from}) {
			g.refusedOrders.Add(1)
			return regionReply{Term: term, Refused: true}, true
		}
		if m.Version > s.Version {
			g.PullSoon(from)
		}
		return regionReply{Term: term}, true
	}
	return regionReply{}, false
}

const (
	// versionCrowd is up to how many members of a region each says at once that it holds a newer state. Of more, each waits versionTurn longer for every
	// one, up to versionPaceMax: else every decision in a region of n would have n records signed, and each checked n times.
	versionCrowd   = 16
	versionTurn    = 100 * time.Millisecond
	versionPaceMax = 2 * time.Minute
)

// VersionPace is how long, on average, a member of a region of n may keep to itself that it holds a newer state, if it has nothing else to say. Who missed
// one hears of it from the first that speaks: some turns later, whatever n is.
func VersionPace(n int) time.Duration {
	return min(versionTurn*time.Duration(max(0, n-versionCrowd)), versionPaceMax)
}

// coordinate does a coordinator's duties for its region; steer calls it every tick.
func (g *Group) coordinate() {
	office, ok := g.Office()
	if !ok {
		g.behind = nil
		return
	}
	s, now := g.state.Load(), time.Now()
	patience := behindFor + 2*VersionPace(s.CountOf(office.Region))
	still := map[identity.NodeID]time.Time{}
	var order []identity.NodeID
	for _, m := range s.Members {
		if m.ID == g.self || m.Status != Active || s.RegionOf(m.ID) != office.Region || !g.cfg.Alive(m.ID) {
			continue
		}
		e, known := g.cfg.Peers.Get(m.ID)
		if !known || !e.HasRecord || e.Record.StateVersion >= s.Version {
			continue
		}
		since, before := g.behind[m.ID]
		if !before {
			since = now
		}
		if now.Sub(since) >= patience && len(order) < ordersPerTick {
			order, since = append(order, m.ID), now // again, should it not help
		}
		still[m.ID] = since
	}
	g.behind = still
	for _, id := range order {
		g.running.Go(func() {
			if err := g.Order(g.ctx, id, office); err != nil {
				g.cfg.Log.Debug("coordinator: an order was not taken", "peer", id.Short(), "region", office.Region, "err", err)
			}
		})
	}
}

// errSuperseded: a member knows of a later term.
var errSuperseded = refuse(RefusedNotAllowed, "this node has been replaced as the coordinator of its region")

// Order tells a member of the office's region to fetch the state from here. A refusal means that the office has passed to another: then
// the state that says so is fetched from the member.
func (g *Group) Order(ctx context.Context, id identity.NodeID, office Office) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timing.RPC)
	defer cancel()
	s, err := g.cfg.Streams.Open(ctx, id, ProtocolRegion)
	if err != nil {
		return err
	}
	defer s.Close()
	s.SetDeadline(g.deadline(ctx, g.cfg.Timing.RPC))
	m := regionMessage{Kind: regionOrder, Region: office.Region, Term: office.Term, Version: g.state.Load().Version}
	if err := wire.WriteMessage(s, m, regionMessageMax); err != nil {
		return err
	}
	var reply regionReply
	if err := wire.ReadMessage(s, &reply, regionMessageMax); err != nil {
		return err
	}
	if reply.Refused {
		g.PullSoon(id)
		return errSuperseded
	}
	return nil
}

// RefusedOrders counts the orders that this node has refused since it started, because it knew of another coordinator.
func (g *Group) RefusedOrders() uint64 { return g.refusedOrders.Load() }

// RegionHealth is what a coordinator sees of its region.
type RegionHealth struct {
	Office   Office
	Members  int               // active
	Alive    int               // by gossip
	Behind   int               // alive, with an older state than the coordinator's by their own word
	Expiring int               // certificates with a third of their life or less to go
	Relays   []identity.NodeID // appointed for the region and alive
}

type regionHealthRecord struct {
	_        struct{} `cbor:",toarray"`
	Region   string
	Term     uint64
	Node     identity.NodeID
	Members  uint32
	Alive    uint32
	Behind   uint32
	Expiring uint32
	Relays   []identity.NodeID
}

// summary is the health of the region that this node coordinates.
func (g *Group) summary() (RegionHealth, error) {
	office, ok := g.Office()
	if !ok {
		return RegionHealth{}, refuse(RefusedNotAllowed, "this node coordinates no region")
	}
	h, s, now := RegionHealth{Office: office}, g.state.Load(), g.cfg.Now()
	for _, m := range s.Members {
		if m.Status != Active || s.RegionOf(m.ID) != office.Region {
			continue
		}
		h.Members++
		if c := m.Certificate; now.After(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3)) {
			h.Expiring++
		}
		if m.ID == g.self {
			h.Alive++
			continue
		}
		if !g.cfg.Alive(m.ID) {
			continue
		}
		h.Alive++
		if e, known := g.cfg.Peers.Get(m.ID); known && e.HasRecord {
			if e.Record.StateVersion < s.Version {
				h.Behind++
			}
		}
	}
	for _, r := range s.Relays.Of(office.Region) {
		if r.Node == g.self || g.cfg.Alive(r.Node) {
			h.Relays = append(h.Relays, r.Node)
		}
	}
	return h, nil
}

// RegionHealth asks a region's coordinator how its region is. The answer of one that this node knows to be replaced is refused.
func (g *Group) RegionHealth(ctx context.Context, region string) (RegionHealth, error) {
	id, _, ok := g.state.Load().RegionCoordinator(region)
	if !ok {
		return RegionHealth{}, refuse(RefusedNoMember, "region %s has no coordinator", region)
	}
	var h RegionHealth
	if id == g.self {
		return g.summary()
	}
	a, err := g.ask(ctx, id, question{Op: opRegionHealth}, statusWait)
	if err == nil {
		err = a.err()
	}
	if err != nil {
		return h, err
	}
	return g.state.Load().parseHealth(a.Body, id, region)
}

// parseHealth reads what a node says as the coordinator of a region.
func (s *State) parseHealth(body []byte, id identity.NodeID, region string) (RegionHealth, error) {
	var r regionHealthRecord
	if err := wire.Unmarshal(body, &r); err != nil {
		return RegionHealth{}, err
	}
	h := RegionHealth{Office: Office{Region: r.Region, Term: r.Term, Node: r.Node}, Members: int(r.Members), Alive: int(r.Alive),
		Behind: int(r.Behind), Expiring: int(r.Expiring), Relays: r.Relays}
	if r.Node != id || r.Region != region || len(r.Relays) > relaysPerRegion || s.fenced(h.Office) {
		return RegionHealth{}, errSuperseded
	}
	return h, nil
}

func (g *Group) answerHealth() ([]byte, error) {
	h, err := g.summary()
	if err != nil {
		return nil, err
	}
	return wire.Marshal(regionHealthRecord{Region: h.Office.Region, Term: h.Office.Term, Node: h.Office.Node, Members: uint32(h.Members),
		Alive: uint32(h.Alive), Behind: uint32(h.Behind), Expiring: uint32(h.Expiring), Relays: h.Relays})
}

// observeYielding returns who has given its region away (opYield) and is about to go, by since when members have been alive: who came back after it
// said so, or is still here when unwillingFor is over, is as good as any.
func (g *Group) observeYielding(now time.Time, alive map[identity.NodeID]time.Time) map[identity.NodeID]bool {
	out := map[identity.NodeID]bool{}
	g.yielding.Range(func(k, v any) bool {
		id, said := k.(identity.NodeID), v.(time.Time)
		if now.Sub(said) >= unwillingFor || alive[id].After(said) {
			g.yielding.Delete(id)
		} else {
			out[id] = true
		}
		return true
	})
	return out
}

// executeYield has the asker's region elect another coordinator, if there is one, and waits for it.
func (g *Group) executeYield(ctx context.Context, r *replica, asker identity.NodeID, _ nothing) ([]byte, error) {
	if _, _, ok := g.ledgerState(r).Coordinates(asker); !ok {
		return nil, nil
	}
	g.yielding.Store(asker, time.Now())
	poke(g.wake)
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timing.RPC)
	defer cancel()
	for {
		if _, _, ok := g.ledgerState(r).Coordinates(asker); !ok {
			return nil, nil
		}
		wait(ctx, handoverPoll)
		if ctx.Err() != nil {
			return nil, refuse(RefusedNoMember, "nobody else of the region can coordinate it now")
		}
	}
}

// yield gives this node's region to another of its members, if one is alive.
func (g *Group) yield(ctx context.Context) {
	s := g.state.Load()
	region, _, ok := s.Coordinates(g.self)
	heir := slices.ContainsFunc(s.Members, func(m *Member) bool {
		return m.ID != g.self && m.Status == Active && s.RegionOf(m.ID) == region && g.cfg.Alive(m.ID)
	})
	if !ok || !heir {
		return
	}
	if _, err := g.decide(ctx, opYield, nothing{}); err != nil {
		g.cfg.Log.Debug("coordinator: the region was not handed over", "region", region, "err", err)
	}
}

package coordinator

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// Whether a region's coordinator lives, the leader must know faster than gossip tells. Of servers of the group, Raft's heartbeats tell
// (echoes). To any other coordinator the leader keeps one stream of the protocol "region", over which it sends a beat every Timing.Ping:
//
//	leader       message: array [kind 1, raft term, region, term, state version]
//	coordinator  message: array [term of its office as it knows it]
//
// Who led before, was lost, and was asked for its vote has Timing.Answer to show that it is back.
// Who else has not been heard of for Timing.Office is silent (Observation.Silent), and replaced. By the same evidence a coordinator is in
// office only for as long after it last heard of a leader (Group.Office), so that one on the wrong side of a partition stops by itself,
// about when its successor starts. Beats that get lost in one direction can make the two overlap: what keeps members from obeying
// both is the term.
type regionMessage struct {
	_          struct{} `cbor:",toarray"`
	Kind       uint8    // regionBeat or regionOrder
	LeaderTerm uint64   // of a beat: the raft term of who sends it
	Region     string
	Term       uint64
	Version    uint64 // of the sender's state
}

const (
	regionBeat  = 1
	regionOrder = 2
)

// regionReply answers both: Term is the highest of the region that the answerer knows of, Refused that it does not take the sender for the
// coordinator.
type regionReply struct {
	_       struct{} `cbor:",toarray"`
	Term    uint64
	Refused bool
}

const regionMessageMax = 256

// watch of the leader over one coordinator.
type watch struct {
	region   string
	since    time.Time    // when it began: the leader's own, or the coordinator's term
	heard    atomic.Int64 // Unix nanoseconds of the last reply; 0: none yet
	answered bool         // it was heard of since
	cancel   context.CancelFunc
}

// offices are the leader's watches over coordinators. Only steer uses them; their goroutines have ended when Group.running has.
type offices struct {
	watches map[identity.NodeID]*watch
	// mute counts the coordinators of a region in a row that were replaced without having been heard of even once. Each doubles the patience with the
	// next: of a region that is cut off as a whole everybody seems alive until gossip has noticed, and would be elected in turn.
	mute map[string]int
	due  *time.Timer // for steer: when the first of them may be silent
}

// muteMax bounds the doublings of the leader's patience, at 24 s with the WAN timing: gossip has noticed a death by then.
const muteMax = 4

// observeOffices brings the watches up to date and returns which coordinators are silent.
func (g *Group) observeOffices(r *replica, s *State, o Observation) map[identity.NodeID]bool {
	if g.offices.watches == nil {
		g.offices.watches, g.offices.mute = map[identity.NodeID]*watch{}, map[string]int{}
	}
	present := map[identity.NodeID]string{}
	for _, region := range s.Regions.List {
		if id, _, ok := s.RegionCoordinator(region.Name); ok && id != g.self {
			present[id] = region.Name
		}
	}
	for id, w := range g.offices.watches {
		if _, ok := present[id]; ok {
			continue
		}
		w.end()
		delete(g.offices.watches, id)
		if g.offices.mute[w.region]++; w.answered {
			delete(g.offices.mute, w.region)
		}
	}
	silent, earliest := map[identity.NodeID]bool{}, time.Duration(-1)
	for id, region := range present {
		server := slices.Contains(o.Voters, id) || slices.Contains(o.Staged, id)
		left := g.patience(r, id, region, server)
		if left <= 0 {
			silent[id] = true
		} else if earliest < 0 || left < earliest {
			earliest = left
		}
	}
	if earliest >= 0 {
		g.offices.due.Reset(earliest + time.Millisecond)
	}
	return silent
}

// patience returns how long a coordinator may still stay silent.
func (g *Group) patience(r *replica, id identity.NodeID, region string, server bool) time.Duration {
	w, known := g.offices.watches[id]
	if !known {
		w = &watch{region: region, since: time.Now()}
		g.offices.watches[id] = w
	}
	// Both count always: who has just become a server was heard of by beats only, who has just ceased to be one by Raft only.
	heard := time.Unix(0, w.heard.Load())
	if echo := r.echoes.lastHeard(id); echo.After(heard) {
		heard = echo
	}
	if server {
		w.end()
	} else if w.cancel == nil {
		ctx, cancel := context.WithCancel(g.ctx)
		w.cancel = cancel
		g.running.Go(func() { g.beat(ctx, r, id, w) })
	}
	if w.answered = w.answered || heard.After(w.since); w.answered {
		delete(g.offices.mute, region)
	}
	v := vitals{server: server, since: w.since, heard: heard, mute: g.offices.mute[region]}
	v.asked, v.spoke = r.echoes.succession(id)
	return time.Until(v.silentAt(g.cfg.Timing))
}

// vitals are what a leader knows of a coordinator's life.
type vitals struct {
	server bool
	since  time.Time // when it began to look
	heard  time.Time // when it last heard of it
	asked  time.Time // when it asked all servers for the votes by which it leads
	spoke  time.Time // when the coordinator last spoke as the leader itself
	mute   int       // how many before this one of its region were never heard of
}

// silentAt is when a coordinator that is not heard of any more counts as silent.
func (v vitals) silentAt(t Timing) time.Time {
	if v.server && v.heard.Before(v.asked) && t.predeceased(v.asked, v.spoke) {
		return v.asked.Add(t.Answer)
	}
	last := v.since
	if v.heard.After(last) {
		last = v.heard
	}
	return last.Add(t.Office << min(v.mute, muteMax))
}

// predeceased tells whether a server that last spoke as the leader at spoke was lost before this node asked for the votes by which it leads: that is
// why there was an election, the last one or the one before. Of who handed over, or lost its followers but not this node, it was heard more recently.
func (t Timing) predeceased(asked, spoke time.Time) bool {
	silence := asked.Sub(spoke)
	return silence >= t.Heartbeat && silence < 2*t.Ask
}

func (w *watch) end() {
	if w.cancel != nil {
		w.cancel()
		w.cancel = nil
	}
}

// leaveOffices ends all watches: this node does not lead.
func (g *Group) leaveOffices() {
	for _, w := range g.offices.watches {
		w.end()
	}
	g.offices.watches, g.offices.mute = nil, nil
}

// beatAgain is the wait before another stream is tried to a coordinator that broke one off.
const beatAgain = 100 * time.Millisecond

// beat keeps asking one coordinator for a sign of life, until ctx ends.
func (g *Group) beat(ctx context.Context, r *replica, id identity.NodeID, w *watch) {
	for ctx.Err() == nil {
		if err := g.beatOnce(ctx, r, id, w); err != nil && ctx.Err() == nil {
			g.cfg.Log.Debug("coordinator: no beat to a region's coordinator", "peer", id.Short(), "err", err)
		}
		wait(ctx, beatAgain)
	}
}

// beatOnce beats over one stream for as long as it holds.
func (g *Group) beatOnce(ctx context.Context, r *replica, id identity.NodeID, w *watch) error {
	open, cancel := context.WithTimeout(ctx, g.cfg.Timing.RPC)
	defer cancel()
	s, err := g.cfg.Streams.Open(open, id, ProtocolRegion)
	if err != nil {
		return err
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	for r.leads() {
		state := g.state.Load()
		region, term, _ := state.Coordinates(id)
		s.SetDeadline(time.Now().Add(g.cfg.Timing.Office))
		m := regionMessage{Kind: regionBeat, LeaderTerm: r.raft.CurrentTerm(), Region: region, Term: term, Version: state.Version}
		if err := wire.WriteMessage(s, m, regionMessageMax); err != nil {
			return err
		}
		var reply regionReply
		if err := wire.ReadMessage(s, &reply, regionMessageMax); err != nil {
			return err
		}
		w.heard.Store(time.Now().UnixNano())
		wait(ctx, g.cfg.Timing.Ping)
		if ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

// wait sleeps for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Office is a region's coordinator in one term: what it says as such carries it.
type Office struct {
	Region string
	Term   uint64
	Node   identity.NodeID
}

// contact is when this node last heard of a leader that is not in the group with it.
type contact struct {
	mu sync.Mutex
	at time.Time
	// Of the leader: the generation of its state, and raft's term. Beats of older ones do not count.
	generation, term uint64
}

func (c *contact) note(m regionMessage) bool {
	generation := m.Version >> (indexBits + rankBits)
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation < c.generation || (generation == c.generation && m.LeaderTerm < c.term) {
		return false
	}
	c.at, c.generation, c.term = time.Now(), generation, m.LeaderTerm
	return true
}

func (c *contact) since() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.at)
}

// Office returns what this node coordinates: false if it was not elected, has been replaced, or has not heard of a leader for Timing.Office
// and may have been replaced.
func (g *Group) Office() (Office, bool) {
	s := g.state.Load()
	region, term, ok := s.Coordinates(g.self)
	if !ok {
		return Office{}, false
	}
	heard := g.beats.since() < g.cfg.Timing.Office
	if r := g.current(); r != nil && !heard && !g.outdated(r) {
		leader := r.leader() // a leader that steps down knows none; raft counts that moment as a contact
		heard = r.leads() || (!leader.IsZero() && leader != g.self && time.Since(r.raft.LastContact()) < g.cfg.Timing.Office)
	}
	return Office{Region: region, Term: term, Node: g.self}, heard
}

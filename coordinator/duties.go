package coordinator

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

const (
	// reopenAfter: a replica that fenced itself, or could not be opened, is tried again; a full disk takes a person.
	reopenAfter = 5 * time.Second
	// confirmEvery: how often a node that suspects it has lost its vote asks.
	confirmEvery = 2 * time.Second
	// unwillingFor: who gave no signature is not asked again for this long.
	unwillingFor = 30 * time.Second
)

// watcher is the deciders' memory of who has been seen since when. It belongs to steer.
type watcher struct {
	alive     map[identity.NodeID]time.Time
	gone      map[identity.NodeID]time.Time
	unwilling map[identity.NodeID]time.Time
	poor      map[identity.NodeID]time.Time
	askedAt   time.Time // confirmRemoval

	heraldedAt  time.Time
	keyring     uint64 // version of the keyring, seen by this leader since
	keyringSeen time.Time
	settled     settled
}

// steer does this node's duties, every tick and when something changed.
func (g *Group) steer() {
	tick := time.NewTicker(g.cfg.Timing.Tick)
	defer tick.Stop()
	g.offices.due = time.NewTimer(g.cfg.Timing.Tick)
	defer g.offices.due.Stop()
	for {
		select {
		case <-tick.C:
		case <-g.offices.due.C:
		case <-g.wake:
		case <-g.ctx.Done():
			return
		}
		g.coordinate()
		r := g.tendReplica()
		if r != nil {
			r.streams.drop(func(id identity.NodeID) bool { return !g.state.Load().Active(id) })
		}
		switch {
		case r == nil:
			g.leaveOffices()
			if g.hasForgotten() {
				g.confirmRemoval(0)
			}
		case r.leads():
			g.lead(r)
		default:
			g.greet(r)
			g.watch.forgetSight()
			g.leaveOffices()
			g.follow(r)
		}
	}
}

func (g *Group) hasForgotten() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.forgotten
}

// tendReplica throws away a fenced replica, opens it again later, and returns the one that runs.
func (g *Group) tendReplica() *replica {
	g.lockOpened()
	r := g.replica
	if r == nil {
		defer g.mu.Unlock()
		var damaged *DamagedError // does not heal by itself
		if g.fault != nil && !g.retiring && !errors.As(g.fault, &damaged) && !g.closed && !g.forgotten && !time.Now().Before(g.reopenAt) {
			r, _ = g.reopenLocked()
		}
		return r
	}
	err := r.fence.fault()
	if err == nil {
		g.mu.Unlock()
		if g.outdated(r) {
			g.overrule(r)
			return nil
		}
		return r
	}
	g.replica, g.fault, g.reopenAt = nil, err, time.Now().Add(reopenAfter)
	g.mu.Unlock()
	g.cfg.Log.Error("coordinator: this node's replica of the ledger has cut itself off, trying again from disk"+diskHint(err), "err", err)
	g.keepView(r)
	r.stop()
	return nil
}

// keepView makes a replica's last view of the group the one to go on from without it.
func (g *Group) keepView(r *replica) {
	v := g.ownView(r)
	if v.Leader == g.self {
		v.Leader, v.Quorum = identity.NodeID{}, false
	}
	g.publishing.Lock()
	defer g.publishing.Unlock()
	g.state.Store(g.state.Load().withCoordinators(v))
}

// follow looks after a voter that does not lead: one that hears nothing, or is not in the configuration it knows, may have lost
// its vote while it was away.
func (g *Group) follow(r *replica) {
	voters, staged := r.servers()
	member := contains(voters, g.self) || contains(staged, g.self)
	quiet := time.Since(r.raft.LastContact()) > 4*g.cfg.Timing.Election
	if len(voters) == 0 && !quiet {
		return
	}
	if quiet || !member {
		g.confirmRemoval(r.raft.CurrentTerm())
	}
}

// confirmRemoval asks who leads, and when a leader that has a majority behind it, of no lower term than ours, does not count this
// node among voters or staged, it wipes the replica. The state stays: this node is a plain member then.
func (g *Group) confirmRemoval(term uint64) {
	now := time.Now()
	if now.Sub(g.watch.askedAt) < confirmEvery {
		return
	}
	g.watch.askedAt = now
	ctx, cancel := context.WithTimeout(g.ctx, statusWait)
	defer cancel()
	leader, st := g.surveyLeader(ctx)
	if leader.IsZero() {
		// Whom to ask may have changed as well: the state tells.
		poke(g.pollNow)
		return
	}
	if st.Term < term || contains(st.Voters, g.self) || contains(st.Staged, g.self) || len(st.Voters) == 0 {
		return
	}
	if r := g.current(); r != nil && g.outdated(r) {
		return // the mesh was recovered meanwhile: overrule tells what that costs, and wipes it
	}
	if err := g.resignLocally(st.Term); err != nil {
		g.cfg.Log.Warn("coordinator: the old replica of the ledger could not be removed"+diskHint(err), "err", err)
		return
	}
	g.cfg.Log.Info("coordinator: this node no longer votes", "leader", leader.Short(), "term", st.Term)
	g.PullSoon(leader)
}

// resignLocally stops and wipes the replica, keeping the term: a leader of an older one can never again count on this node.
func (g *Group) resignLocally(term uint64) error {
	g.lockOpened()
	if g.retiring || g.closed {
		g.mu.Unlock()
		return nil
	}
	r := g.replica
	g.replica, g.fault, g.retiring = nil, nil, true
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.retiring = false
	}()
	if r != nil {
		term = max(term, r.raft.CurrentTerm())
		if !g.outdated(r) { // what an outdated one believes is the past's
			g.keepView(r)
		}
		r.stop()
	}
	if r != nil && g.outdated(r) {
		term = 0 // what it has promised binds it in its own lineage only
	}
	_, err := g.save()
	if err = errors.Join(err, keepTerm(g.cfg.Disk, g.mesh, term), wipeReplica(g.cfg.Disk, g.mesh)); err != nil {
		return err
	}
	g.mu.Lock()
	g.forgotten = false
	g.mu.Unlock()
	return nil
}

// lead runs the deciders and carries out what they propose.
func (g *Group) lead(r *replica) {
	if g.handing.Load() {
		return // handover.go moves votes right now
	}
	proven := r.readyTerm.Load() != r.raft.CurrentTerm() // by begun, the first time
	ctx, cancel := context.WithTimeout(g.ctx, g.cfg.Timing.Decide)
	err := r.begun(ctx)
	cancel()
	if err != nil {
		return
	}
	if err := g.abdicateIfTooOld(r); err != nil {
		g.cfg.Log.Error("coordinator: this node must not lead", "err", err)
		return
	}
	g.herald(r)
	dated := g.tendClock(r)
	o := g.observeMesh(r)
	var ledger *State
	r.machine.view(func(l *Ledger) { ledger = l.State() })
	if g.watch.settled.spares(ledger, o) {
		return
	}
	if !dated {
		g.watch.settled.stir(o.Now) // those that rest now must look as soon as they may
	}
	for _, d := range Deciders {
		if d.Dates && !dated {
			continue
		}
		if !d.Prompt && !proven {
			if proven = g.provesToLead(r); !proven {
				g.watch.settled.stir(o.Now)
				return
			}
		}
		if d.Staged {
			g.observeStaged(r, &o)
		}
		g.decideBy(r, d, o)
	}
}

func (g *Group) provesToLead(r *replica) bool {
	ctx, cancel := context.WithTimeout(g.ctx, g.cfg.Timing.Decide)
	defer cancel()
	return r.verify(ctx) == nil
}

// decideBy has one decider look, and carries out what it proposes.
func (g *Group) decideBy(r *replica, d Decider, o Observation) {
	for i, p := range d.Decide(g.ledgerState(r), o) {
		if i == proposalsPerTick || g.ctx.Err() != nil {
			break
		}
		g.watch.settled.stir(o.Now)
		ctx, cancel := context.WithTimeout(g.ctx, g.cfg.Timing.Decide)
		err := d.carryOut(g, ctx, r, p)
		cancel()
		if err != nil {
			g.cfg.Log.Warn("coordinator: a decision could not be carried out", "decider", d.Name, "action", string(p.Action), "peer", p.Node.Short(), "err", err)
			break
		}
		g.cfg.Log.Info("coordinator: decided", "decider", d.Name, "action", string(p.Action), "peer", p.Node.Short(), "region", p.Region, "why", p.Why)
		poke(g.wake) // look again at once: a change of the group takes several steps
	}
}

// abdicateIfTooOld gives leadership away when the ledger holds what this program does not understand: another voter may.
func (g *Group) abdicateIfTooOld(r *replica) error {
	var frozen error
	r.machine.view(func(l *Ledger) { frozen = l.Frozen() })
	if frozen == nil {
		return nil
	}
	if voters, _ := r.servers(); len(voters) > 1 {
		return errors.Join(frozen, r.wait(g.ctx, func() raft.Future { return r.raft.LeadershipTransfer() }))
	}
	return frozen
}

func (w *watcher) forgetSight() {
	w.alive, w.gone, w.poor, w.keyringSeen, w.settled = nil, nil, nil, time.Time{}, settled{}
}

// observeMesh brings the watcher up to date and returns what the deciders see.
func (g *Group) observeMesh(r *replica) Observation {
	w, now := &g.watch, time.Now()
	if w.alive == nil {
		w.alive, w.gone, w.poor = map[identity.NodeID]time.Time{}, map[identity.NodeID]time.Time{}, map[identity.NodeID]time.Time{}
	}
	if w.unwilling == nil {
		w.unwilling = map[identity.NodeID]time.Time{}
	}
	o := Observation{Self: g.self, Now: now, Wall: g.cfg.Now(), Timing: g.cfg.Timing, Alive: w.alive, Gone: w.gone,
		CaughtUp: map[identity.NodeID]bool{}, Unwilling: map[identity.NodeID]bool{}, Poor: map[identity.NodeID]bool{}, PoorSince: w.poor,
		Offers: map[identity.NodeID]Offer{}}
	o.Voters, o.Staged = r.servers()
	r.contact.keep(append(slices.Clone(o.Voters), o.Staged...)...)
	ledger := g.state.Load()
	for _, m := range ledger.Members {
		seen := m.Status == Active && (m.ID == g.self || (g.cfg.Alive(m.ID) && !r.contact.fails(m.ID, 2*g.cfg.Timing.Heartbeat)))
		from, to := w.gone, w.alive
		if !seen {
			from, to = w.alive, w.gone
		}
		delete(from, m.ID)
		if _, ok := to[m.ID]; !ok {
			to[m.ID] = now
		}
		e, ok := g.cfg.Peers.Get(m.ID)
		// Of members of other regions the leader has the records of those that their region puts forward; the others are no better.
		o.Poor[m.ID] = seen && (!ok || !e.HasRecord) && ledger.RegionOf(m.ID) != ledger.RegionOf(g.self)
		if ok && e.HasRecord {
			o.Poor[m.ID] = e.Record.NAT == peer.NATHard || e.Record.NAT == peer.NATBlocked
			if _, known := w.poor[m.ID]; !o.Poor[m.ID] {
				delete(w.poor, m.ID)
			} else if !known {
				w.poor[m.ID] = now
			}
			if seen && e.Record.Relay && e.Record.NAT != peer.NATBlocked {
				o.Offers[m.ID] = Offer{Busy: e.Record.Busy, Network: e.Record.Network()}
			}
		}
	}
	for id, at := range w.unwilling {
		if o.Unwilling[id] = now.Sub(at) < unwillingFor; !o.Unwilling[id] {
			delete(w.unwilling, id)
		}
	}
	o.Silent, o.Yielding = g.observeOffices(r, g.state.Load(), o), g.observeYielding(now, w.alive)
	g.observeKeyring(w, g.state.Load(), &o)
	return o
}

// caughtUpWithin: a staged node counts as caught up when it has applied all but this many of the leader's entries.
const caughtUpWithin = 8

func (g *Group) observeStaged(r *replica, o *Observation) {
	if len(o.Staged) == 0 {
		return
	}
	applied := r.raft.AppliedIndex()
	type reply struct {
		id identity.NodeID
		ok bool
	}
	replies := make(chan reply, len(o.Staged))
	for _, id := range o.Staged {
		go func() { // ends within statusWait
			st, err := g.askStatus(g.ctx, id)
			replies <- reply{id, err == nil && st.Replica && st.Applied+caughtUpWithin >= applied}
		}()
	}
	for range o.Staged {
		p := <-replies
		o.CaughtUp[p.id] = p.ok
	}
}

// handTo makes another voter the leader.
func (g *Group) handTo(ctx context.Context, r *replica, to identity.NodeID) error {
	return r.wait(ctx, func() raft.Future { return r.raft.LeadershipTransferToServer(serverID(to), serverAddress(to)) })
}

// pokeState asks for the state that somebody evidently has and we do not.
func (g *Group) pokeState() {
	if leader := g.State().Coordinators.Leader; !leader.IsZero() && leader != g.self {
		g.PullSoon(leader)
	}
}

package coordinator

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// The protocol "state", one question a stream:
//
//	asker    message: array [since, region, term]: the version it has, 0 for everything; if it asks the coordinator of its region as such, that
//	         and the term it knows
//	answerer records (record.go): its office, if it was asked as the region's coordinator and is; mesh, what is newer than since, head,
//	         view; end.
//
// With nothing newer the answer is the view alone.
type pullRequest struct {
	_      struct{} `cbor:",toarray"`
	Since  uint64
	Region string
	Term   uint64
}

const (
	pullRequestMax = 128
	pullWait       = 10 * time.Second // a whole pull; 1,000 members are 9 MB
	pullTries      = 3                // members asked one after another before the next period
)

var errNothingValid = errors.New("coordinator: this node's certificate has ended; it has to be renewed first")

var errNothingNewer = errors.New("coordinator: nothing newer there")

// serveState answers a pull.
func (g *Group) serveState(ctx context.Context, s Stream) {
	defer s.Close()
	s.SetDeadline(g.deadline(ctx, pullWait))
	var req pullRequest
	if err := wire.ReadMessage(s, &req, pullRequestMax); err != nil {
		return
	}
	state := g.State()
	buffered := bufio.NewWriterSize(s, 16<<10)
	w := newRecordWriter(buffered)
	if req.Region != "" {
		g.showOffice(w, s.Peer().ID, req)
	}
	if head := g.headOf(state); state.Version > req.Since && head != nil {
		writeState(w, state.withHead(head), req.Since)
	} else {
		if state.Recovery != nil {
			w.put(recordRecovery, newRecoveryRecord(state.Recovery))
		}
		w.put(recordView, newViewRecord(state.Coordinators))
	}
	if err := errors.Join(w.end(), buffered.Flush(), s.CloseWrite()); err != nil {
		g.cfg.Log.Debug("coordinator: a member did not take the state", "peer", s.Peer().ID.Short(), "err", err)
	}
}

// showOffice answers who takes this node for the coordinator of its region. Who knows of a later term has the state that we lack.
func (g *Group) showOffice(w *recordWriter, asker identity.NodeID, req pullRequest) {
	office, ok := g.Office()
	if ok && office.Region == req.Region && office.Term >= req.Term {
		w.put(recordOffice, officeRecord{Region: office.Region, Term: office.Term, Node: office.Node})
	} else if _, known, _ := g.state.Load().RegionCoordinator(req.Region); known < req.Term {
		g.PullSoon(asker)
	}
}

func (g *Group) deadline(ctx context.Context, d time.Duration) time.Time {
	at := time.Now().Add(d)
	if t, ok := ctx.Deadline(); ok && t.Before(at) {
		return t
	}
	return at
}

// Pull fetches what is newer from a member, verifies it and makes it the current state. Nothing newer is no error.
func (g *Group) Pull(ctx context.Context, from identity.NodeID) error {
	return g.pullAs(ctx, from, Office{})
}

// pullAs is Pull from the coordinator of the region that office names, as such: an answer that does not show the office, or an older one than
// this node knows of, is refused. A zero office is any member.
func (g *Group) pullAs(ctx context.Context, from identity.NodeID, office Office) error {
	have := g.state.Load()
	request := pullRequest{Since: have.Version, Region: office.Region, Term: office.Term}
	err := g.pull(ctx, from, have, request)
	if errors.Is(err, errHead) && have.Version > 0 {
		// Two histories, as after restoring a backup: take all of theirs and let it verify on its own.
		request.Since = 0
		err = g.pull(ctx, from, nil, request)
	}
	if errors.Is(err, errNothingNewer) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("coordinator: pull the state from %s: %w", from.Short(), err)
	}
	return nil
}

func (g *Group) pull(ctx context.Context, from identity.NodeID, base *State, request pullRequest) error {
	ctx, cancel := context.WithTimeout(ctx, pullWait)
	defer cancel()
	s, err := g.openToPull(ctx, from)
	if err != nil {
		return err
	}
	defer s.Close()
	s.SetDeadline(g.deadline(ctx, pullWait))
	if err := wire.WriteMessage(s, request, pullRequestMax); err != nil {
		return err
	}
	if base != nil && base.Version == 0 {
		base = nil // what the enrolment brought is part of any full state
	}
	b := newBuilder(base)
	b.shelf = g.cfg.Shelf
	b.head, b.recovery, b.view, b.office = nil, nil, Coordinators{}, Office{}
	err = readRecords(bufio.NewReader(io.LimitReader(s, stateFileMax)), func(kind uint8, body []byte) error {
		known, err := b.add(kind, body)
		if err == nil && !known {
			err = errors.New("unknown record")
		}
		return err
	})
	if err != nil {
		return err
	}
	if request.Region != "" && (b.office.Node != from || b.office.Region != request.Region || g.state.Load().fenced(b.office)) {
		return errSuperseded
	}
	return g.adopt(b, from)
}

// openToPull gives up on a member that does not answer long before a pull of much would be over: others wait for their turn, and one of them has the news.
func (g *Group) openToPull(ctx context.Context, from identity.NodeID) (Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, g.pullPatience())
	defer cancel()
	return g.cfg.Streams.Open(ctx, from, ProtocolState)
}

// pullPatience is also what a whole pull takes from somebody who may have nothing.
func (g *Group) pullPatience() time.Duration { return g.cfg.Timing.RPC + time.Second }

// adopt verifies what a pull has read.
func (g *Group) adopt(b *builder, from identity.NodeID) error {
	if b.lineage() == g.state.Load().Lineage() {
		g.adoptView(b.view, from)
	}
	if len(b.head) == 0 {
		return errNothingNewer
	}
	now := g.cfg.Now()
	s, err := b.build()
	if err != nil {
		return err
	}
	if s.Mesh.ID != g.state.Load().Mesh.ID {
		return errors.New("it is of another mesh")
	}
	if _, ok := s.Member(g.self); !ok {
		return errors.New("it has not heard of this node yet")
	}
	if err := verifyHead(b.head, s, now); err != nil {
		return err
	}
	ours := g.state.Load()
	if err := keepsOut(ours, s); err != nil {
		return err
	}
	if err := b.verifyMembers(s, now); err != nil { // last: with a head, somebody we can name answers for what this costs
		return err
	}
	g.publish(s)
	if s.Lineage() != ours.Lineage() && g.state.Load().Lineage() == s.Lineage() {
		g.changeLineage(ours, s, b.view, from)
	}
	return nil
}

// keepsOut refuses a newer state in which somebody is back whose membership has ended in ours. A state is verified with its own issuers
// and revocations, so a revoked coordinator could otherwise sign one in which it never was revoked.
func keepsOut(ours, theirs *State) error {
	if !theirs.supersedes(ours) {
		return nil // it will not be used
	}
	if theirs.Lineage() != ours.Lineage() {
		return maySupersede(ours, theirs)
	}
	for _, m := range ours.Members {
		if m.Status == Active {
			continue
		}
		if now, ok := theirs.Member(m.ID); !ok || now.Status == Active {
			return fmt.Errorf("%w: it takes back that %s is out", errHead, m.ID.Short())
		}
	}
	return nil
}

// adoptView takes over how a member sees the coordinators. A coordinator's own word counts; others only pass on what is newer
// than what we know and not from the future, and they can name only issuers. A liar can at worst make us ask the wrong nodes for a leader.
func (g *Group) adoptView(v Coordinators, from identity.NodeID) {
	now := g.cfg.Now()
	g.publishing.Lock()
	defer g.publishing.Unlock()
	s := g.state.Load()
	if len(v.Voters) > maxServers {
		return
	}
	v.Voters = slices.DeleteFunc(sortedIDs(v.Voters), func(id identity.NodeID) bool { return !s.Active(id) })
	own := v.Voter(from) && s.MaySpeakRaft(from, now)
	if !own {
		v.Voters = slices.DeleteFunc(v.Voters, func(id identity.NodeID) bool { return !s.MaySpeakRaft(id, now) })
	}
	switch {
	case len(v.Voters) == 0:
		return
	case own && v.Term < s.Coordinators.Term && !v.Quorum && s.Coordinators.Quorum:
		return // a voter that is cut off
	case own:
		v.AsOf = now
	case !v.AsOf.After(s.Coordinators.AsOf) || v.AsOf.After(now):
		return
	}
	g.state.Store(s.withCoordinators(v))
	if !v.equal(s.Coordinators) {
		poke(g.news)
		poke(g.dirty)
	}
}

// PullSoon asks for a pull from a member that is said to know more, as a rumour does. It never blocks.
func (g *Group) PullSoon(from identity.NodeID) {
	select {
	case g.pullFrom <- from:
	default: // one is due already
	}
}

// fetch pulls when told to and, on a node without a replica, from time to time: that is how the view of the coordinators, and the
// loss of their quorum, become known here.
func (g *Group) fetch() {
	timer := time.NewTimer(g.jitter(0))
	defer timer.Stop()
	var due time.Time // of the timer
	wait := func(d time.Duration) { timer.Reset(d); due = time.Now().Add(d) }
	calm := false // nothing is known to have changed: the region's coordinator will do
	for {
		select {
		case from := <-g.pullFrom:
			if err := g.pullOffered(from); err != nil {
				g.cfg.Log.Debug("coordinator: no state from the member that offered one", "peer", from.Short(), "err", err)
			}
			wait(g.jitter(g.cfg.Timing.poll(g.memberCount(), false))) // coordinators often change right after the ledger
		case <-g.refresh:
			if d := g.jitter(refreshWait(g.memberCount())); time.Until(due) > d { // who asks for it again and again does not put it off
				wait(d)
			}
			calm = false
		case <-g.pollNow:
			g.poll(false)
		case <-timer.C:
			if r := g.current(); r == nil || !g.ownView(r).Quorum {
				g.poll(calm)
			}
			calm = g.state.Load().Coordinators.Quorum
			wait(g.jitter(g.cfg.Timing.poll(g.memberCount(), g.state.Load().Coordinators.Quorum)))
		case <-g.ctx.Done():
			return
		}
	}
}

func (g *Group) memberCount() int { return len(g.state.Load().Members) }

// Refresh has the view of the coordinators brought up to date within some seconds: one of them came or went. It does not wait.
func (g *Group) Refresh() { poke(g.refresh) }

// pullOffered pulls from who is said to know more. A plain member gets less time for it, and if it does not deliver the coordinators are
// asked: one that claims much and says nothing must not keep a revocation from us.
func (g *Group) pullOffered(from identity.NodeID) error {
	if g.Chain() == nil {
		g.offer(from)
		return errNothingValid
	}
	if g.state.Load().MaySpeakRaft(from, g.cfg.Now()) {
		return g.Pull(g.ctx, from)
	}
	err := g.pullWithin(from)
	if err != nil && g.ctx.Err() == nil {
		g.poll(false)
	}
	return err
}

// jitter spreads the members' pulls: d to 1.5 d.
func (g *Group) jitter(d time.Duration) time.Duration {
	return d + time.Duration(g.random.Int64N(int64(d/2)+1))
}

// poll pulls from a voter, of those that gossip calls alive first, or else from anybody alive. When no voter answers, the last view's quorum no longer holds. In a calm mesh the
// coordinator of this node's region is asked before them, so that the few voters need not serve everybody: that it is in office shows that
// a leader reaches it.
func (g *Group) poll(calm bool) {
	s := g.state.Load()
	voters := slices.DeleteFunc(slices.Clone(s.Coordinators.Voters), func(id identity.NodeID) bool { return id == g.self })
	g.random.Shuffle(len(voters), func(i, j int) { voters[i], voters[j] = voters[j], voters[i] })
	slices.SortStableFunc(voters, func(a, b identity.NodeID) int { return falseFirst(!g.cfg.Alive(a), !g.cfg.Alive(b)) })
	region := s.RegionOf(g.self)
	if id, term, ok := s.RegionCoordinator(region); calm && ok && id != g.self && g.cfg.Alive(id) {
		if g.pullAsWithin(id, Office{Region: region, Term: term, Node: id}) == nil {
			return
		}
		voters = slices.DeleteFunc(voters, func(v identity.NodeID) bool { return v == id })
	}
	for _, id := range voters[:min(len(voters), pullTries)] {
		if g.pullWithin(id) == nil {
			return
		}
	}
	g.loseView()
	tried := 0
	for _, i := range g.random.Perm(len(s.Members)) {
		m := s.Members[i]
		if tried >= pullTries || g.ctx.Err() != nil {
			return
		}
		if m.ID == g.self || m.Status != Active || slices.Contains(voters, m.ID) || !g.cfg.Alive(m.ID) {
			continue
		}
		tried++
		if g.pullWithin(m.ID) == nil {
			return
		}
	}
}

func (g *Group) pullWithin(id identity.NodeID) error { return g.pullAsWithin(id, Office{}) }

func (g *Group) pullAsWithin(id identity.NodeID, office Office) error {
	ctx, cancel := context.WithTimeout(g.ctx, g.pullPatience())
	defer cancel()
	return g.pullAs(ctx, id, office)
}

func (g *Group) loseView() {
	g.publishing.Lock()
	defer g.publishing.Unlock()
	s := g.state.Load()
	if !s.Coordinators.Quorum || g.ctx.Err() != nil {
		return
	}
	v := s.Coordinators
	v.Quorum, v.AsOf = false, g.cfg.Now()
	g.state.Store(s.withCoordinators(v))
	poke(g.news)
}

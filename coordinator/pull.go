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
//	asker    message: array [since], the version it has; 0 for everything
//	answerer records (record.go): mesh, what is newer than since, head, view; end.
//
// With nothing newer the answer is the view alone.
type pullRequest struct {
	_     struct{} `cbor:",toarray"`
	Since uint64
}

const (
	pullRequestMax = 64
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

func (g *Group) deadline(ctx context.Context, d time.Duration) time.Time {
	at := time.Now().Add(d)
	if t, ok := ctx.Deadline(); ok && t.Before(at) {
		return t
	}
	return at
}

// Pull fetches what is newer from a member, verifies it and makes it the current state. Nothing newer is no error.
func (g *Group) Pull(ctx context.Context, from identity.NodeID) error {
	have := g.state.Load()
	err := g.pull(ctx, from, have, have.Version)
	if errors.Is(err, errHead) && have.Version > 0 {
		// Two histories, as after restoring a backup: take all of theirs and let it verify on its own.
		err = g.pull(ctx, from, nil, 0)
	}
	if errors.Is(err, errNothingNewer) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("coordinator: pull the state from %s: %w", from.Short(), err)
	}
	return nil
}

func (g *Group) pull(ctx context.Context, from identity.NodeID, base *State, since uint64) error {
	ctx, cancel := context.WithTimeout(ctx, pullWait)
	defer cancel()
	s, err := g.cfg.Streams.Open(ctx, from, ProtocolState)
	if err != nil {
		return err
	}
	defer s.Close()
	s.SetDeadline(g.deadline(ctx, pullWait))
	if err := wire.WriteMessage(s, pullRequest{Since: since}, pullRequestMax); err != nil {
		return err
	}
	if base != nil && base.Version == 0 {
		base = nil // what the enrolment brought is part of any full state
	}
	b := newBuilder(base)
	b.head, b.recovery, b.view = nil, nil, Coordinators{}
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
	return g.adopt(b, from)
}

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
	for {
		select {
		case from := <-g.pullFrom:
			if err := g.pullOffered(from); err != nil {
				g.cfg.Log.Debug("coordinator: no state from the member that offered one", "peer", from.Short(), "err", err)
			}
			timer.Reset(g.jitter(g.cfg.Timing.poll(g.memberCount(), false))) // coordinators often change right after the ledger
		case <-g.refresh:
			timer.Reset(g.jitter(refreshWait(g.memberCount())))
		case <-g.pollNow:
			g.poll()
		case <-timer.C:
			if r := g.current(); r == nil || !g.ownView(r).Quorum {
				g.poll()
			}
			timer.Reset(g.jitter(g.cfg.Timing.poll(g.memberCount(), g.state.Load().Coordinators.Quorum)))
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
		g.poll()
	}
	return err
}

// jitter spreads the members' pulls: d to 1.5 d.
func (g *Group) jitter(d time.Duration) time.Duration {
	return d + time.Duration(g.random.Int64N(int64(d/2)+1))
}

// poll pulls from a coordinator, or else from anybody alive. When no coordinator answers, the last view's quorum no longer holds.
func (g *Group) poll() {
	s := g.state.Load()
	voters := slices.DeleteFunc(slices.Clone(s.Coordinators.Voters), func(id identity.NodeID) bool { return id == g.self })
	g.random.Shuffle(len(voters), func(i, j int) { voters[i], voters[j] = voters[j], voters[i] })
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

func (g *Group) pullWithin(id identity.NodeID) error {
	ctx, cancel := context.WithTimeout(g.ctx, g.cfg.Timing.RPC+time.Second)
	defer cancel()
	return g.Pull(ctx, id)
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

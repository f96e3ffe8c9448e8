package coordinator

import (
	"context"
	"errors"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// serve registers the protocols.
func (g *Group) serve() {
	g.cfg.Streams.Handle(ProtocolEnroll, true, g.serveEnroll)
	g.cfg.Streams.Handle(ProtocolDecide, false, g.serveDecide)
	g.cfg.Streams.Handle(ProtocolState, false, g.serveState)
	g.cfg.Streams.Handle(ProtocolRaft, false, g.serveRaft)
	g.cfg.Streams.Handle(ProtocolRegion, false, g.serveRegion)
}

// within ends a handler's work with its stream or with the group.
func (g *Group) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(g.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func (g *Group) serveDecide(ctx context.Context, s Stream) {
	defer s.Close()
	ctx, done := g.within(ctx)
	defer done()
	s.SetDeadline(g.deadline(ctx, g.cfg.Timing.Ask+g.cfg.Timing.Decide))
	asker := s.Peer().ID
	if !g.state.Load().Active(asker) {
		// It has shown a valid certificate: it is we who have not heard of it yet.
		if s.Peer().Member == nil || g.Trust().Revoked(asker) {
			return
		}
		g.PullSoon(asker)
	}
	var q question
	if err := g.readQuestion(s, asker, &q); err != nil {
		return
	}
	a := g.answerTo(ctx, s.Peer(), q)
	if len(a.Body) > answerMax-1024 {
		a = answer{Code: codeFailed, Reason: "the answer is too long"}
	}
	if err := wire.WriteMessage(s, a, answerMax); err != nil {
		g.cfg.Log.Debug("coordinator: an answer was not taken", "peer", asker.Short(), "err", err)
	}
}

var errBusy = errors.New("coordinator: a long question of this member is being read already")

// readQuestion reads a question. Of the long ones, policies, a member has one under way: with all its streams it could otherwise claim a
// quarter of a gigabyte of our memory.
func (g *Group) readQuestion(s Stream, asker identity.NodeID, q *question) error {
	long := false
	defer func() {
		if long {
			g.longQuestions.Delete(asker)
		}
	}()
	return wire.ReadMessageIf(s, q, func(size int) error {
		if size <= questionShort {
			return nil
		}
		if size > questionMax {
			return wire.ErrTooLarge
		}
		if _, busy := g.longQuestions.LoadOrStore(asker, struct{}{}); busy {
			return errBusy
		}
		long = true
		return nil
	})
}

func (g *Group) answerTo(ctx context.Context, asker Peer, q question) answer {
	switch q.Op {
	case opStatus:
		g.heed(asker.ID, q.Body)
		return answerOf(wire.Marshal(g.status(ctx)))
	case opClock:
		return answerOf(g.answerClock())
	case opRegionHealth:
		return answerOf(g.answerHealth())
	case opSignIssuer:
		return answerOf(g.signIssuerFor(asker.ID, q.Body))
	}
	r := g.current()
	if r == nil || !r.leads() {
		return answer{Code: codeNotLeader, Leader: g.State().Coordinators.Leader}
	}
	if err := g.askers.wait(ctx, asker.ID); err != nil {
		return answer{Code: codeNoQuorum} // it has given up, or would have to wait longer than it has
	}
	return answerOf(g.execute(ctx, r, asker.ID, q))
}

// CountsAsCoordinator tells whether a node may act as a coordinator towards one whose log has these voters: whom the mesh made an issuer, and any
// other voter that is a member. That one has lost its certificate, because who signed it was revoked. Were it not heard, the only one left with the whole log
// might be it, and nobody could lead; it leads to get another certificate, and all else that it signs before counts for nothing.
func CountsAsCoordinator(s *State, voters []identity.NodeID, id identity.NodeID, now time.Time) bool {
	return s.MaySpeakRaft(id, now) || s.Active(id) && contains(voters, id)
}

// heeds tells whether a node counts as a coordinator here.
func (g *Group) heeds(id identity.NodeID) bool {
	var voters []identity.NodeID
	if r := g.current(); r != nil {
		voters, _ = r.servers()
	}
	return CountsAsCoordinator(g.state.Load(), voters, id, g.cfg.Now())
}

// serveRaft accepts a raft stream: from whoever the mesh made a coordinator, and from nobody else. A node without a replica opens
// one, for this is how it is told that it shall vote.
func (g *Group) serveRaft(ctx context.Context, s Stream) {
	from := s.Peer().ID
	if !g.heeds(from) {
		s.Close()
		g.PullSoon(from) // perhaps its certificate is newer than our state
		return
	}
	r, err := g.replicaOf(s)
	if err == nil {
		err = r.streams.serve(ctx, s)
	}
	s.Close()
	if err != nil {
		g.cfg.Log.Debug("coordinator: a raft stream was not served", "peer", from.Short(), "err", err)
	}
}

var errForgotten = errors.New("coordinator: this node has lost its log and waits until the group has taken its old vote away")

var errLineage = errors.New("coordinator: the log is of another lineage than this node's")

// replicaOf returns the replica that a raft stream is for. Both ends must be of one lineage; who is of the older one is told by the
// state, which it is to pull.
func (g *Group) replicaOf(s Stream) (*replica, error) {
	s.SetReadDeadline(time.Now().Add(g.cfg.Timing.RPC))
	theirs, err := readPreamble(s)
	if err != nil {
		return nil, err
	}
	s.SetReadDeadline(time.Time{})
	if ours := g.state.Load().Lineage(); theirs != ours {
		if theirs.newer(ours) {
			g.PullSoon(s.Peer().ID)
		}
		return nil, errLineage
	}
	r, err := g.replicaFor()
	if err == nil && r.lineage != theirs {
		poke(g.wake)
		return nil, errLineage
	}
	return r, err
}

// replicaFor returns the replica, opening it if there is none.
func (g *Group) replicaFor() (*replica, error) {
	g.lockOpened()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return nil, ErrClosed
	case g.retiring:
		return nil, errFenced
	case g.forgotten:
		return nil, errForgotten
	case g.replica != nil:
		return g.replica, nil
	case time.Now().Before(g.reopenAt):
		return nil, errFenced
	}
	return g.reopenLocked()
}

// lockOpened locks mu when no replica is being opened.
func (g *Group) lockOpened() {
	for {
		g.mu.Lock()
		opened := g.opening
		if opened == nil {
			return
		}
		g.mu.Unlock()
		<-opened
	}
}

// reopenLocked opens the replica. Meanwhile mu is not held: the disk may take its time, and everybody asks for the replica. Called with lockOpened.
func (g *Group) reopenLocked() (*replica, error) {
	opened := make(chan struct{})
	g.opening = opened
	g.mu.Unlock()
	r, err := g.openReplica()
	g.mu.Lock()
	g.opening = nil
	close(opened)
	if g.fault = err; err != nil {
		g.reopenAt = time.Now().Add(reopenAfter)
		return nil, err
	}
	g.replica = r
	poke(g.wake)
	return r, nil
}

type enrollRequest struct {
	_       struct{} `cbor:",toarray"`
	Request []byte
}

// enrollRate and enrollBurst bound the requests that a node looks at: each costs it some 0.5 ms of signatures and, if its form is right, the
// leader as much again, so that all strangers together get at most a tenth of a core. Who is over it waits.
const (
	enrollRate  = 100 // a second
	enrollBurst = 200
)

const enrollRequestMax = invitation.RequestMax + 16

// serveEnroll answers a joiner: the only protocol that strangers may speak.
func (g *Group) serveEnroll(ctx context.Context, s Stream) {
	defer s.Close()
	ctx, done := g.within(ctx)
	defer done()
	s.SetDeadline(g.deadline(ctx, g.cfg.Timing.Ask+g.cfg.Timing.Decide))
	var req enrollRequest
	if err := wire.ReadMessage(s, &req, enrollRequestMax); err != nil {
		return
	}
	if err := g.enrolling.Wait(ctx); err != nil {
		return // the joiner has given up, or would have to wait longer than it has
	}
	a, err := g.enrollStranger(ctx, s.Peer().ID, req.Request)
	if err := wire.WriteMessage(s, answerOf(a, err), answerMax); err != nil {
		g.cfg.Log.Debug("coordinator: a joiner did not take its answer", "err", err)
	}
}

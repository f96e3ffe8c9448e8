package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/policy"
)

// The protocol "decide", one question a stream:
//
//	asker    message: array [op, body]
//	answerer message: array [code, reason, leader, body]; code is empty when done
//
// A question may be asked twice: every op either changes nothing the second time or says so. So an asker whose answer was lost
// asks again.
type op uint8

const (
	opEnroll      op = 1
	opInvite      op = 2
	opInvitations op = 3
	opCancel      op = 4
	opRevoke      op = 5
	opLeave       op = 6
	opTag         op = 7
	opRename      op = 8
	opAudit       op = 9
	opResign      op = 10 // a voter gives its vote back
	opSignIssuer  op = 11 // the leader asks who can make issuers; answered by any member
	opStatus      op = 12 // who leads, how far are you; answered by any member

	opSetPolicy      op = 13
	opRollbackPolicy op = 14
	opPolicies       op = 15 // the versions kept, without their texts
	opPolicyText     op = 16 // one version

	opApprove op = 17 // admit a node that has no invitation

	opMoveRegion   op = 18 // the asker is of another region now
	opYield        op = 19 // the asker is about to go: another is to coordinate its region
	opRegionHealth op = 20 // answered by a region's coordinator

	opClock op = 21 // what time it is; answered by any member
)

type question struct {
	_    struct{} `cbor:",toarray"`
	Op   op
	Body []byte
}

type answer struct {
	_      struct{} `cbor:",toarray"`
	Code   string
	Reason string
	Leader identity.NodeID // of codeNotLeader, zero if unknown
	Body   []byte
}

// Codes of an answer beside "" and a refusal's own.
const (
	codeNotLeader = "not-leader"
	codeNoQuorum  = "no-quorum"
	codeUncertain = "uncertain"
	codeFailed    = "failed"
)

const (
	questionShort = 16 << 10 // an enrolment request is the largest but for policies
	questionMax   = policy.TextMax + 4<<10
	answerMax     = 1 << 20 // auditKept entries of at most maxOutcomeBytes twice, and their other fields
	leaderRetry   = 50 * time.Millisecond
	statusWait    = 700 * time.Millisecond // to learn who leads from all voters at once
)

// decide has a question answered by the leader, wherever it is.
func (g *Group) decide(ctx context.Context, o op, body any) ([]byte, error) {
	raw, err := wire.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("coordinator: encode the question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timing.Ask+g.cfg.Timing.Decide)
	defer cancel()
	giveUp := time.Now().Add(g.cfg.Timing.Ask)
	hint := g.State().Coordinators.Leader
	for {
		seek, stop := context.WithDeadline(ctx, giveUp)
		out, err := g.decideOnce(ctx, seek, hint, question{Op: o, Body: raw})
		stop()
		if err == nil || !errors.Is(err, errNotLeader) {
			return out, err
		}
		hint = identity.NodeID{}
		if time.Now().After(giveUp) || g.hopeless() {
			return nil, ErrNoQuorum
		}
		select {
		case <-time.After(leaderRetry):
		case <-ctx.Done():
			return nil, ErrNoQuorum
		case <-g.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// decideOnce answers here or asks who leads; seek bounds the search, ctx the decision. errNotLeader: try again.
func (g *Group) decideOnce(ctx, seek context.Context, hint identity.NodeID, q question) ([]byte, error) {
	if r := g.current(); r != nil {
		if r.leads() {
			return g.execute(ctx, r, g.self, q)
		}
		if leader := r.leader(); !leader.IsZero() {
			hint = leader
		}
	}
	if hint.IsZero() || hint == g.self {
		if hint = g.findLeader(seek); hint.IsZero() {
			return nil, errNotLeader
		}
	}
	if !g.state.Load().MaySpeakRaft(hint, g.cfg.Now()) {
		return nil, errNotLeader
	}
	open, cancel := context.WithTimeout(seek, g.cfg.Timing.RPC)
	defer cancel()
	s, err := g.cfg.Streams.Open(open, hint, ProtocolDecide)
	if err != nil {
		return nil, errNotLeader
	}
	a, err := g.exchange(ctx, s, q, g.cfg.Timing.Decide)
	if err != nil {
		return nil, errNotLeader
	}
	return a.Body, a.err()
}

// hopeless tells whether waiting for an election is in vain: nobody leads, and gossip says that most voters are gone.
func (g *Group) hopeless() bool {
	v := g.State().Coordinators
	if v.Quorum || len(v.Voters) == 0 || time.Since(g.began) < g.cfg.Timing.Seek {
		return false // or gossip has not had the time to find anybody
	}
	alive := 0
	for _, id := range v.Voters {
		if id == g.self || g.cfg.Alive(id) {
			alive++
		}
	}
	return alive <= len(v.Voters)/2
}

// ask opens a stream to one member and has it answer.
func (g *Group) ask(ctx context.Context, id identity.NodeID, q question, within time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	s, err := g.cfg.Streams.Open(ctx, id, ProtocolDecide)
	if err != nil {
		return answer{}, err
	}
	return g.exchange(ctx, s, q, within)
}

func (g *Group) exchange(ctx context.Context, s Stream, q question, within time.Duration) (answer, error) {
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	s.SetDeadline(g.deadline(ctx, within))
	if err := wire.WriteMessage(s, q, questionMax); err != nil {
		return answer{}, err
	}
	var a answer
	err := wire.ReadMessage(s, &a, answerMax)
	return a, err
}

// err turns an answer's code back into an error.
func (a answer) err() error {
	switch a.Code {
	case "":
		return nil
	case codeNotLeader:
		return errNotLeader
	case codeNoQuorum:
		return ErrNoQuorum
	case codeUncertain:
		return ErrUncertain
	case codeFailed:
		return fmt.Errorf("the mesh's leader could not do it: %s", a.Reason)
	}
	return &Refused{Code: RefusalCode(a.Code), Reason: a.Reason}
}

// answerOf packs what execute returned.
func answerOf(body []byte, err error) answer {
	var refusal *Refused
	switch {
	case err == nil:
		return answer{Body: body}
	case errors.As(err, &refusal):
		return answer{Code: string(refusal.Code), Reason: refusal.Reason}
	case errors.Is(err, errNotLeader):
		return answer{Code: codeNotLeader}
	case errors.Is(err, ErrUncertain):
		return answer{Code: codeUncertain}
	case errors.Is(err, ErrNoQuorum):
		return answer{Code: codeNoQuorum}
	}
	return answer{Code: codeFailed, Reason: err.Error()}
}

// status is the answer to opStatus.
type status struct {
	_       struct{} `cbor:",toarray"`
	Leads   bool     // confirmed by a majority just now
	Leader  identity.NodeID
	Term    uint64
	Replica bool
	Applied uint64
	Voters  []identity.NodeID
	Staged  []identity.NodeID
	// Of a replica's audit chain: entries ever, and the hash they end in.
	AuditCount uint64
	AuditHead  [32]byte
	// Of the state, and so of the log, if there is one.
	Generation uint16
	By         identity.NodeID
}

func (s status) lineage() Lineage { return Lineage{Generation: s.Generation, By: s.By} }

// statusRequest tells, in the same go, what lineage the asker is of.
type statusRequest struct {
	_          struct{} `cbor:",toarray"`
	Generation uint16
	By         identity.NodeID
}

// heed pulls from an asker of a newer lineage: this node has been away while the mesh was recovered.
func (g *Group) heed(asker identity.NodeID, body []byte) {
	var r statusRequest
	if wire.Unmarshal(body, &r) != nil {
		return
	}
	if theirs := (Lineage{Generation: r.Generation, By: r.By}); theirs.newer(g.state.Load().Lineage()) {
		g.PullSoon(asker)
	}
}

func (g *Group) status(ctx context.Context) status {
	s := g.State()
	v, l := s.Coordinators, s.Lineage()
	out := status{Leader: v.Leader, Term: v.Term, Voters: v.Voters, Generation: l.Generation, By: l.By}
	r := g.current()
	if r == nil || r.lineage != l {
		return out
	}
	out.Replica, out.Applied = true, r.raft.AppliedIndex()
	r.machine.view(func(l *Ledger) { out.AuditCount, out.AuditHead = l.audit.count, l.audit.head() })
	if r.leads() {
		ctx, cancel := context.WithTimeout(ctx, statusWait)
		defer cancel()
		out.Voters, out.Staged = r.servers()
		out.Leads = r.verify(ctx) == nil
	}
	return out
}

func (g *Group) askStatus(ctx context.Context, id identity.NodeID) (status, error) {
	l := g.state.Load().Lineage()
	body, err := wire.Marshal(statusRequest{Generation: l.Generation, By: l.By})
	if err != nil {
		return status{}, err
	}
	a, err := g.ask(ctx, id, question{Op: opStatus, Body: body}, statusWait)
	if err == nil {
		err = a.err()
	}
	if err != nil {
		return status{}, err
	}
	var s status
	if err := wire.Unmarshal(a.Body, &s); err != nil {
		return status{}, err
	}
	return s, nil
}

// findLeader asks all voters at once who leads and returns the first that does; zero if none said so in time.
func (g *Group) findLeader(ctx context.Context) identity.NodeID {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	leader, _ := g.surveyLeader(ctx)
	return leader
}

// surveyLeader returns the leader with its own words. Only a node that holds an issuer certificate is believed.
func (g *Group) surveyLeader(ctx context.Context) (identity.NodeID, status) {
	type reply struct {
		id     identity.NodeID
		status status
		err    error
	}
	s := g.State()
	ask := map[identity.NodeID]struct{}{}
	for _, id := range s.Coordinators.Voters {
		ask[id] = struct{}{}
	}
	for _, i := range s.Issuers { // a few more than the voters: those that were or are about to be
		if len(ask) < maxServers && s.Active(i.ID) {
			ask[i.ID] = struct{}{}
		}
	}
	delete(ask, g.self)
	replies := make(chan reply, len(ask))
	for id := range ask {
		go func() { // ends with ctx
			st, err := g.askStatus(ctx, id)
			replies <- reply{id, st, err}
		}()
	}
	for range ask {
		select {
		case r := <-replies:
			if r.err != nil || !r.status.Leads || !s.MaySpeakRaft(r.id, g.cfg.Now()) {
				continue
			}
			if l := r.status.lineage(); l != s.Lineage() {
				if l.newer(s.Lineage()) {
					g.PullSoon(r.id)
				}
				continue // one of us has been away
			}
			return r.id, r.status
		case <-ctx.Done():
			return identity.NodeID{}, status{}
		}
	}
	return identity.NodeID{}, status{}
}

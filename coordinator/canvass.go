package coordinator

import (
	"cmp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Who campaigns first should win: every campaign that is lost costs an election timeout. In raft 1.8.0 most first ones are lost. A follower
// believes in its leader until its own timer has run out, one to three timeouts after it last heard of it, and refuses everybody's pre-vote
// until then; and two that campaign at once share the votes.
//
// So pre-votes are answered here first, with rules that raft's own safety does not depend on (a pre-vote promises nothing):
//
//   - A follower that has not heard its leader for Timing.Heartbeat has none. One that has heard it more recently keeps the question
//     until it hears it again, which is a refusal, or until that time is over.
//   - It gives its pre-vote to one candidate at a time, and does not campaign itself meanwhile.
//   - Of candidates that ask each other, the one with the longer log gets the other's pre-vote, or the one with the greater ID. One that
//     has somebody's pre-vote itself gives its own to a better candidate than the one that has it: without this three can wait in a ring.
//
// With one of three or five voters gone, of two candidates one then has a majority at once, and never both.

// ballot is what a candidate shows for itself.
type ballot struct {
	candidate                 raft.ServerID
	term, lastTerm, lastIndex uint64
}

func ballotOf(a *raft.RequestPreVoteRequest) ballot {
	return ballot{candidate: raft.ServerID(a.ID), term: a.Term, lastTerm: a.LastLogTerm, lastIndex: a.LastLogIndex}
}

// beats orders candidates of one term.
func (b ballot) beats(o ballot) bool {
	return cmp.Or(cmp.Compare(b.lastTerm, o.lastTerm), cmp.Compare(b.lastIndex, o.lastIndex), cmp.Compare(b.candidate, o.candidate)) > 0
}

// standing is a voter at the moment at which it considers a pre-vote.
type standing struct {
	now   time.Time
	state raft.RaftState
	led   bool      // it believes to have a leader
	heard time.Time // when it last heard of one
}

// verdict on a pre-vote.
type verdict uint8

const (
	raftDecides  verdict = iota // by its own rules
	leaderIsLost                // raft decides as if it knew no leader
	notYet                      // ask again after a while
)

// promises are whom a voter has given its pre-vote, and whether it wants one itself. Pure: the state of it is all here.
type promises struct {
	patience time.Duration // a leader that was not heard for this long is lost
	hold     time.Duration // for how long a candidate is waited for, and a question kept
	own      ballot
	ownUntil time.Time
	backed   bool // somebody gave this voter its pre-vote
	to       ballot
	toUntil  time.Time
}

// judge decides about a pre-vote that was asked for at a time. With notYet comes when to ask again.
func (p *promises) judge(b ballot, asked time.Time, s standing) (verdict, time.Time) {
	lost := s.heard.Add(p.patience)
	campaigns := s.state == raft.Candidate && s.now.Before(p.ownUntil) && b.term == p.own.term
	better := campaigns && p.backed && b.beats(p.to)
	switch until := asked.Add(p.hold); {
	case s.state != raft.Follower && s.state != raft.Candidate, s.led && s.heard.After(asked), !s.now.Before(until):
		return raftDecides, time.Time{}
	case s.led && s.now.Before(lost):
		return notYet, earlier(lost, until)
	case campaigns && !b.beats(p.own):
		return notYet, earlier(p.ownUntil, until)
	case p.to.candidate != b.candidate && s.now.Before(p.toUntil) && !better:
		return notYet, earlier(p.toUntil, until)
	}
	p.to, p.toUntil = b, s.now.Add(p.hold)
	return leaderIsLost, time.Time{}
}

// release takes back what judge promised to a candidate that raft refused.
func (p *promises) release(b ballot) {
	if p.to.candidate == b.candidate {
		p.to, p.toUntil = ballot{}, time.Time{}
	}
}

// campaign notes that this voter asks for pre-votes itself. It asks each other one.
func (p *promises) campaign(b ballot, now time.Time) {
	if b != p.own || !now.Before(p.ownUntil) {
		p.own, p.ownUntil, p.backed = b, now.Add(p.hold), false
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// canvass answers pre-votes for a replica. Of the questions it keeps each has a goroutine, which ends with stop.
type canvass struct {
	raft    atomic.Pointer[raft.Raft] // nil until it runs
	out     chan<- raft.RPC           // raft's
	stop    <-chan struct{}
	running sync.WaitGroup
	places  chan struct{} // one for each question that is kept

	look time.Duration // constant; how often a question that is kept is looked at again, as what stands against it may have changed

	mu       sync.Mutex
	promises promises
}

// keptMax is how many questions are kept at a time: one of each other server. Raft answers what is over.
const keptMax = maxServers

func newCanvass(t Timing, out chan<- raft.RPC, stop <-chan struct{}) *canvass {
	return &canvass{out: out, stop: stop, places: make(chan struct{}, keptMax), look: t.Beat / 4, promises: promises{patience: t.Heartbeat, hold: t.Election}}
}

// standing returns false when raft does not run yet.
func (c *canvass) standing() (standing, bool) {
	r := c.raft.Load()
	if r == nil {
		return standing{}, false
	}
	leader, _ := r.LeaderWithID()
	return standing{now: time.Now(), state: r.State(), led: leader != "", heard: r.LastContact()}, true
}

// takes reports whether it answers a message, later and by itself.
func (c *canvass) takes(rpc raft.RPC) bool {
	if v, ok := rpc.Command.(*raft.RequestVoteRequest); ok {
		c.vote(v)
	}
	a, ok := rpc.Command.(*raft.RequestPreVoteRequest)
	if !ok {
		return false
	}
	select {
	case c.places <- struct{}{}:
	default:
		return false
	}
	c.running.Go(func() {
		defer func() { <-c.places }()
		c.answer(rpc, a)
	})
	return true
}

func (c *canvass) answer(rpc raft.RPC, a *raft.RequestPreVoteRequest) {
	b, asked := ballotOf(a), time.Now()
	for {
		s, ok := c.standing()
		if !ok {
			break
		}
		c.mu.Lock()
		v, again := c.promises.judge(b, asked, s)
		c.mu.Unlock()
		if v == notYet {
			if !c.sleep(min(again.Sub(s.now), c.look)) {
				rpc.Respond(nil, raft.ErrRaftShutdown)
				return
			}
			continue
		}
		if v == leaderIsLost {
			c.putAsLost(rpc, a, b)
			return
		}
		break
	}
	c.put(rpc)
}

func (c *canvass) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.stop:
		return false
	}
}

func (c *canvass) put(rpc raft.RPC) bool {
	select {
	case c.out <- rpc:
		return true
	case <-c.stop:
		rpc.Respond(nil, raft.ErrRaftShutdown)
		return false
	}
}

// putAsLost has raft decide as if it knew no leader. Raft lets a pre-vote pass that comes from the leader itself; who asks, it takes from
// elsewhere.
func (c *canvass) putAsLost(rpc raft.RPC, a *raft.RequestPreVoteRequest, b ballot) {
	if leader, _ := c.raft.Load().LeaderWithID(); leader != "" {
		a.Addr = []byte(leader)
	}
	answered := make(chan raft.RPCResponse, 1)
	if !c.put(raft.RPC{Command: a, Reader: rpc.Reader, RespChan: answered}) {
		return
	}
	var out raft.RPCResponse
	select {
	case out = <-answered:
	case <-c.stop:
		out.Error = raft.ErrRaftShutdown
	}
	if resp, ok := out.Response.(*raft.RequestPreVoteResponse); !ok || !resp.Granted {
		c.mu.Lock()
		c.promises.release(b)
		c.mu.Unlock()
	}
	rpc.Respond(out.Response, out.Error)
}

// vote lets raft vote for who asks although it knows a leader, where that is lost: as a vote that the leader has asked for itself.
func (c *canvass) vote(a *raft.RequestVoteRequest) {
	if s, ok := c.standing(); ok && s.state == raft.Follower && s.led && s.now.Sub(s.heard) >= c.promises.patience {
		a.LeadershipTransfer = true
	}
}

// promised returns until when this voter waits for another's campaign.
func (c *canvass) promised() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.promises.toUntil
}

// RequestPreVote implements raft.WithPreVote.
func (t *fencedTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := t.silenced(); err != nil {
		return err
	}
	t.canvass.mu.Lock()
	t.canvass.promises.campaign(ballotOf(args), time.Now())
	t.canvass.mu.Unlock()
	err := t.overFreshStream(func() error { return t.NetworkTransport.RequestPreVote(id, target, args, resp) })
	if err == nil {
		t.echoes.hear(id)
	}
	if err == nil && resp.Granted {
		t.canvass.mu.Lock()
		t.canvass.promises.backed = t.canvass.promises.backed || t.canvass.promises.own == ballotOf(args)
		t.canvass.mu.Unlock()
	}
	return err
}

// RequestVote implements raft.Transport.
func (t *fencedTransport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := t.silenced(); err != nil {
		return err
	}
	t.echoes.ask(args.Term)
	err := t.overFreshStream(func() error { return t.NetworkTransport.RequestVote(id, target, args, resp) })
	if err == nil {
		t.echoes.hear(id)
	}
	return err
}

// overFreshStream asks again when raft's pool had only streams that have ended: two voters between whom no leader was have not spoken for long, and
// raft takes the failure for a refusal, which costs a candidate its campaign.
func (t *fencedTransport) overFreshStream(ask func() error) error {
	begun := time.Now()
	err := ask()
	for range poolMax {
		if err == nil || t.fence.fault() != nil || time.Since(begun) > t.patience {
			break
		}
		err = ask()
	}
	return err
}

// vigil is when a follower campaigns. Raft would do it one to three timeouts after it last heard of the leader, depending on where its timer
// stands; here it is one timeout and a little, drawn so that seldom two campaign at once.
type vigil struct {
	heard time.Time // the contact that the delay was drawn for
	delay time.Duration
}

// due returns when a follower that heard its leader at heard campaigns.
func (v *vigil) due(t Timing, heard, promised time.Time, draw func(time.Duration) time.Duration) time.Time {
	if !heard.Equal(v.heard) {
		v.heard, v.delay = heard, draw(t.Stagger)
	}
	at := heard.Add(t.Heartbeat + v.delay)
	if at.Before(promised) {
		return promised.Add(v.delay)
	}
	return at
}

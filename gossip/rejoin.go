package gossip

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

const (
	// rejoinParallel bounds the attempts that run at once. With each taking a StreamTimeout at worst, an address book full of dead
	// nodes costs less than one attempt a second.
	rejoinParallel = 4
	// crowd is up to how many members all try a newcomer at once. In a larger pool each takes its turn within crowdTurn for every member more, and most
	// have heard of it by gossip before theirs: else each newcomer would cost a connection with everybody.
	crowd     = 8
	crowdTurn = 50 * time.Millisecond
	// lookTurn is the least time between two looks at the table of members, for each that belongs to the pool: a look goes through all, and while a mesh
	// forms something changes all the time.
	lookTurn = 4 * time.Millisecond
	// rejoinLook is the longest time between two looks at the address book, which changes without telling.
	rejoinLook = 5 * time.Second
	// newcomerTries is how often a member is tried that has just become known, or was heard of, and is not in the address book: for
	// about a minute. newcomersMax bounds them, at as many as may reasonably come within that.
	newcomerTries = 8
	newcomersMax  = 256
	// doublingsMax keeps the backoff's shift within a duration; the bound of the profile applies long before.
	doublingsMax = 16
	// pathsMax bounds the connections being made because a packet had no way, pathFor how long each may take, and pathEvery is the
	// rest between two for one node.
	pathsMax  = 8
	pathFor   = 10 * time.Second
	pathEvery = time.Second
)

// absentees is the plan of whom to try when: pure, driven by one goroutine.
type absentees struct {
	least, most time.Duration
	spread      func(time.Duration) time.Duration // jitter
	tries       map[identity.NodeID]*try
}

// try is the record of attempts on one absent member.
type try struct {
	attempts int
	next     time.Time
	ended    time.Time // the last attempt; zero before the first
	busy     bool
	via      identity.NodeID // who may know the member, if it cannot be reached itself; itself, if it was heard where it did not belong
}

// want sets whom to try: those in it that are new are due after the least backoff, or at the greatest if they left on purpose;
// those no longer in it are forgotten once no attempt is running.
func (a *absentees) want(ids map[identity.NodeID]peer.State, now time.Time) {
	for id, state := range ids {
		if a.tries[id] != nil {
			continue
		}
		wait := a.spread(a.least) - a.least/2
		if state == peer.Left {
			wait = a.spread(a.most)
		}
		a.tries[id] = &try{next: now.Add(wait)}
	}
	for id, t := range a.tries {
		if _, ok := ids[id]; !ok && !t.busy {
			delete(a.tries, id)
		}
	}
}

// hurry makes an attempt on the node due at once.
func (a *absentees) hurry(id, via identity.NodeID, now time.Time) {
	t := a.tries[id]
	if t == nil {
		t = &try{}
		a.tries[id] = t
	}
	t.attempts, t.next, t.via = 0, now, via
}

// nudge makes an attempt on the node due at once, because it has been heard of: unless the last is just over, or several have led
// to nothing and the last was within 16 × least.
func (a *absentees) nudge(id identity.NodeID, now time.Time) {
	t := a.tries[id]
	switch {
	case t == nil:
		a.tries[id] = &try{next: now}
	case t.next.After(now) && now.Sub(t.ended) >= a.least<<min(t.attempts, 4):
		t.next = now
	}
}

// due makes the next attempt on the node due at a time, if it has none yet.
func (a *absentees) due(id identity.NodeID, at time.Time) {
	if a.tries[id] == nil {
		a.tries[id] = &try{next: at}
	}
}

// start returns up to n nodes to try now, those due longest first, and marks them.
func (a *absentees) start(n int, now time.Time) []identity.NodeID {
	var out []identity.NodeID
	for len(out) < n {
		var first identity.NodeID
		for id, t := range a.tries {
			if t.busy || t.next.After(now) {
				continue
			}
			if f := a.tries[first]; f == nil || t.next.Before(f.next) || t.next.Equal(f.next) && id.Compare(first) < 0 {
				first = id
			}
		}
		t := a.tries[first]
		if t == nil {
			break
		}
		t.busy = true
		out = append(out, first)
	}
	return out
}

// done notes the end of an attempt and plans the next: the backoff grows whatever came of it, because a member that is alive
// afterwards is wanted no more.
func (a *absentees) done(id identity.NodeID, now time.Time) {
	t := a.tries[id]
	if t == nil {
		return
	}
	wait := min(a.most, a.least<<min(t.attempts, doublingsMax))
	t.attempts, t.busy, t.ended, t.next = t.attempts+1, false, now, now.Add(a.spread(wait))
}

// wait returns the time until the next attempt is due, at most rejoinLook.
func (a *absentees) wait(now time.Time) time.Duration {
	wait := rejoinLook
	for _, t := range a.tries {
		if !t.busy {
			wait = min(wait, t.next.Sub(now))
		}
	}
	return max(wait, 0)
}

// jitter spreads a duration by ± 50 %, so that two halves of a mesh do not try each other in step.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d+1) }

// rejoiner runs the plan.
type rejoiner struct {
	p         *Pool
	plan      absentees
	seen      map[identity.NodeID]struct{} // members of the table that belong here
	newcomers map[identity.NodeID]int      // those just admitted, tried until alive, with how often they may still be
	look      time.Time                    // at the table, not before
	running   int
	begun     time.Time // when the last attempt was begun
	reached   time.Time // when the last attempt ended that reached somebody
	ended     chan attempt
}

// attempt is how one has ended.
type attempt struct {
	id      identity.NodeID
	direct  bool // with the member itself, not with another that knows it
	reached bool
}

// rejoin is the rejoiner's goroutine: it looks at the table when it changes, at the address book now and then, and keeps up to
// rejoinParallel attempts running.
func (p *Pool) rejoin() {
	r := &rejoiner{
		p:         p,
		plan:      absentees{least: p.profile.RejoinMin, most: p.profile.RejoinMax, spread: jitter, tries: map[identity.NodeID]*try{}},
		seen:      map[identity.NodeID]struct{}{},
		newcomers: map[identity.NodeID]int{},
		ended:     make(chan attempt, rejoinParallel),
	}
	changed, cancel := p.peers.Watch()
	defer cancel()
	for _, id := range p.belonging() { // who is here from the start is the address book's affair
		r.seen[id] = struct{}{}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		table := changed
		if time.Now().Before(r.look) {
			table = nil
		}
		select {
		case <-p.seeking.Done():
			return
		case <-table:
			r.tableChanged(time.Now())
			r.look = time.Now().Add(lookTurn * time.Duration(len(r.seen)))
		case <-p.reconsider:
			r.tableChanged(time.Now())
		case id := <-p.transport.nudges:
			r.arrive(id)
			r.plan.nudge(id, time.Now())
		case id := <-p.transport.asks:
			p.tasks.Go(func() { _ = p.synchronise(id) }) // one of each in itselfEvery; if it fails, the next news ask again
		case a := <-r.ended:
			r.finish(a)
		case <-timer.C:
		}
		now := time.Now()
		r.expel(now)
		r.plan.want(r.absent(now), now)
		r.launch(now)
		sleep := r.sleep(now)
		if rest := r.look.Sub(now); rest > 0 {
			sleep = min(sleep, rest)
		}
		timer.Reset(sleep)
	}
}

// sleep returns how long nothing needs doing. With all attempts running the end of one is the next event.
func (r *rejoiner) sleep(now time.Time) time.Duration {
	if r.running == rejoinParallel {
		return rejoinLook
	}
	return max(r.plan.wait(now), r.rest(now))
}

// rest returns how long no attempt is begun: while the last one may still answer, and while what one has brought spreads. Who has been away is at home
// again with the first member that it reaches; to go on with the others meanwhile would have a pool that was restarted as a whole connect everybody
// with everybody.
func (r *rejoiner) rest(now time.Time) time.Duration {
	until := r.reached.Add(r.plan.least)
	if hedge := r.begun.Add(r.plan.least); r.running > 0 && hedge.After(until) {
		until = hedge
	}
	return until.Sub(now)
}

// tableChanged takes in members that have just become known, or come to belong here, and lets go those that are known or belong no longer.
func (r *rejoiner) tableChanged(now time.Time) {
	belongs := map[identity.NodeID]struct{}{}
	all := r.p.belonging()
	for _, id := range all {
		belongs[id] = struct{}{}
		if _, old := r.seen[id]; !old {
			r.arrive(id)
			r.plan.due(id, now.Add(rand.N(1+crowdTurn*time.Duration(max(len(all)-crowd, 0)))))
		}
	}
	r.seen = belongs
	for _, a := range r.p.admission.arrivals(r.p.host.cfg.Now(), now) {
		if a.hasRecord {
			r.p.peers.Update(a.record)
		}
		r.arrive(a.id)
		r.plan.hurry(a.id, a.via, now)
	}
	r.expel(now)
	member := func(id identity.NodeID) bool {
		_, ok := r.p.peers.Get(id)
		return ok
	}
	r.p.roster.forget(member)
	r.p.transport.incarnations.keep(member)
}

// expel has those count as gone whom the mesh has revoked, or has elsewhere for longer than scopeGrace, until it has them here again.
func (r *rejoiner) expel(now time.Time) {
	for _, m := range r.p.roster.all() {
		switch {
		case m.ID == r.p.self:
		case r.p.transport.knows(m.ID):
			r.p.roster.readmitted(m.ID)
		case knows(r.p.peers, m.ID):
			r.p.roster.expelled(m.ID, peer.Left, now)
		default:
			r.p.roster.expelled(m.ID, peer.Dead, now)
		}
	}
}

// arrive has a member tried whether it is in the address book or not.
func (r *rejoiner) arrive(id identity.NodeID) {
	if _, ok := r.newcomers[id]; ok || len(r.newcomers) < newcomersMax {
		r.newcomers[id] = newcomerTries
	}
}

// absent returns who should be alive and is not. Until everything has been exchanged with somebody once, that is all: who comes back after a short
// while may hear from packets that everybody is alive, but not what is shared beside.
func (r *rejoiner) absent(now time.Time) map[identity.NodeID]peer.State {
	out := map[identity.NodeID]peer.State{}
	exchanged := r.p.exchanged.Load()
	consider := func(id identity.NodeID) bool {
		state := r.p.roster.state(id)
		e, known := r.p.peers.Get(id)
		if id == r.p.self || here(state) && exchanged || known && (e.Revoked || !r.p.fence.lets(id, now)) {
			return false
		}
		out[id] = state
		return true
	}
	for _, id := range r.p.book() {
		consider(id)
	}
	if !exchanged {
		for _, m := range r.p.roster.all() {
			consider(m.ID)
		}
	}
	for id, left := range r.newcomers {
		if left == 0 || !consider(id) {
			delete(r.newcomers, id)
		}
	}
	return out
}

// launch starts what is due.
func (r *rejoiner) launch(now time.Time) {
	if r.running == rejoinParallel || r.rest(now) > 0 {
		return
	}
	for _, id := range r.plan.start(1, now) {
		r.begun = now
		if left := r.newcomers[id]; left > 0 {
			r.newcomers[id] = left - 1
		}
		r.p.stats.rejoins.Add(1)
		r.running++
		r.attempt(id, id)
	}
}

// attempt reaches for the absent member by synchronising with it, or with another that knows it.
func (r *rejoiner) attempt(id, with identity.NodeID) {
	r.p.tasks.Go(func() {
		err := r.p.synchronise(with)
		r.ended <- attempt{id: id, direct: with == id, reached: err == nil} // has room for every running attempt
	})
}

// finish notes the end of an attempt. A new member that is out of reach for this node may not be so for who told of it, whom this node may
// have learned meanwhile.
func (r *rejoiner) finish(a attempt) {
	if t := r.plan.tries[a.id]; t != nil && a.direct && !a.reached && !t.via.IsZero() && t.via != r.p.self && t.via != a.id && r.p.seeking.Err() == nil {
		r.attempt(a.id, t.via)
		return
	}
	r.running--
	if a.reached {
		r.reached = time.Now()
	}
	r.plan.done(a.id, time.Now())
}

// paths has connections made to members that a packet could not be sent to. SWIM goes on meanwhile with others' help.
type paths struct {
	ctx     context.Context
	connect func(context.Context, identity.NodeID) error
	tasks   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	running map[identity.NodeID]struct{}
	ended   map[identity.NodeID]time.Time // less than pathEvery ago, or not yet forgotten
}

func newPaths(ctx context.Context, connect func(context.Context, identity.NodeID) error) *paths {
	return &paths{ctx: ctx, connect: connect, running: map[identity.NodeID]struct{}{}, ended: map[identity.NodeID]time.Time{}}
}

// want asks for a path to the node. It does not wait.
func (p *paths) want(id identity.NodeID) {
	if p.connect == nil {
		return
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for old, at := range p.ended {
		if now.Sub(at) >= pathEvery {
			delete(p.ended, old)
		}
	}
	_, runs := p.running[id]
	_, justEnded := p.ended[id]
	if p.ctx.Err() != nil || runs || justEnded || len(p.running) >= pathsMax {
		return
	}
	p.running[id] = struct{}{}
	p.tasks.Go(func() { p.make(id) })
}

func (p *paths) make(id identity.NodeID) {
	ctx, cancel := context.WithTimeout(p.ctx, pathFor)
	defer cancel()
	_ = p.connect(ctx, id) // what went wrong is the underlay's to tell; the next packet asks again
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, id)
	p.ended[id] = time.Now()
}

func (p *paths) wait() { p.tasks.Wait() }

package coordinator

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// What a leader signs carries the time of its clock. Certificates of one that is days ahead nobody takes, and had it renewed everybody's, nobody
// could speak with anybody; those of one that is behind have ended before they begin. So a leader signs nothing before it has compared its clock:
//
//  1. tendClock: at the beginning of its term, when its clock was set (the wall has gone further than the process's own time), and every
//     clockEvery.
//  2. compareClock: it asks the voters for the time, to whom it has connections, and some others that are alive where those leave it open: of
//     members there are more that may lie, and each costs a connection of 20 kB.
//  3. judgeClocks, a pure function, says what to think of it: by what the voters say, and by what all say where that is open.
//  4. Until its clock is found right, deciders that sign rest (Decider.Dates), and so does what is asked of it (dated). If it is wrong, or
//     nobody says for clockPatience, it gives leadership to another.
//
// Whoever votes alone decides by its own clock, as there is nobody to be wrong with. What such a clock has spoiled is mended when it is right again:
// see untimely.

const (
	clockEvery = 10 * time.Minute // a clock that drifts by a second a minute is found out in half of certificate.SkewMax
	clockSet   = time.Minute      // a clock that moves by more against the process's own time was set
	clockAgain = time.Second      // at least between two attempts
	// How long nobody may say what time it is. A clock that was set and makes all the others' certificates bad is most likely wrong, and an
	// election is cheap; at the beginning of a term connections may still have to be made.
	setPatience   = time.Second
	clockPatience = 10 * time.Second
	clocksAsked   = 8 // voters and judges, so that two voters that differ have one
)

// clockVerdict is what a leader thinks of its clock.
type clockVerdict uint8

const (
	clockUnknown clockVerdict = iota // nobody has said what time it is
	clockRight
	clockWrong    // most others have another time
	clockDisputed // as many say this as that
)

// clockWatch is what a leader knows about its clock.
type clockWatch struct {
	mu      sync.Mutex
	term    uint64
	verdict clockVerdict
	wall    time.Time // when it was reached, by the clock and by the process's own time
	at      time.Time
	since   time.Time // it has not been right since; zero: it is
	set     bool      // that began with somebody setting it
	asking  bool
	asked   time.Time
}

// now brings the verdict up to date: it holds for one term, and for as long as the clock goes evenly.
func (c *clockWatch) now(term uint64, wall time.Time) clockVerdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off := wall.Sub(c.wall) - time.Since(c.at); c.term != term || off > clockSet || off < -clockSet {
		c.set = c.term == term
		c.term, c.verdict, c.wall, c.at, c.since, c.asked = term, clockUnknown, wall, time.Now(), time.Now(), time.Time{}
	}
	return c.verdict
}

// due reports whether the others are to be asked now, and takes the turn to do so.
func (c *clockWatch) due() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking || time.Since(c.asked) < clockAgain || c.verdict == clockRight && time.Since(c.at) < clockEvery {
		return false
	}
	c.asking, c.asked = true, time.Now()
	return true
}

// conclude enters what the others' clocks say, and reports whether another is to lead.
func (c *clockWatch) conclude(term uint64, v clockVerdict, wall time.Time) (resign bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking = false
	if c.term != term {
		return false
	}
	c.verdict, c.wall, c.at = v, wall, time.Now()
	switch {
	case v == clockRight:
		c.since = time.Time{}
		return false
	case c.since.IsZero():
		c.since = time.Now()
	}
	patience := clockPatience
	if c.set {
		patience = setPatience
	}
	return v != clockUnknown || time.Since(c.since) >= patience
}

// judgeClocks compares a clock with others', each by how far it is ahead of ours. A clock is right if more are within certificate.SkewMax of it
// than are not, itself included; with nobody to compare it is unknown.
func judgeClocks(ahead []time.Duration) clockVerdict {
	agree := 1
	for _, d := range ahead {
		if d.Abs() <= certificate.SkewMax {
			agree++
		}
	}
	switch differ := len(ahead) + 1 - agree; {
	case len(ahead) == 0:
		return clockUnknown
	case agree > differ:
		return clockRight
	case agree < differ:
		return clockWrong
	}
	return clockDisputed
}

// weighClocks judges by the voters' clocks, and by all that were asked where those leave it open.
func weighClocks(ofVoters, all []time.Duration) clockVerdict {
	if v := judgeClocks(ofVoters); v == clockRight || v == clockWrong {
		return v
	}
	return judgeClocks(all)
}

// clockAnswer is the answer to opClock.
type clockAnswer struct {
	_    struct{} `cbor:",toarray"`
	Unix int64    // milliseconds
}

func (g *Group) answerClock() ([]byte, error) {
	return wire.Marshal(clockAnswer{Unix: g.cfg.Now().UnixMilli()})
}

// judges are members that are alive and no voters: who is asked where the voters leave it open.
func (g *Group) judges(voters []identity.NodeID) (out []identity.NodeID) {
	for _, m := range g.state.Load().Members {
		if len(voters)+len(out) < clocksAsked && m.Status == Active && m.ID != g.self && !contains(voters, m.ID) && g.cfg.Alive(m.ID) {
			out = append(out, m.ID)
		}
	}
	return out
}

// askClocks asks others for the time, all at once, and returns how far each that answers is ahead of this node. It waits for no more
// than it takes to find this node's clock right.
func (g *Group) askClocks(ask []identity.NodeID) map[identity.NodeID]time.Duration {
	ctx, cancel := context.WithTimeout(g.ctx, statusWait)
	defer cancel()
	type reply struct {
		id    identity.NodeID
		ahead time.Duration
		ok    bool
	}
	replies := make(chan reply, len(ask))
	for _, id := range ask {
		go func() { // ends with ctx
			a, err := g.ask(ctx, id, question{Op: opClock}, statusWait)
			var c clockAnswer
			ok := err == nil && a.err() == nil && wire.Unmarshal(a.Body, &c) == nil
			replies <- reply{id, time.UnixMilli(c.Unix).Sub(g.cfg.Now()), ok}
		}()
	}
	out, agree := map[identity.NodeID]time.Duration{}, 1
	for range ask {
		r := <-replies
		if !r.ok {
			continue
		}
		out[r.id] = r.ahead
		if r.ahead.Abs() <= certificate.SkewMax {
			agree++
		}
		if 2*agree > len(ask)+1 {
			break // those that are missing cannot outvote them; mostly one of them is the leader that was lost
		}
	}
	return out
}

// clockHolds reports whether this leader's clock is known to be right.
func (g *Group) clockHolds(r *replica) bool {
	voters, _ := r.servers()
	return g.clock.now(r.raft.CurrentTerm(), g.cfg.Now()) == clockRight || len(voters) == 1 && voters[0] == g.self
}

// tendClock is clockHolds, and has the others asked beside where it is time to. It belongs to steer.
func (g *Group) tendClock(r *replica) bool {
	holds := g.clockHolds(r)
	voters, _ := r.servers()
	if len(voters) > 1 && g.clock.due() {
		term := r.raft.CurrentTerm()
		g.running.Go(func() { g.compareClock(r, term, voters) }) // ends within statusWait, and an election
	}
	return holds
}

// compareClock finds out whether this leader's clock is right, and has another lead if it is not.
func (g *Group) compareClock(r *replica, term uint64, voters []identity.NodeID) {
	theirs := g.askClocks(without(slices.Clone(voters), g.self))
	ofVoters := slices.Collect(maps.Values(theirs))
	ahead := ofVoters
	verdict := weighClocks(ofVoters, ofVoters)
	if verdict != clockRight && verdict != clockWrong {
		maps.Copy(theirs, g.askClocks(g.judges(voters)))
		ahead = slices.Collect(maps.Values(theirs))
		verdict = weighClocks(ofVoters, ahead)
	}
	wall := g.cfg.Now()
	resign := g.clock.conclude(term, verdict, wall)
	poke(g.wake)
	if !resign || !r.leads() || len(voters) < 3 {
		return
	}
	heir := without(voters, g.self)[0]
	if len(ahead) == 0 {
		g.cfg.Log.Error("coordinator: nobody here says what time it is, so this machine's clock may be wrong (NTP sets it); another shall lead",
			"at", wall.UTC().Format(time.RFC3339))
	} else {
		if len(ofVoters) > 0 {
			ahead = ofVoters
		}
		slices.Sort(ahead)
		most := ahead[len(ahead)/2]
		g.cfg.Log.Error("coordinator: this machine's clock is not that of the others (NTP sets it); another shall lead",
			"at", wall.UTC().Format(time.RFC3339), "others", wall.Add(most).UTC().Format(time.RFC3339))
		heir = timely(voters, theirs, most, heir)
	}
	ctx, cancel := context.WithTimeout(g.ctx, g.cfg.Timing.RPC)
	defer cancel()
	if err := g.handTo(ctx, r, heir); err != nil {
		// Whoever has a certificate that has ended by its own clock may find nobody who lets it say so.
		g.cfg.Log.Warn("coordinator: leadership not given away, so it is left to be taken", "peer", heir.Short(), "err", err)
		r.network.hush(2 * (g.cfg.Timing.Heartbeat + g.cfg.Timing.Stagger))
	}
}

// timely is a voter whose clock is near where most clocks are.
func timely(voters []identity.NodeID, theirs map[identity.NodeID]time.Duration, most time.Duration, otherwise identity.NodeID) identity.NodeID {
	for _, id := range voters {
		if d, ok := theirs[id]; ok && (d-most).Abs() <= certificate.SkewMax {
			return id
		}
	}
	return otherwise
}

// datedWait is how long what is asked of a new leader waits for its clock to be compared; datedLook the time between two looks.
const (
	datedWait = statusWait
	datedLook = 5 * time.Millisecond
)

// dated waits until this leader may sign. errNotLeader: another will, or whoever asks tries again.
func (g *Group) dated(ctx context.Context, r *replica) error {
	if g.clockHolds(r) {
		return nil
	}
	poke(g.wake)
	ctx, cancel := context.WithTimeout(ctx, datedWait)
	defer cancel()
	for !g.clockHolds(r) {
		wait(ctx, datedLook)
		if ctx.Err() == nil {
			continue
		}
		if voters, _ := r.servers(); len(voters) < 3 {
			return refuse(RefusedClock, "the clock of this mesh's leader %s (%s) is not that of the others, and nothing can be signed by a wrong one; "+
				"set the clocks right (NTP does that), then try again", g.self.Short(), g.cfg.Now().UTC().Format(time.RFC3339))
		}
		return errNotLeader
	}
	return nil
}

// untimely tells whether a certificate does not hold at a time: it has ended, or a clock that was ahead has written it.
func untimely(c *certificate.Member, now time.Time) bool {
	return now.After(c.NotAfter) || fromAhead(c, now)
}

func fromAhead(c *certificate.Member, now time.Time) bool {
	return now.Before(c.NotBefore.Add(-certificate.SkewMax))
}

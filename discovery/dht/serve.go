package dht

import (
	"bufio"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

const (
	// servingMax bounds the questions that are answered at a time, and with messageMax the memory they take to 1.7 MB; servingPerMember is one
	// member's share.
	servingMax       = 64
	servingPerMember = 8
	// askRate and askBurst bound one member's questions for each second: a lookup asks any one member a few times, and a value costs 1 to 3 ms of
	// CPU to verify, so that a member may take 3 % of a core for long.
	askRate  = 10
	askBurst = 60
	// callersMax bounds the members whose pace is remembered; those with a full allowance are forgotten first.
	callersMax = 1024
)

// gate decides who may ask now.
type gate struct {
	mu      sync.Mutex
	closed  bool
	serving int
	callers map[identity.NodeID]*caller
	running sync.WaitGroup
}

type caller struct {
	pace    *rate.Limiter
	serving int
}

// enter reports whether a question of the member is taken; then leave follows.
func (g *gate) enter(id identity.NodeID, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.serving >= servingMax {
		return false
	}
	c := g.callers[id]
	if c == nil {
		if len(g.callers) >= callersMax {
			g.forgetLocked(now)
		}
		if len(g.callers) >= callersMax {
			return false
		}
		c = &caller{pace: rate.NewLimiter(askRate, askBurst)}
		g.callers[id] = c
	}
	if c.serving >= servingPerMember || !c.pace.AllowN(now, 1) {
		return false
	}
	c.serving++
	g.serving++
	g.running.Add(1)
	return true
}

func (g *gate) forgetLocked(now time.Time) {
	for id, c := range g.callers {
		if c.serving == 0 && c.pace.TokensAt(now) >= askBurst {
			delete(g.callers, id)
		}
	}
}

func (g *gate) leave(id identity.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.callers[id].serving--
	g.serving--
	g.running.Done()
}

// close turns everybody away from now on and returns when nobody is served any more.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.running.Wait()
}

// served are the counters of questions from others.
type served struct {
	answered, turnedAway, malformed atomic.Uint64
	received, sent                  atomic.Uint64 // bytes
}

// serve answers the one question of a stream. Control has made sure that a member asks.
func (d *DHT) serve(_ context.Context, s *control.Stream) {
	defer s.Close()
	from := s.Peer().ID
	h := d.host.streamHandler()
	if h == nil || !d.server.Load() || !d.gate.enter(from, time.Now()) {
		d.served.turnedAway.Add(1)
		s.Reset()
		return
	}
	defer d.gate.leave(from)
	stop := context.AfterFunc(d.ctx, s.Reset)
	defer stop()
	if s.SetDeadline(time.Now().Add(questionTime)) != nil {
		return
	}
	role, message, err := readQuestion(bufio.NewReader(s))
	if err != nil {
		d.served.malformed.Add(1)
		s.Reset()
		return
	}
	d.served.answered.Add(1)
	d.served.received.Add(uint64(len(message)))
	h(newQuestion(d.host, s, message, &d.served.sent))
	d.heard(from, role == roleServer)
}

package sim

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// load counts what the scenario's traffic met with.
type load struct {
	settled time.Duration // how long the mesh took to settle; 0: it did not, or was not asked

	mu    sync.Mutex
	pings tally
	asked tally // users' requests
	users int   // that are there now
}

// tally counts attempts and the times of those that came to something.
type tally struct {
	sent, failed int
	times        *hdrhistogram.Histogram // in µs, three digits exact

	window window // since the last sample
}

// window is a tally of a short time.
type window struct {
	sent, failed int
	times        []time.Duration
}

// slowest is the longest time that is told apart, above every timeout.
const slowest = 2 * time.Minute

func newLoad() *load {
	histogram := func() *hdrhistogram.Histogram { return hdrhistogram.New(1, slowest.Microseconds(), 3) }
	return &load{pings: tally{times: histogram()}, asked: tally{times: histogram()}}
}

// note counts one attempt.
func (t *tally) note(took time.Duration, err error) {
	t.sent++
	t.window.sent++
	if err != nil {
		t.failed++
		t.window.failed++
		return
	}
	_ = t.times.RecordValue(min(max(took, time.Microsecond), slowest).Microseconds()) // within its bounds
	t.window.times = append(t.window.times, took)
}

// share is the part that came to something; 1 of nothing.
func (t *tally) share() float64 {
	if t.sent == 0 {
		return 1
	}
	return float64(t.sent-t.failed) / float64(t.sent)
}

// take returns what came since the last time, its times sorted, and begins anew.
func (t *tally) take() window {
	w := t.window
	t.window = window{}
	slices.Sort(w.times)
	return w
}

// quantiles are the figures of times that people ask for.
var quantiles = []struct {
	name string
	q    float64 // 0 to 1
}{{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}}

// figures are the counts and times under the names of a figure: of rtt, rtt_p50_ms and so on.
func (t *tally) figures(of string, to map[string]float64) {
	if t.times.TotalCount() == 0 {
		return
	}
	for _, q := range quantiles {
		to[of+"_"+q.name+"_ms"] = float64(t.times.ValueAtQuantile(100*q.q)) / 1000
	}
	to[of+"_max_ms"] = float64(t.times.Max()) / 1000
}

// loadTick has every machine ping another one.
func (p *play) loadTick() {
	hosts := p.members(nil)
	if len(hosts) < 2 {
		return
	}
	for i, from := range hosts {
		to := hosts[(i+1+p.world.rand.IntN(len(hosts)-1))%len(hosts)]
		p.world.Go(func(context.Context) {
			rtt, err := p.world.Ping(from, to, p.scenario.Load.Timeout)
			p.load.mu.Lock()
			defer p.load.mu.Unlock()
			p.load.pings.note(rtt, err)
		})
	}
}

// percentile returns the q-th part of sorted times, 0 to 1; 0 of none.
func percentile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// figures are what the load gives.
func (l *load) figures(to map[string]float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	to["pings"], to["pings_lost"] = float64(l.pings.sent), float64(l.pings.failed)
	if l.pings.sent > 0 {
		to["pings_answered"] = l.pings.share()
	}
	l.pings.figures("rtt", to)
	if l.asked.sent > 0 {
		to["requests"], to["request_errors"] = float64(l.asked.sent), float64(l.asked.failed)
		to["request_errors_share"] = 1 - l.asked.share()
	}
	l.asked.figures("request", to)
}

// planUsers has the scenario's users come and go.
func (p *play) planUsers() {
	u := p.scenario.Load.Users
	for i := range max(u.From, u.To) {
		begin, end := u.stay(i, p.scenario.For)
		if begin < end {
			p.agenda.add(p.formed+begin, func() { p.welcome(i, p.formed+end) })
		}
	}
}

// stay is from when to when the i-th user is there, from 0.
func (u Users) stay(i int, whole time.Duration) (begin, end time.Duration) {
	end = whole
	switch n := u.To - u.From; {
	case i >= u.From:
		begin = u.Over * time.Duration(i+1-u.From) / time.Duration(n)
	case i >= u.To:
		end = min(whole, u.Over*time.Duration(u.From-i)/time.Duration(-n))
	}
	return begin, end
}

// welcome begins a user: somebody at one of the machines, who asks another, thinks, and asks again.
func (p *play) welcome(number int, until time.Duration) {
	hosts := p.members(nil)
	if from := p.scenario.Load.Users.At; len(from.words) > 0 {
		hosts = from.pick(p)
	}
	if len(hosts) == 0 {
		p.world.Record("", "users", "no machine is there for user %d", number+1)
		return
	}
	u := user{play: p, until: until, rand: rand.New(rand.NewPCG(p.world.Seed(), 1<<32+uint64(number)))}
	u.at = hosts[u.rand.IntN(len(hosts))]
	if to := p.scenario.Load.Users.Ask; len(to.words) > 0 {
		u.servers = to.pick(p)
	}
	p.load.mu.Lock()
	p.load.users++
	p.load.mu.Unlock()
	p.world.Go(u.live)
}

// user is one that makes requests.
type user struct {
	play    *play
	at      *Host
	servers []*Host // nil: every machine
	until   time.Duration
	rand    *rand.Rand
}

func (u *user) live(ctx context.Context) {
	defer func() {
		u.play.load.mu.Lock()
		defer u.play.load.mu.Unlock()
		u.play.load.users--
	}()
	w, think := u.play.world, u.play.scenario.Load.Users.Think
	// Those that come at once do not all ask at once.
	pause(ctx, time.Duration(u.rand.Float64()*float64(think)))
	for ctx.Err() == nil && w.Now() < u.until {
		u.ask()
		// Pauses of people are drawn from an exponential distribution; a long one must not keep a user silent for the rest of the run.
		pause(ctx, time.Duration(min(u.rand.ExpFloat64(), 5)*float64(think)))
	}
}

// ask makes one request. A machine that is off has no user, and nobody asks one that is known to be off; one that goes off meanwhile does not answer.
func (u *user) ask() {
	p, l := u.play, u.play.scenario.Load
	to := u.server()
	if to == nil || !present(u.at) {
		return
	}
	took, err := p.world.Request(u.at, to, l.Users.Request, l.Users.Response, l.Timeout)
	p.load.mu.Lock()
	defer p.load.mu.Unlock()
	p.load.asked.note(took, err)
}

// serverDraws is how often one is drawn before a user gives up.
const serverDraws = 16

func (u *user) server() *Host {
	hosts := u.servers
	if hosts == nil {
		hosts = u.play.world.Hosts()
	}
	for range serverDraws {
		if len(hosts) == 0 {
			break
		}
		if h := hosts[u.rand.IntN(len(hosts))]; h != u.at && present(h) {
			return h
		}
	}
	return nil
}

// present reports whether a host's node is in the mesh, not about to end. Safe from any goroutine.
func present(h *Host) bool { return h.Running() && !h.stopping() && h.Overlay().IsValid() }

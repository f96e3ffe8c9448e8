package sim

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// World is a simulated internet with hosts on it. Unless said otherwise its methods, and those of hosts, are for the driver's
// goroutine: the one that Bubble calls.
type World struct {
	cfg   Config
	ctx   context.Context // the caller's, from outside of the bubble: only ever polled
	begun time.Time
	rand  *rand.Rand
	life  context.Context // ends with the world
	end   context.CancelFunc

	net   *underlaytest.Network
	links *links

	shelf       *coordinator.Shelf // what the nodes have read
	noPowerCuts bool               // constant once there are hosts: see machineDisk.lasting

	hostsMu sync.Mutex // held by the driver when it adds one, and by others who look
	hosts   []*Host

	procs sync.WaitGroup // of nodes, and of all that was started in the background

	journal journal
	wire    wire
	told    time.Duration // when Progress was told last
	cleaned time.Duration // when garbage was collected last, in an exact run
}

func newWorld(ctx context.Context, cfg Config) *World {
	w := &World{cfg: cfg, ctx: ctx, begun: time.Now(), rand: rand.New(rand.NewPCG(cfg.Seed, 1)), net: new(underlaytest.Network), shelf: coordinator.NewShelf()}
	w.life, w.end = context.WithCancel(context.Background())
	w.links = newLinks(cfg.Seed)
	w.wire.marker = marker(cfg.Seed)
	if cfg.Exact {
		w.wire.trace = sha256.New()
	}
	w.net.Set(underlaytest.Hooks{Drop: w.links.drop, Latency: w.links.latency, See: w.wire.see, Refuse: w.links.refuse, Segments: true})
	return w
}

// close ends all that runs.
func (w *World) close() {
	for _, h := range w.hosts {
		h.crash()
	}
	w.end()
	w.procs.Wait()
	time.Sleep(lastTimers)
}

// lastTimers is how long what a node leaves behind may wait for a timer of its own: memberlist's probes, an interval stretched by its health.
const lastTimers = time.Minute

// Seed is what the world is drawn from.
func (w *World) Seed() uint64 { return w.cfg.Seed }

// Rand is the driver's randomness.
func (w *World) Rand() *rand.Rand { return w.rand }

// Now is the world's time since its beginning. Safe from any goroutine.
func (w *World) Now() time.Duration { return time.Since(w.begun) }

// Hosts are all hosts, in the order in which they were made. Safe from any goroutine.
func (w *World) Hosts() []*Host {
	w.hostsMu.Lock()
	defer w.hostsMu.Unlock()
	return slices.Clone(w.hosts)
}

// Host finds a host by name. Safe from any goroutine.
func (w *World) Host(name string) (*Host, bool) {
	for _, h := range w.Hosts() {
		if h.name == name {
			return h, true
		}
	}
	return nil, false
}

// sliceMax is the longest that Sleep goes without a look at whether the caller still wants the run.
const sliceMax = time.Second

// cleanEvery is the time between two collections of garbage in an exact run.
const cleanEvery = 20 * time.Second

// Sleep lets d of the world's time pass. It returns ErrInterrupted once the caller's context has ended.
func (w *World) Sleep(d time.Duration) error { return w.SleepUntil(w.Now() + d) }

// SleepUntil lets time pass until the world is at t.
func (w *World) SleepUntil(t time.Duration) error {
	for {
		// A context of outside cannot be waited for: its channel would hold up virtual time.
		if w.ctx.Err() != nil {
			return ErrInterrupted
		}
		now := w.Now()
		if w.cfg.Progress != nil && now-w.told >= sliceMax {
			w.told = now
			w.cfg.Progress(now)
		}
		if w.cfg.Exact && now-w.cleaned >= cleanEvery {
			w.cleaned = now
			// What is garbage, and so where the next things lie, must not depend on who was in the middle of what.
			synctest.Wait()
			runtime.GC()
		}
		if now >= t {
			return nil
		}
		time.Sleep(min(t-now, sliceMax))
	}
}

// Await asks every step whether something is so, until it is or the time is up. It reports whether it came true.
func (w *World) Await(within, step time.Duration, so func() bool) (bool, error) {
	for deadline := w.Now() + within; ; {
		if so() {
			return true, nil
		}
		left := deadline - w.Now()
		if left <= 0 {
			return false, nil
		}
		if err := w.Sleep(min(step, left)); err != nil {
			return false, err
		}
	}
}

// Go runs f beside the driver; its context ends with the world.
func (w *World) Go(f func(ctx context.Context)) { w.procs.Go(func() { f(w.life) }) }

// folder is where a host keeps its n-th life.
func (w *World) folder(host string, n int) string {
	return filepath.Join(w.cfg.Dir, fmt.Sprintf("%s.%d", host, n))
}

// Event is something that happened.
type Event struct {
	At   time.Duration `json:"at"`   // since the world's beginning
	Host string        `json:"host"` // empty: the world's
	Kind string        `json:"kind"` // a fault's name, or "log", "decided", "exit", "violation"
	Text string        `json:"text"`
}

func (e Event) String() string {
	host := e.Host
	if host == "" {
		host = "-"
	}
	return fmt.Sprintf("%s %s %s: %s", clock(e.At), host, e.Kind, e.Text)
}

// clock shows a time of the world as hours:minutes:seconds with milliseconds.
func clock(d time.Duration) string {
	s := d / time.Second
	return fmt.Sprintf("%02d:%02d:%02d.%03d", s/3600, s/60%60, s%60, d%time.Second/time.Millisecond)
}

// eventsMax bounds the journal: the oldest are forgotten. An hour of a mesh of fifty in trouble is some thousand.
const eventsMax = 100_000

type journal struct {
	mu      sync.Mutex
	events  []Event
	dropped int
}

// Record notes what happened. Safe from any goroutine.
func (w *World) Record(host, kind, format string, args ...any) {
	w.journal.add(Event{At: w.Now(), Host: host, Kind: kind, Text: fmt.Sprintf(format, args...)})
}

func (j *journal) add(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.events) == eventsMax {
		half := eventsMax / 2
		j.events, j.dropped = append(j.events[:0], j.events[half:]...), j.dropped+half
	}
	j.events = append(j.events, e)
}

// Events are the last n events, oldest first; n < 0: all that are kept. Safe from any goroutine.
func (w *World) Events(n int) []Event {
	w.journal.mu.Lock()
	defer w.journal.mu.Unlock()
	all := w.journal.events
	if n >= 0 && n < len(all) {
		all = all[len(all)-n:]
	}
	return slices.Clone(all)
}

// hostLog turns what a node logs of its transitions into events.
type hostLog struct {
	world *World
	host  string
	attrs string
}

func (l *hostLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (l *hostLog) Handle(_ context.Context, r slog.Record) error {
	text := r.Level.String() + " " + r.Message + l.attrs
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	l.world.Record(l.host, "log", "%s", text)
	return nil
}

func (l *hostLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *l
	for _, a := range attrs {
		with.attrs += " " + a.String()
	}
	return &with
}

func (l *hostLog) WithGroup(string) slog.Handler { return l }

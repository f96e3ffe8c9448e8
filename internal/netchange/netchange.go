package netchange

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Kind is what has changed; several bits may be set, as changes that a slow reader has not yet taken are put together.
type Kind uint8

// The kinds of change.
const (
	Addresses Kind = 1 << iota // an address came or went, or its interface's carrier or MTU changed
	Routes                     // a route of the main table came, went or leads elsewhere; seen on Linux only
	Resume                     // the machine was suspended and is back: every NAT mapping may be gone
)

func (k Kind) String() string {
	var s []string
	for i, name := range []string{"addresses", "routes", "resume"} {
		if k&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, "+")
}

// Event is a change of the network.
type Event struct {
	Kind Kind
}

// Config is what Watch needs.
type Config struct {
	// IgnoreInterface names interfaces of no interest, our own tunnel above all: its routes are ours, and reacting to them would be
	// reacting to ourselves. nil ignores none. It is called from Watch's goroutine.
	IgnoreInterface func(name string) bool
	// Log hears of changes, and of the fallback to polling. nil is silent.
	Log *slog.Logger
}

const (
	// debounce is from the first sign to the snapshot: a change of network is a burst of messages (link, address, routes) over a
	// few tens of milliseconds. It is not extended by further signs, so an event is never later than this.
	debounce = 250 * time.Millisecond
	// snapshotShare bounds the time spent on snapshots to a twentieth, for routers with hundreds of thousands of routes.
	snapshotShare = 20
	// pollInterval is how often the network is looked at where nothing tells of changes.
	pollInterval = 5 * time.Second
	// sleepCheckInterval is how often the clocks are compared, and so how late a resume may be noticed.
	sleepCheckInterval = 2 * time.Second
	// sleepMin is the shortest suspension that counts, above any adjustment of a clock. The shortest time after which a NAT may
	// forget a UDP mapping is 30 s in practice (RFC 4787 REQ-5 asks for 2 min), but sockets and links suffer sooner.
	sleepMin = 2 * time.Second
)

// snapshot is what is compared: one sorted line an address and one a route.
type snapshot struct {
	addresses, routes []string
}

// system is the operating system's side.
type system interface {
	// snapshot reads addresses and routes; it is called by one goroutine only.
	snapshot(ignore func(string) bool) (snapshot, error)
	// signs is signalled whenever the network may have changed; nil if the system does not tell.
	signs() <-chan struct{}
	// asleep is for how long the machine has been suspended since some fixed moment, as far as can be told.
	asleep() time.Duration
	io.Closer
}

// Watch reports changes from now on, until ctx ends; then the channel is closed. It opens its sockets before it returns, in the
// caller's network namespace. Kinds that the reader has not taken are merged, so a slow reader misses nothing.
func Watch(ctx context.Context, cfg Config) <-chan Event {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.IgnoreInterface == nil {
		cfg.IgnoreInterface = func(string) bool { return false }
	}
	return watch(ctx, cfg, open(cfg.Log))
}

func watch(ctx context.Context, cfg Config, sys system) <-chan Event {
	w := &watcher{Config: cfg, sys: sys, events: make(chan Event)}
	w.last, w.err = sys.snapshot(cfg.IgnoreInterface)
	w.slept = sys.asleep()
	if w.err != nil {
		cfg.Log.Warn("network state not read", "err", w.err)
	}
	go w.run(ctx)
	return w.events
}

// watcher is the state of one Watch; run's goroutine owns it.
type watcher struct {
	Config
	sys    system
	events chan Event

	last    snapshot
	err     error // of the last snapshot
	slept   time.Duration
	pending Kind // not yet taken by the reader
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.events)
	defer w.sys.Close()
	signs, interval := w.sys.signs(), sleepCheckInterval
	var polls <-chan time.Time
	if signs == nil {
		ticker := time.NewTicker(pollInterval)
		defer ticker.Stop()
		polls = ticker.C
	}
	clock := time.NewTicker(interval)
	defer clock.Stop()
	var due <-chan time.Time // when a snapshot is to be taken; nil if nothing asks for one
	var quiet time.Time      // none before this
	for {
		var out chan Event
		if w.pending != 0 {
			out = w.events
		}
		select {
		case <-ctx.Done():
			return
		case out <- Event{w.pending}:
			w.pending = 0
		case <-signs:
			if due == nil {
				due = time.After(max(debounce, time.Until(quiet)))
			}
		case <-polls:
			w.compare()
		case <-clock.C:
			if w.resumed() && due == nil {
				due = time.After(debounce)
			}
		case <-due:
			due = nil
			start := time.Now()
			w.compare()
			quiet = time.Now().Add(snapshotShare * time.Since(start))
		}
	}
}

// compare takes a snapshot and notes what differs from the one before.
func (w *watcher) compare() {
	now, err := w.sys.snapshot(w.IgnoreInterface)
	if err != nil {
		if w.err == nil {
			w.Log.Warn("network state not read", "err", err)
		}
		w.err = err
		return
	}
	w.err = nil
	var kind Kind
	if !slices.Equal(now.addresses, w.last.addresses) {
		kind |= Addresses
	}
	if !slices.Equal(now.routes, w.last.routes) {
		kind |= Routes
	}
	if kind != 0 {
		w.Log.Info("network changed", "kind", kind.String(),
			"added", difference(now, w.last), "removed", difference(w.last, now))
	}
	w.last = now
	w.pending |= kind
}

// resumed notes a suspension since it was last asked.
func (w *watcher) resumed() bool {
	asleep := w.sys.asleep()
	before := w.slept
	w.slept = asleep
	if asleep-before < sleepMin {
		return false
	}
	w.Log.Info("network may have changed: the machine was suspended", "for", (asleep - before).Round(time.Second).String())
	w.pending |= Resume
	return true
}

// logLinesMax bounds a line of the log.
const logLinesMax = 8

// difference lists what is in a and not in b, for the log.
func difference(a, b snapshot) []string {
	var out []string
	for _, pair := range [][2][]string{{a.addresses, b.addresses}, {a.routes, b.routes}} {
		for _, line := range pair[0] {
			if _, found := slices.BinarySearch(pair[1], line); found {
				continue
			}
			if len(out) == logLinesMax {
				return append(out, "…")
			}
			out = append(out, line)
		}
	}
	return out
}

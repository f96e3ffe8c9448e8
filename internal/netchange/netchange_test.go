package netchange

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var discard = slog.New(slog.DiscardHandler)

// fake is a system whose network and sleep the test decides.
type fake struct {
	sign chan struct{}
	done chan struct{}

	mu    sync.Mutex
	now   snapshot
	err   error
	slept time.Duration
	reads int
	cost  time.Duration
}

func (f *fake) snapshot(func(string) bool) (snapshot, error) {
	f.mu.Lock()
	f.reads++
	now, err, cost := f.now, f.err, f.cost
	f.mu.Unlock()
	time.Sleep(cost) // not with the lock: a bubble's time stands still while somebody waits for one
	return now, err
}
func (f *fake) signs() <-chan struct{} { return f.sign }
func (f *fake) Close() error           { close(f.done); return nil }
func (f *fake) asleep() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.slept
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	change()
	f.mu.Unlock()
	if f.sign != nil {
		f.sign <- struct{}{}
	}
}

// inBubble runs a watcher over a fake system in virtual time.
func inBubble(t *testing.T, signs bool, f func(*testing.T, *fake, <-chan Event)) {
	synctest.Test(t, func(t *testing.T) {
		sys := &fake{done: make(chan struct{}), now: snapshot{addresses: []string{"a"}}}
		if signs {
			sys.sign = make(chan struct{})
		}
		ctx, cancel := context.WithCancel(t.Context())
		cfg := Config{IgnoreInterface: func(string) bool { return false }}
		cfg.Log = discard
		events := watch(ctx, cfg, sys)
		f(t, sys, events)
		cancel()
		<-sys.done
		if _, open := <-events; open {
			t.Error("the channel is open after the end")
		}
	})
}

// next waits for an event at most that long, in virtual time.
func next(events <-chan Event, limit time.Duration) Kind {
	select {
	case e := <-events:
		return e.Kind
	case <-time.After(limit):
		return 0
	}
}

func TestABurstOfSignsIsOneEvent(t *testing.T) {
	inBubble(t, true, func(t *testing.T, sys *fake, events <-chan Event) {
		start := time.Now()
		for _, a := range []string{"b", "c", "d"} {
			sys.set(func() { sys.now = snapshot{addresses: []string{a}, routes: []string{"default " + a}} })
			time.Sleep(50 * time.Millisecond)
		}
		if k := next(events, time.Second); k != Addresses|Routes || time.Since(start) != debounce {
			t.Errorf("%v after %v", k, time.Since(start))
		}
		if k := next(events, time.Minute); k != 0 {
			t.Errorf("and %v", k)
		}
	})
}

func TestASignWithoutADifferenceIsNoEvent(t *testing.T) {
	inBubble(t, true, func(t *testing.T, sys *fake, events <-chan Event) {
		sys.set(func() {})
		if k := next(events, time.Minute); k != 0 {
			t.Error(k)
		}
		if sys.reads != 2 {
			t.Errorf("%d snapshots", sys.reads)
		}
	})
}

func TestASlowReaderGetsTheSumOfWhatItMissed(t *testing.T) {
	inBubble(t, true, func(t *testing.T, sys *fake, events <-chan Event) {
		sys.set(func() { sys.now = snapshot{addresses: []string{"b"}} })
		time.Sleep(time.Second)
		sys.set(func() { sys.now = snapshot{addresses: []string{"b"}, routes: []string{"r"}} })
		time.Sleep(time.Second)
		if k := next(events, time.Second); k != Addresses|Routes {
			t.Error(k)
		}
	})
}

func TestSleepIsNoticed(t *testing.T) {
	inBubble(t, true, func(t *testing.T, sys *fake, events <-chan Event) {
		sys.mu.Lock()
		sys.slept += 90 * time.Second
		sys.now = snapshot{addresses: []string{"elsewhere"}} // and no sign: the message may come before the address
		sys.mu.Unlock()
		if k := next(events, sleepCheckInterval+time.Millisecond); k != Resume {
			t.Error(k)
		}
		if k := next(events, time.Second); k != Addresses {
			t.Error(k)
		}
		sys.mu.Lock()
		sys.slept += sleepMin / 2 // a clock that was adjusted
		sys.mu.Unlock()
		if k := next(events, time.Minute); k != 0 {
			t.Error(k)
		}
	})
}

func TestWithoutSignsTheNetworkIsPolled(t *testing.T) {
	inBubble(t, false, func(t *testing.T, sys *fake, events <-chan Event) {
		sys.set(func() { sys.now = snapshot{addresses: []string{"b"}} })
		if k := next(events, pollInterval+time.Millisecond); k != Addresses {
			t.Error(k)
		}
	})
}

func TestAFailedSnapshotIsNotAChange(t *testing.T) {
	inBubble(t, true, func(t *testing.T, sys *fake, events <-chan Event) {
		sys.set(func() { sys.now, sys.err = snapshot{}, errors.New("no") })
		if k := next(events, time.Second); k != 0 {
			t.Error(k)
		}
		sys.set(func() { sys.now, sys.err = snapshot{addresses: []string{"b"}}, nil })
		if k := next(events, time.Second); k != Addresses {
			t.Error(k)
		}
	})
}

func TestExpensiveSnapshotsAreRare(t *testing.T) {
	inBubble(t, true, func(t *testing.T, sys *fake, events <-chan Event) {
		sys.set(func() { sys.cost = 500 * time.Millisecond })
		for range 600 { // a minute of a route changing all the time
			sys.set(func() {})
			time.Sleep(100 * time.Millisecond)
		}
		if sys.reads > 1+60/10+1 { // each half second pays for ten
			t.Errorf("%d snapshots in a minute", sys.reads)
		}
	})
}

func TestKindsAreNamed(t *testing.T) {
	if s := (Addresses | Resume).String(); s != "addresses+resume" {
		t.Error(s)
	}
}

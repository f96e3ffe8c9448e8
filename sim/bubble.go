package sim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// ErrInterrupted is what World.Sleep returns after the caller's context has ended.
var ErrInterrupted = errors.New("interrupted")

// Config is what a world is made of.
type Config struct {
	// Seed is what all randomness of the world and of its nodes is drawn from.
	Seed uint64
	// Dir is where the state folders go; empty: a temporary folder that is removed afterwards. Memory (tmpfs) is faster.
	Dir string
	// Progress is told of the world's time, about every second of virtual time; nil: nobody. It must not wait for anything.
	Progress func(virtual time.Duration)
	// Exact says that the process is one of package replay: garbage is collected at fixed instants only, and Result.Trace is filled in.
	Exact bool
	// Wall tells how long the program has run, for figures of speed; nil: by time.Now.
	Wall func() time.Duration
}

// Bubble makes a world in a bubble of virtual time and calls f with it. When f returns, all processes are ended. The error is f's, or says
// that something in the bubble panicked or did not end. It works in any program, not only in tests; f must wait for nothing outside.
func Bubble(ctx context.Context, cfg Config, f func(*World) error) (err error) {
	if cfg.Dir == "" {
		if cfg.Dir, err = os.MkdirTemp("", "phantom-sim-"); err != nil {
			return fmt.Errorf("make a folder for the simulated disks: %w", err)
		}
		defer os.RemoveAll(cfg.Dir)
	}
	warmUp()
	defer takeProcessor()()
	defer func() {
		// The bubble's own complaint, of goroutines that are left.
		if r := recover(); r != nil {
			err = errors.Join(err, fmt.Errorf("sim: seed %d: %v\n%s", cfg.Seed, r, bubbled()))
		}
	}()
	synctest.Test(new(testing.T), func(*testing.T) { err = within(ctx, cfg, f) })
	return err
}

// stacksMax bounds the stacks of a message, in bytes.
const stacksMax = 1 << 20

// bubbled are the stacks of the goroutines that a bubble has left behind.
func bubbled() string {
	all := make([]byte, stacksMax)
	all = all[:runtime.Stack(all, true)]
	var left []string
	for g := range strings.SplitSeq(string(all), "\n\n") {
		if head, _, _ := strings.Cut(g, "\n"); strings.Contains(head, "synctest bubble") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}

// within is what happens inside. A panic must not leave it: it would end the program, and with it every other run.
func within(ctx context.Context, cfg Config, f func(*World) error) (err error) {
	w := newWorld(ctx, cfg)
	defer w.close()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("sim: seed %d: panic at %s: %v\n%s", cfg.Seed, w.Now(), r, debug.Stack())
		}
	}()
	return f(w)
}

// warmUp starts outside of the bubble what starts with its first use and would otherwise belong to it.
func warmUp() {
	_, _ = rand.Read(make([]byte, 8))
}

package coordinator

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// flights counts calls into raft that wait for an answer. Raft forgets some of them when it shuts down (a VerifyLeader that is
// still queued, for one), and who waits then waits forever: so they land first.
type flights struct {
	mu     sync.Mutex
	closed bool
	up     int
	down   chan struct{} // closed when closed and up is 0
}

// landingMax bounds land: with its streams closed a leader loses its lease, and thereby answers everything, within a second. Only
// a disk that hangs takes longer.
const landingMax = 3 * time.Second

func (f *flights) start() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.up++
	return true
}

func (f *flights) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.up--; f.up == 0 && f.closed {
		close(f.down)
	}
}

// land lets no further call start and waits for those in flight.
func (f *flights) land() {
	f.mu.Lock()
	if f.closed || f.up == 0 {
		f.closed = true
		f.mu.Unlock()
		return
	}
	f.closed, f.down = true, make(chan struct{})
	f.mu.Unlock()
	select {
	case <-f.down:
	case <-time.After(landingMax):
	}
}

// wait makes a call into raft and waits for its future, which takes no context. The goroutine ends with the future.
func (r *replica) wait(ctx context.Context, call func() raft.Future) error {
	if !r.flights.start() {
		return raft.ErrRaftShutdown
	}
	done := make(chan error, 1)
	go func() {
		defer r.flights.end()
		done <- call().Error()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

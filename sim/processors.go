package sim

import (
	"math"
	"runtime"
	"runtime/debug"
	"sync"
)

// In a bubble goroutines wait for each other nearly always: of an idle mesh a packet is hardly ever handled while another is. A second processor
// then only costs what waking it up takes, a third of all time with five nodes. So the program gets as many processors as there are
// bubbles, and no more than it had.

// bubbleGC is the garbage collector's percentage while bubbles run: their heaps are small and full of what was just received.
const bubbleGC = 400

// bubbleMemory is how much memory a program takes before it collects garbage more often than bubbleGC says, unless GOMEMLIMIT says another: hundreds of
// nodes would take five times what they hold.
const bubbleMemory = 8 << 30

var processors struct {
	mu      sync.Mutex
	bubbles int
	procs   int // what GOMAXPROCS was before the first bubble
	gc      int
	memory  int64
}

// takeProcessor gives the program as many processors as it has bubbles, until the function that it returns is called.
func takeProcessor() (giveBack func()) {
	p := &processors
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bubbles == 0 {
		p.procs, p.gc = runtime.GOMAXPROCS(0), debug.SetGCPercent(bubbleGC)
		if p.gc < 0 { // turned off, as for an exact replay
			debug.SetGCPercent(p.gc)
		}
		p.memory = debug.SetMemoryLimit(-1) // only asks
		if p.memory == math.MaxInt64 {      // nobody has set it
			debug.SetMemoryLimit(bubbleMemory)
		}
	}
	p.bubbles++
	runtime.GOMAXPROCS(min(p.bubbles, p.procs))
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.bubbles--; p.bubbles > 0 {
			runtime.GOMAXPROCS(min(p.bubbles, p.procs))
			return
		}
		runtime.GOMAXPROCS(p.procs)
		debug.SetGCPercent(p.gc)
		debug.SetMemoryLimit(p.memory)
	}
}

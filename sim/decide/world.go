package decide

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"
)

const (
	recentMax = 40        // events that a violation shows
	eventsMax = 1_000_000 // of one part: more is a loop in the model or in a decision, and is reported
)

// world is virtual time, the events to come, the randomness and the trace of one part of a run.
type world struct {
	now    time.Duration // since the run began
	queue  events
	order  uint64 // breaks ties between events of one instant: first scheduled, first run
	seed   uint64
	part   string
	random *rand.Rand
	trace  hash.Hash
	events int
	recent []string
	told   io.Writer // every event too; nil: nobody

	faults    int
	without   []int
	nodes     int // 0: to be drawn
	bugs      bugs
	violation *Violation
}

type event struct {
	at    time.Duration
	order uint64
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}

func newWorld(seed uint64, part string, o Options) *world {
	w := &world{seed: seed, part: part, trace: sha256.New(), told: o.Events, without: o.Without, nodes: o.Nodes, bugs: o.bugs}
	w.random = w.stream("part")
	return w
}

// stream returns randomness of its own, from the seed, the part and a name.
func (w *world) stream(name string) *rand.Rand {
	sum := sha256.Sum256(fmt.Appendf(nil, "phantommesh decide %d %s %s", w.seed, w.part, name))
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])))
}

// play runs a part to its end, or to its first violation. A panic of the code under test is one.
func (w *world) play(run func(*world)) {
	defer func() {
		switch r := recover(); r := r.(type) {
		case nil:
		case stopped:
		case mistake:
			panic(fmt.Sprintf("decide: the model is wrong: seed %d, part %s, at %s: %s", w.seed, w.part, w.now, r))
		default:
			stack := debug.Stack()
			func() {
				defer func() { _ = recover() }()
				w.fail("no panic", "%v", r)
			}()
			w.violation.What += "\n" + string(stack)
		}
	}()
	run(w)
}

type (
	stopped struct{} // unwinds to play after a violation
	mistake string   // is one of this package's own
)

// after schedules an event.
func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, event{w.now + d, w.order, do})
}

// until runs events up to a moment, which becomes now.
func (w *world) until(end time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= end {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	w.now = end
}

// fault schedules one fault with randomness of its own. Faults are numbered in the order in which they are scheduled.
func (w *world) fault(at time.Duration, do func(*rand.Rand)) {
	n := w.faults
	w.faults++
	if slices.Contains(w.without, n) {
		return
	}
	r := w.stream(fmt.Sprint("fault ", n))
	w.after(at-w.now, func() {
		w.note("fault %d", n)
		do(r)
	})
}

// note writes an event into the trace.
func (w *world) note(format string, args ...any) {
	line := fmt.Appendf(nil, "%12s  ", w.now)
	line = fmt.Appendf(line, format, args...)
	line = append(line, '\n')
	w.trace.Write(line)
	if w.told != nil {
		_, _ = w.told.Write(line)
	}
	if len(w.recent) == recentMax {
		w.recent = slices.Delete(w.recent, 0, recentMax/2)
	}
	w.recent = append(w.recent, string(line[:len(line)-1]))
	if w.events++; w.events == eventsMax {
		w.fail("bounded", "%d events, and no end", eventsMax)
	}
}

// fail ends the run with a violation.
func (w *world) fail(rule, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	w.violation = &Violation{Seed: w.seed, Part: w.part, Rule: rule, At: w.now, What: what, Last: slices.Clone(w.recent)}
	w.note("violation of %q: %s", rule, what)
	panic(stopped{})
}

// must stops at our own mistakes: what it is called with cannot fail in a world that is made right.
func must[T any](x T, err error) T {
	if err != nil {
		panic(mistake(err.Error()))
	}
	return x
}

func chance(r *rand.Rand, p float64) bool { return r.Float64() < p }

// between draws from [from, to), evenly.
func between(r *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(r.Int64N(int64(to-from)))
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

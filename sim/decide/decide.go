package decide

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options says what to run. The zero value runs every part.
type Options struct {
	Parts []string // names of Parts; empty: all
	Nodes int      // machines of the part group, up to NodesMax; 0: drawn from the seed
	// Without leaves out faults, by number: what is left of a run after shrinking. Only with one part.
	Without []int

	Events io.Writer // gets every event as a line; nil: nobody does

	bugs bugs // planted by tests: the checkers must find them
}

// Result is what became of a run.
type Result struct {
	Seed      uint64
	Hash      string // SHA-256 over every event of every part, hexadecimal
	Events    int
	Virtual   time.Duration
	Faults    int // that were scheduled
	Violation *Violation
}

// Violation is a promise that was broken.
type Violation struct {
	Seed   uint64        `json:"seed"`
	Part   string        `json:"part"`
	Rule   string        `json:"checker"`
	At     time.Duration `json:"at_ns"` // virtual, since the run began
	What   string        `json:"text"`
	Last   []string      `json:"before"` // events, the oldest first
	Replay string        `json:"replay"` // the command that shows it again
}

// Error tells everything that a person needs to look into it.
func (v *Violation) Error() string {
	return fmt.Sprintf("%s: %s, at %s: %s\n  %s\nreplay: %s", v.Part, v.Rule, v.At, v.What, strings.Join(v.Last, "\n  "), v.Replay)
}

// part is one area of decisions with the world around it.
type part struct {
	name string
	run  func(*world)
}

var parts = []part{
	{"group", runGroup},
}

// Parts names the areas of decisions, in the order in which they run.
func Parts() []string {
	var out []string
	for _, p := range parts {
		out = append(out, p.name)
	}
	return out
}

// Check tells what is wrong with options; nil if nothing is.
func (o Options) Check() error {
	for _, name := range o.Parts {
		if !slices.Contains(Parts(), name) {
			return fmt.Errorf("no part %q; there are %s", name, strings.Join(Parts(), ", "))
		}
	}
	if o.Nodes < 0 || o.Nodes > NodesMax {
		return fmt.Errorf("%d machines; 1 to %d", o.Nodes, NodesMax)
	}
	if len(o.Without) > 0 && len(o.Parts) != 1 {
		return fmt.Errorf("faults are numbered by part: to leave some out, name one part (%s)", strings.Join(Parts(), ", "))
	}
	return nil
}

// Run runs one seed. It panics if the options do not check.
func Run(seed uint64, o Options) Result {
	if err := o.Check(); err != nil {
		panic("decide: " + err.Error())
	}
	out, all := Result{Seed: seed}, sha256.New()
	for _, p := range parts {
		if len(o.Parts) > 0 && !slices.Contains(o.Parts, p.name) {
			continue
		}
		w := newWorld(seed, p.name, o)
		w.play(p.run)
		out.Events, out.Virtual, out.Faults = out.Events+w.events, out.Virtual+w.now, out.Faults+w.faults
		all.Write(w.trace.Sum(nil))
		if w.violation != nil {
			w.violation.Replay = replay(seed, p.name, o)
			out.Violation = w.violation
			break
		}
	}
	out.Hash = hex.EncodeToString(all.Sum(nil))
	return out
}

// replay is the command that repeats one part of a run.
func replay(seed uint64, part string, o Options) string {
	s := fmt.Sprintf("phantom sim run decide --seed %d --part %s", seed, part)
	if o.Nodes > 0 {
		s += fmt.Sprintf(" --nodes %d", o.Nodes)
	}
	for i, n := range o.Without {
		s += [2]string{" --without ", ","}[min(i, 1)] + strconv.Itoa(n)
	}
	return s
}

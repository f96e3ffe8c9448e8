package sim

import (
	"strconv"
	"strings"
	"time"
)

const (
	// eventsShown is how many events before a violation are told with it.
	eventsShown = 12
	// violationsMax ends a run: what follows is rarely news.
	violationsMax = 20
)

// Result is what came of a run.
type Result struct {
	Scenario       string             `json:"scenario"`
	Proves         string             `json:"proves"`
	Seed           uint64             `json:"seed"`
	Passed         bool               `json:"passed"`
	Violations     []Violation        `json:"violations"`
	VirtualSeconds float64            `json:"virtual_s"`
	WallSeconds    float64            `json:"wall_s"`
	Nodes          int                `json:"nodes"`
	Figures        map[string]float64 `json:"figures"`
	Expectations   []Expectation      `json:"expectations"`
	// Replay is the command that runs it again: of an exact run exactly, of another one much like it.
	Replay string `json:"replay"`
	// Trace is the SHA-256 over every packet in its order, with its time and addresses, in hexadecimal; of exact runs only.
	Trace string `json:"trace,omitempty"`

	Events    []Event    `json:"-"` // all that are kept
	Recording *Recording `json:"-"`
}

// Violation is a promise that was broken.
type Violation struct {
	Checker string        `json:"checker"`
	At      time.Duration `json:"at_ns"` // of the world
	Text    string        `json:"text"`
	Before  []Event       `json:"before"` // the last events before it, oldest first
}

// When is the time in the form in which events have it.
func (v Violation) When() string { return clock(v.At) }

// findings are the violations so far.
type findings struct {
	list []Violation
	seen map[string]bool
}

func (f *findings) add(p *play, checker, text string) {
	if key := checker + ": " + text; !f.seen[key] && !f.full() {
		if f.seen == nil {
			f.seen = map[string]bool{}
		}
		f.seen[key] = true
		f.list = append(f.list, Violation{Checker: checker, At: p.world.Now(), Text: text, Before: p.world.Events(eventsShown)})
		p.world.Record("", "violation", "%s", key)
	}
}

func (f *findings) full() bool { return len(f.list) >= violationsMax }

// result sums up.
func (p *play) result() *Result {
	r := p.sum()
	p.compare(r)
	return r
}

func (p *play) sum() *Result {
	packets, bytes := p.world.Wire()
	virtual := p.world.Now()
	r := &Result{
		Scenario: p.scenario.Name, Proves: p.scenario.Proves, Seed: p.world.Seed(), Violations: []Violation{}, VirtualSeconds: virtual.Seconds(),
		Nodes: len(p.world.hosts), Figures: map[string]float64{}, Expectations: []Expectation{},
		Trace: p.world.wire.sum(),
	}
	p.load.figures(r.Figures)
	p.measures.figures(virtual, r.Figures)
	p.growth.figures(r.Figures)
	r.Figures["formed_s"] = p.formed.Seconds()
	r.Figures["settled_s"] = p.load.settled.Seconds()
	r.Figures["packets"] = float64(packets)
	if n := float64(r.Nodes) * virtual.Hours(); n > 0 {
		r.Figures["bytes_per_node_hour"] = float64(bytes) / n
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Figures["decisions"], r.Figures["decisions_refused"] = float64(len(p.decisions)), float64(p.refused)
	return r
}

// compare holds the figures against what the scenario expects.
func (p *play) compare(r *Result) {
	for _, e := range p.scenario.expectations(r.Figures) {
		r.Expectations = append(r.Expectations, e)
		if !e.Met {
			p.findings.add(p, e.Name, e.String())
		}
	}
	r.Violations = append(r.Violations, p.findings.list...)
	r.Events, r.Recording = p.world.Events(-1), p.recording()
}

// judge says whether all went well.
func (r *Result) judge() {
	r.Passed = len(r.Violations) == 0
	if r.WallSeconds > 0 {
		r.Figures["node_hours_per_wall_s"] = float64(r.Nodes) * r.VirtualSeconds / 3600 / r.WallSeconds
	}
}

// ReplayCommand is the command line for a run of a scenario; nodes and run are what was asked for beside the scenario's own, zero for nothing.
func ReplayCommand(scenario string, seed uint64, nodes int, run time.Duration, exact bool) string {
	words := []string{"phantom sim run", quoted(scenario), "--seed", strconv.FormatUint(seed, 10)}
	if nodes > 0 {
		words = append(words, "--nodes", strconv.Itoa(nodes))
	}
	if run > 0 {
		words = append(words, "--for", run.String())
	}
	if exact {
		words = append(words, "--replay")
	}
	return strings.Join(words, " ")
}

// FigureText shows a figure to people: whole and in groups of three digits where it is large, else with four digits that count.
func FigureText(v float64) string {
	const wholeFrom = 10_000
	if v > -wholeFrom && v < wholeFrom {
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	sign, digits := digits[:len(digits)-len(strings.TrimPrefix(digits, "-"))], strings.TrimPrefix(digits, "-")
	first := (len(digits)-1)%3 + 1
	out := sign + digits[:first]
	for i := first; i < len(digits); i += 3 {
		out += "," + digits[i:i+3]
	}
	return out
}

// quoted makes a word of a shell out of a file's name.
func quoted(s string) string {
	if strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./", r)
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

package sim

import (
	"slices"
	"time"
)

// Bounds of what a scenario may ask for.
const (
	NodesMax    = 2000
	RegionsMax  = 64
	StepsMax    = 1000
	TextMax     = 256 << 10 // bytes of a scenario's file
	virtualMax  = 31 * 24 * time.Hour
	delayMax    = 10 * time.Second // one way
	settleMax   = time.Hour
	loadMin     = 10 * time.Millisecond
	repeatsMax  = 10_000
	settleUsual = 60 * time.Second
	usersMax    = 100_000
	thinkMin    = 10 * time.Millisecond
)

// Ways into the mesh.
const (
	JoinInvitation = "invitation"
	JoinLAN        = "lan" // found by beacons, approved by the code that both sides show
)

// Scenario is a network, what happens to it, and what must be true of the mesh on it all the while.
type Scenario struct {
	Name   string
	Proves string // one sentence
	For    time.Duration
	Timing string // the nodes' --timing: lan or wan
	Join   string // how machines come into the mesh: JoinInvitation or JoinLAN
	Formed bool   // the machines of the beginning have been members for long, and are all started at once

	Regions  []Region
	Links    []Link
	Timeline []Step
	Load     Load
	Expect   Expect

	text     []byte // that it was read from
	file     string // for messages and for the command that repeats a run
	loadLine int
}

// Region is a place with machines in it, named n1, n2 and so on through all regions.
type Region struct {
	Name  string
	Nodes int
	// Within is the way between two of its machines.
	Within Quality
	Access
	// NAT is the kind of router they are behind: none, open, easy, hard, or blocked: nothing but TCP gets out. LAN: all behind the same one; otherwise each has its own.
	NAT string
	LAN bool
	// Skew is how far its machines' clocks may be off, each by another time, drawn by the seed.
	Skew time.Duration
}

// Link is the way between two regions.
type Link struct {
	Between [2]string
	Quality
}

// Step is something that is done to the network or the mesh.
type Step struct {
	At    time.Duration // after the mesh has formed
	Fault Fault
	Who   Selector
	// Lasts is how long until it is undone; 0: until the faults end, or for what cannot be undone.
	Lasts time.Duration
	// Gap: one machine after the other, so far apart.
	Gap time.Duration
	// Every repeats the step until the scenario's end.
	Every time.Duration

	line int
}

// Load is traffic through the mesh.
type Load struct {
	// Every machine pings another, drawn by the seed, this often; 0: no load.
	Every   time.Duration
	Timeout time.Duration // for each ping and request
	Users   Users
}

// Users are virtual people who make requests through the tunnels.
type Users struct {
	// From and To are how many there are: From at the beginning, To after Over.
	From, To int
	Over     time.Duration
	// Think is the mean pause of one of them between two requests.
	Think time.Duration
	// Request and Response are the sizes in bytes.
	Request, Response int
	// At are the machines where they sit, Ask those they ask; none: all.
	At, Ask Selector
}

// Expect is what must come true.
type Expect struct {
	// Settle bounds how long after the last fault the mesh may take until everybody reaches everybody.
	Settle time.Duration
	// Answered is the least share of the load's pings that must be answered, 0 to 1.
	Answered float64
	// Checks are the names of the checkers; none: all.
	Checks []string
	// Limits bound figures of the run, by the names of limitKinds, in the figures' own units.
	Limits map[string]float64
}

// Text is the scenario as a file.
func (s *Scenario) Text() []byte { return s.text }

// Nodes is how many machines there are at the beginning.
func (s *Scenario) Nodes() int {
	n := 0
	for _, r := range s.Regions {
		n += r.Nodes
	}
	return n
}

// Resize spreads n machines over the regions in proportion to what they have. Every region keeps one at least.
func (s *Scenario) Resize(n int) error {
	if n < max(len(s.Regions), 1) || n > NodesMax {
		return &Error{File: s.file, Why: spell("%d nodes: this scenario needs %d to %d", n, max(len(s.Regions), 1), NodesMax)}
	}
	total, given := s.Nodes(), 0
	seen := 0
	for i := range s.Regions {
		r := &s.Regions[i]
		seen += r.Nodes
		left := len(s.Regions) - 1 - i
		r.Nodes = min(max(seen*n/total-given, 1), n-given-left)
		given += r.Nodes
	}
	return s.checkSteps()
}

// Shorten, or lengthen, gives the scenario another length. Steps that would begin or end later are left out.
func (s *Scenario) Shorten(to time.Duration) error {
	if to < time.Second || to > virtualMax {
		return &Error{File: s.file, Why: spell("%s of virtual time: %s to %s are possible", to, time.Second, virtualMax)}
	}
	s.For = to
	s.Timeline = slices.DeleteFunc(slices.Clone(s.Timeline), func(step Step) bool { return step.At+step.Lasts > to })
	return nil
}

// checkSteps looks whether all machines and regions that the timeline and the load name are there.
func (s *Scenario) checkSteps() error {
	for _, sel := range []Selector{s.Load.Users.At, s.Load.Users.Ask} {
		if err := sel.check(s); err != nil {
			return &Error{File: s.file, Line: s.loadLine, Why: err.Error()}
		}
	}
	for _, step := range s.Timeline {
		for _, sel := range append([]Selector{step.Who}, sidesOf(step.Fault)...) {
			if err := sel.check(s); err != nil {
				return &Error{File: s.file, Line: step.line, Why: err.Error()}
			}
		}
	}
	return nil
}

func sidesOf(f Fault) []Selector {
	if p, ok := f.(*partition); ok {
		return p.sides
	}
	return nil
}

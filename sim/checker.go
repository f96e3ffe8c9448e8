package sim

import (
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/internal/held"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/peer"
)

// Checker holds a mesh to one promise. It sees what a user could see, and which machines there are and which of them
// are gone bad, never what is done to the mesh.
type Checker interface {
	// Name is one word with hyphens; Promise one sentence.
	Name() string
	Promise() string
	// Safe is asked all the while, faults or none: what it returns has happened and should never have. It may remember earlier views.
	Safe(*View) []string
	// Live is asked after the faults have ended, again and again: what it returns must become nothing within the scenario's bound.
	Live(*View) []string
}

// checkerKinds make the checkers of one run.
var checkerKinds = []func() Checker{
	func() Checker { return new(plaintext) },
	func() Checker { return new(postQuantum) },
	func() Checker { return newLeases() },
	func() Checker { return newOneLeader() },
	func() Checker { return new(acknowledged) },
	func() Checker { return newAuditChain() },
	func() Checker { return new(cutOff) },
	func() Checker { return newReachable() },
	func() Checker { return new(bounded) },
	func() Checker { return newTruthful() },
	func() Checker { return newUnburied() },
	func() Checker { return new(steady) },
}

// CheckerNames are the names that a scenario's expect.checks may have.
func CheckerNames() []string {
	var out []string
	for _, make := range checkerKinds {
		out = append(out, make().Name())
	}
	return out
}

// checkers makes those of the names; none: all.
func checkers(names []string) []Checker {
	var out []Checker
	for _, make := range checkerKinds {
		if c := make(); len(names) == 0 || slices.Contains(names, c.Name()) {
			out = append(out, c)
		}
	}
	return out
}

// View is what can be seen of a mesh at one moment.
type View struct {
	At    time.Duration
	Nodes []NodeView // those that run
	// Silent are the machines whose node does not run or says nothing, but for those that were turned away. Before the faults have ended
	// that may be one of them.
	Silent []string
	// Wire counts packets between machines; Plain those of them in which bytes of the inside of tunnels were seen.
	Wire, Plain int64
	// Decisions are what the mesh has said it decided, oldest first.
	Decisions []Decision
	// Audit is the log of decisions and what the coordinators' copies say of it; nil: it was not asked for, or nobody could tell.
	Audit *localapi.Audit
	// Machines are the IDs of the machines that there are; Bad those that are gone bad, or were: what they say of themselves is no evidence.
	Machines []string
	Bad      map[string]bool
	// Calm is for how long nothing was done to the network or the machines, but by members gone bad.
	Calm time.Duration
	// Lost are pairs of honest machines that did not reach each other although all was calm.
	Lost [][2]string
	// Routines are the goroutines of all nodes.
	Routines int
	// Probe pings one machine from another through the mesh; nil where nobody may wait. Probes may go on side by side.
	Probe func(from, to string) error
}

// NodeView is what one node says.
type NodeView struct {
	Host    string
	Status  *localapi.Status
	Members []localapi.Member // nil: it could not tell
	// Held are its queues and tables; Records what it holds that members said of themselves, by ID, its own included.
	Held    []held.Use
	Records map[string]peer.Record
}

// Kinds of decisions.
const (
	Joined    = "joined"
	Revoked   = "revoked"
	PolicySet = "policy"
)

// Decision is one that the mesh has acknowledged to whoever asked.
type Decision struct {
	At      time.Duration
	Kind    string
	ID      string // of the node that it is about
	Name    string // of its machine
	Version uint64 // of a policy
}

// revoked are the nodes that the mesh has acknowledged to have turned away, and when.
func (v *View) revoked() map[string]time.Duration {
	out := map[string]time.Duration{}
	for _, d := range v.Decisions {
		if d.Kind == Revoked {
			out[d.ID] = d.At
		}
	}
	return out
}

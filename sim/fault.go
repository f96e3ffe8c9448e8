package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// Fault is something that a timeline does: to the network, to machines, or, by a decision, to the mesh. It knows nothing of checkers.
type Fault interface {
	// Kind is its key in a scenario's file.
	Kind() string
	// begin does it to the machines that were picked; end undoes it. What takes time goes on beside.
	begin(p *play, who []*Host)
	end(p *play, who []*Host)
}

// faultKind is how a fault is written.
type faultKind struct {
	parse  func(*yaml.Node) (Fault, Selector, error)
	undone bool // it can be
}

// faultKinds has all of them by their key. It is a function's result because the faults' own code refers to the parser.
var faultKinds map[string]faultKind

func init() {
	faultKinds = map[string]faultKind{
		"kill":      {onHosts(func() Fault { return kill{} }), true},
		"stop":      {onHosts(func() Fault { return stop{} }), true},
		"restart":   {onHosts(func() Fault { return restart{} }), false},
		"start":     {onHosts(func() Fault { return start{} }), false},
		"backup":    {onHosts(func() Fault { return backUp{} }), false},
		"restore":   {onHosts(func() Fault { return restore{} }), false},
		"clock":     {parseClock, true},
		"disk":      {parseDisk, true},
		"power":     {onHosts(func() Fault { return powerCut{} }), true},
		"cut":       {onHosts(func() Fault { return &cut{} }), true},
		"move":      {onHosts(func() Fault { return move{} }), false},
		"reboot":    {onHosts(func() Fault { return rebootNAT{} }), false},
		"revoke":    {onHosts(func() Fault { return revoke{} }), false},
		"partition": {parsePartition, true},
		"heal":      {parseHeal, false},
		"degrade":   {parseDegrade, true},
		"join":      {parseJoin, false},
		"policy":    {parsePolicy, false},
		"attack":    {parseAttack, true},
		"traitor":   {parseTraitor, true},
		"pause":     {onHosts(func() Fault { return paused{} }), true},
		"block-udp": {onHosts(func() Fault { return blockUDP{} }), true},
		"renumber":  {onHosts(func() Fault { return renumber{} }), false},
	}
}

func faultNames() []string {
	var out []string
	for k := range faultKinds {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// onHosts parses a fault whose value is a selector.
func onHosts(make func() Fault) func(*yaml.Node) (Fault, Selector, error) {
	return func(n *yaml.Node) (Fault, Selector, error) {
		w, err := words(n)
		if err != nil {
			return nil, Selector{}, err
		}
		who, err := parseSelector(w)
		return make(), who, err
	}
}

// lasting is for faults that end cannot undo.
type lasting struct{}

func (lasting) end(*play, []*Host) {}

// kill ends nodes as SIGKILL does; the end starts them again on what was on their disks.
type kill struct{}

func (kill) Kind() string { return "kill" }
func (kill) begin(p *play, who []*Host) {
	for _, h := range who {
		p.failed(h.Kill())
	}
}
func (kill) end(p *play, who []*Host) { startAll(p, who) }

// stop ends nodes in good order; the end starts them again.
type stop struct{}

func (stop) Kind() string { return "stop" }
func (stop) begin(_ *play, who []*Host) {
	for _, h := range who {
		h.Stop()
	}
}
func (stop) end(p *play, who []*Host) { startAll(p, who) }

type start struct{ lasting }

func (start) Kind() string               { return "start" }
func (start) begin(p *play, who []*Host) { startAll(p, who) }

// restart stops nodes in good order and starts them as soon as they have ended, as a service manager does with a new version.
type restart struct{ lasting }

func (restart) Kind() string { return "restart" }
func (restart) begin(p *play, who []*Host) {
	for _, h := range who {
		h.Stop()
	}
	startAll(p, who)
}

// startAgain is how soon a node whose predecessor is still ending is tried again.
const startAgain = 200 * time.Millisecond

// startAll starts the nodes that are not running. One that was turned away by the mesh stays down.
func startAll(p *play, who []*Host) {
	for _, h := range who {
		if h.outcast.Load() {
			continue
		}
		switch err := h.Start(); {
		case err == nil:
		case errors.Is(err, ErrRunning):
			if h.stopping() {
				p.after(startAgain, func() { startAll(p, []*Host{h}) })
			}
		default:
			p.failed(err)
		}
	}
}

// cut pulls the network cable of machines.
type cut struct{}

func (*cut) Kind() string               { return "cut" }
func (*cut) begin(p *play, who []*Host) { p.setCut(who, true) }
func (*cut) end(p *play, who []*Host)   { p.setCut(who, false) }

// move gives machines other addresses.
type move struct{ lasting }

func (move) Kind() string { return "move" }
func (move) begin(p *play, who []*Host) {
	for _, h := range who {
		h.Move(p.freshAddr(h))
	}
}

// rebootNAT makes the routers of machines forget their mappings.
type rebootNAT struct{ lasting }

func (rebootNAT) Kind() string { return "reboot" }
func (rebootNAT) begin(_ *play, who []*Host) {
	for _, h := range who {
		if h.at.Behind != nil {
			h.at.Behind.Reboot()
		}
	}
}

// revoke has a member of the mesh revoke machines.
type revoke struct{ lasting }

func (revoke) Kind() string { return "revoke" }
func (revoke) begin(p *play, who []*Host) {
	for _, h := range who {
		p.decide("revoke "+h.name, h, func(ctx context.Context, by *Host) error {
			_, err := by.Node().Revoke(ctx, localapi.RevokeRequest{Node: h.ID(), Reason: "the scenario says so"})
			if err == nil {
				p.noteRevoked(h)
			}
			return err
		})
	}
}

// partition splits the network.
type partition struct{ sides []Selector }

func (*partition) Kind() string { return "partition" }
func (f *partition) begin(p *play, _ []*Host) {
	var sides [][]*Host
	var taken []*Host
	for _, s := range f.sides {
		if slices.Contains(s.words, wordOthers) {
			sides = append(sides, nil)
			continue
		}
		side := filter(s.pick(p), func(h *Host) bool { return !slices.Contains(taken, h) })
		taken = append(taken, side...)
		sides = append(sides, side)
	}
	for i, s := range f.sides {
		if slices.Contains(s.words, wordOthers) {
			sides[i] = filter(p.world.hosts, func(h *Host) bool { return !slices.Contains(taken, h) })
			taken = append(taken, sides[i]...)
		}
	}
	p.world.Split(sides...)
	p.world.Record("", "partition", "%s", describeSides(sides))
}
func (f *partition) end(p *play, _ []*Host) { p.world.Split() }

func describeSides(sides [][]*Host) string {
	var out []string
	for _, s := range sides {
		out = append(out, namesOf(s))
	}
	return strings.Join(out, " | ")
}

func namesOf(hosts []*Host) string {
	var out []string
	for _, h := range hosts {
		out = append(out, h.name)
	}
	return strings.Join(out, " ")
}

func parsePartition(n *yaml.Node) (Fault, Selector, error) {
	f := &partition{}
	err := list(RegionsMax, func(n *yaml.Node) error {
		w, err := words(n)
		if err != nil {
			return wrong(n.Line, "partition: %v", err)
		}
		s, err := parseSelector(w)
		f.sides = append(f.sides, s)
		return err
	})(n)
	if err == nil && len(f.sides) < 2 {
		err = errors.New("takes two sides or more: [[n1, n2], others]")
	}
	return f, Selector{}, err
}

// heal ends all faults of the network at once.
type heal struct{ lasting }

func (heal) Kind() string             { return "heal" }
func (heal) begin(p *play, _ []*Host) { p.healNetwork() }

func parseHeal(n *yaml.Node) (Fault, Selector, error) {
	w, err := scalar(n)
	if err == nil && w != "network" {
		err = fmt.Errorf("%q: write heal: network", short(w))
	}
	return heal{}, Selector{}, err
}

// degrade makes links worse.
type degrade struct {
	by     Quality
	access Access
}

func (*degrade) Kind() string { return "degrade" }
func (f *degrade) set(p *play, who []*Host, q Quality, a Access) {
	if len(who) == 0 {
		p.world.Degrade("", q)
		who = p.world.hosts
	} else if f.by != (Quality{}) {
		for _, h := range who {
			p.world.Degrade(h.name, q)
		}
	}
	for _, h := range who {
		if f.access != (Access{}) {
			h.connect(a)
		}
	}
}
func (f *degrade) begin(p *play, who []*Host) { f.set(p, who, f.by, f.access) }
func (f *degrade) end(p *play, who []*Host)   { f.set(p, who, Quality{}, Access{}) }

func parseDegrade(n *yaml.Node) (Fault, Selector, error) {
	f := &degrade{}
	var who Selector
	err := each(n, accessKeys(&f.access, qualityKeys(&f.by, map[string]func(*yaml.Node) error{
		"who": func(n *yaml.Node) error {
			w, err := words(n)
			if err == nil {
				who, err = parseSelector(w)
			}
			return err
		},
	})))
	if err == nil && f.by == (Quality{}) && f.access == (Access{}) {
		err = errNoAccess
	}
	return f, who, err
}

// join brings new machines into the mesh.
type join struct {
	lasting
	nodes  int
	region string
	over   time.Duration
}

func (*join) Kind() string { return "join" }
func (f *join) begin(p *play, _ []*Host) {
	for i := range f.nodes {
		p.after(f.over*time.Duration(i)/time.Duration(f.nodes), func() { p.failed(p.admit(p.newHost(f.region))) })
	}
}

func parseJoin(n *yaml.Node) (Fault, Selector, error) {
	f := &join{}
	err := each(n, map[string]func(*yaml.Node) error{
		"nodes": number(&f.nodes, 1, NodesMax), "region": label(&f.region), "over": duration(&f.over, 0, virtualMax),
	}, "nodes", "region")
	return f, Selector{}, err
}

// setPolicy has a member set the mesh's packet filter policy.
type setPolicy struct {
	lasting
	text string
}

func (*setPolicy) Kind() string { return "policy" }
func (f *setPolicy) begin(p *play, _ []*Host) {
	p.decide("set a policy", nil, func(ctx context.Context, by *Host) error {
		v, err := by.Node().SetPolicy(ctx, localapi.PolicyRequest{Text: f.text})
		if err == nil {
			p.notePolicy(v.Version)
		}
		return err
	})
}

func parsePolicy(n *yaml.Node) (Fault, Selector, error) {
	text, err := scalar(n)
	return &setPolicy{text: text}, Selector{}, err
}

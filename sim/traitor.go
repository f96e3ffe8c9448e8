package sim

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/node"
)

// Kinds of members gone bad. Each runs the real node beside what it does, with its keys, its certificate and its connections: what it sends
// is authentic.
const (
	traitorLiar      = "liar"      // says of itself and of others what is not so
	traitorFlooder   = "flooder"   // asks, opens and spreads as much as it can
	traitorReplayer  = "replayer"  // says again what it or others said before
	traitorForger    = "forger"    // speaks in others' names
	traitorBlackhole = "blackhole" // swallows what it carries for others, and answers nothing
)

var traitorKinds = []string{traitorLiar, traitorFlooder, traitorReplayer, traitorForger, traitorBlackhole}

const (
	// traitorRateMax is in acts a second; an act is a packet or two, or a stream.
	traitorRateMax = 2000
	// traitorSlots is how many acts of one member may be under way. A flooder holds its streams for as long as it is let.
	traitorSlots = 200
	// actMax bounds one act.
	actMax = 20 * time.Second
)

// act is one thing that a member gone bad does.
type act struct {
	name string
	do   func(t *turncoat, ctx context.Context, r *rand.Rand) error
}

// traitorActs are what each kind does, in turn as the seed has it. What it answers others is in traitor_answer.go.
var traitorActs = map[string][]act{
	traitorLiar: {
		{"false-record", (*turncoat).falseRecord}, {"accuse", (*turncoat).accuse}, {"accuse", (*turncoat).accuse}, {"false-version", (*turncoat).falseVersion},
		{"false-value", (*turncoat).falseValue}, {"false-candidates", (*turncoat).falseCandidates}, {"false-order", (*turncoat).falseOrder},
		{"false-list", (*turncoat).falseList}, {"false-place", (*turncoat).falsePlace},
	},
	traitorFlooder: {
		{"gossip", (*turncoat).floodGossip}, {"gossip", (*turncoat).floodGossip}, {"rumour", (*turncoat).floodRumours}, {"hold", (*turncoat).holdStream},
		{"garbage", (*turncoat).garbage}, {"decide", (*turncoat).floodDecisions}, {"relay", (*turncoat).floodRelay}, {"dht", (*turncoat).floodTable},
		{"list", (*turncoat).floodList}, {"pending", (*turncoat).floodPending},
	},
	traitorReplayer: {
		{"packet", (*turncoat).replayPacket}, {"packet", (*turncoat).replayPacket}, {"resealed", (*turncoat).replayResealed}, {"record", (*turncoat).replayRecord},
		{"rumour", (*turncoat).replayRumour}, {"order", (*turncoat).replayOrder}, {"value", (*turncoat).replayValue},
	},
	traitorForger: {
		{"record", (*turncoat).forgeRecord}, {"rumour", (*turncoat).forgeRumour}, {"value", (*turncoat).forgeValue}, {"order", (*turncoat).forgeOrder},
		{"request", (*turncoat).forgeRequest}, {"version", (*turncoat).falseVersion},
	},
	traitorBlackhole: {{"survey", (*turncoat).survey}},
}

// traitor has members of the mesh go bad.
type traitor struct {
	kind string
	rate int // acts a second

	mu  sync.Mutex
	off map[*Host]context.CancelFunc // those that act now
}

func (*traitor) Kind() string { return "traitor" }

func (f *traitor) begin(p *play, who []*Host) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range who {
		if f.off[h] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(p.world.life)
		f.off[h] = cancel
		t := newTurncoat(p.world, h, f.kind)
		p.world.Record(h.name, "traitor", "goes bad: %s", f.kind)
		p.world.Go(func(context.Context) { t.run(ctx, f.rate) })
	}
}

// end has machines behave again; nil: all.
func (f *traitor) end(_ *play, who []*Host) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for h, cancel := range f.off {
		if who == nil || slices.Contains(who, h) {
			cancel()
			delete(f.off, h)
		}
	}
}

func parseTraitor(n *yaml.Node) (Fault, Selector, error) {
	f := &traitor{rate: 20, off: map[*Host]context.CancelFunc{}}
	var who Selector
	err := each(n, map[string]func(*yaml.Node) error{
		"kind": oneOf(&f.kind, traitorKinds...), "rate": number(&f.rate, 1, traitorRateMax), "who": selector(&who),
	}, "kind", "who")
	return f, who, err
}

// turncoat is one member gone bad, at work.
type turncoat struct {
	world *World
	host  *Host
	kind  string
	id    identity.NodeID
	slots chan struct{}

	mu     sync.Mutex
	memory memory
	did    map[string]int // acts, by name
	failed int
}

func newTurncoat(w *World, h *Host, kind string) *turncoat {
	return &turncoat{world: w, host: h, kind: kind, id: h.id, slots: make(chan struct{}, traitorSlots), memory: newMemory(), did: map[string]int{}}
}

// run acts until ctx ends. What it has begun by then ends within actMax.
func (t *turncoat) run(ctx context.Context, rate int) {
	t.host.bad.Store(true)
	t.host.traitors.Add(1)
	defer t.host.traitors.Add(-1)
	t.world.wire.overheard.on.Add(1)
	defer t.world.wire.overheard.on.Add(-1)
	defer t.answer()()
	if t.kind == traitorBlackhole {
		t.world.links.swallow(t.host.name, +1)
		defer t.world.links.swallow(t.host.name, -1)
	}
	r := rand.New(rand.NewPCG(t.world.Seed(), 6+nameHash(t.host.name)))
	var under sync.WaitGroup
	for ctx.Err() == nil {
		a := traitorActs[t.kind][r.IntN(len(traitorActs[t.kind]))]
		draw := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
		select {
		case t.slots <- struct{}{}:
			under.Go(func() {
				defer func() { <-t.slots }()
				t.act(ctx, a, draw)
			})
		default: // all hands busy
		}
		pause(ctx, time.Second/time.Duration(rate))
	}
	under.Wait()
	t.world.Record(t.host.name, "traitor", "no longer %s: %s", t.kind, t.tally())
}

func (t *turncoat) act(ctx context.Context, a act, r *rand.Rand) {
	ctx, cancel := context.WithTimeout(ctx, actMax)
	defer cancel()
	err := a.do(t, ctx, r)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.did[a.name]++
	if err != nil {
		t.failed++
	}
}

// tally says how often it did what.
func (t *turncoat) tally() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(t.did)) {
		out = append(out, fmt.Sprintf("%s %d", name, t.did[name]))
	}
	return fmt.Sprintf("%s; turned away %d", strings.Join(out, ", "), t.failed)
}

// parts are those of the node that runs; false while there is none in a mesh, as after it was revoked.
func (t *turncoat) parts() (node.Parts, bool) {
	n := t.host.Node()
	if n == nil {
		return node.Parts{}, false
	}
	return n.Parts()
}

// victim draws another machine that has an identity.
func (t *turncoat) victim(r *rand.Rand) *Host {
	others := filter(t.world.Hosts(), func(h *Host) bool { return h != t.host && present(h) })
	if len(others) == 0 {
		return nil
	}
	return others[r.IntN(len(others))]
}

// two draws two victims, which may be the same one.
func (t *turncoat) two(r *rand.Rand) (a, b *Host, ok bool) {
	a, b = t.victim(r), t.victim(r)
	return a, b, a != nil && b != nil
}

package decide

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// The part "group": the deciders over the ledger, as the leader of a modelled Raft group runs them.
//
// The model: what a leader appends is in the log at once if it reaches a majority of the voters, else not at all; voters and staged
// servers have it a little later. Two ledgers apply the log, the leader's at once, the other's one when leadership moves, then they
// change places: they must be the same to the byte. A revoked node is heard by nobody who knows. A leader without a majority is
// replaced after an election by any voter that reaches one.

const (
	machinesMax = 12 // unless a number is asked for
	// NodesMax is how many machines can be asked for: the identities of a thousand take some seconds to make.
	NodesMax = 2000
	// day0 is what the clocks show when a run begins.
	day0 = 1_767_225_600 // 2026-01-01 00:00 UTC
)

// machine is a computer: a member, one that was, or one that may become one.
type machine struct {
	name   string
	key    *identity.Key
	id     identity.NodeID
	region string
	up     bool
	ruined bool // never comes up again
	poor   bool // behind a hard NAT
	poorAt time.Duration
	side   int // of a partition: reaches those of the same side
	skew   time.Duration
	have   uint64 // entries of the log it holds, as a voter or staged
	holds  uint64 // version of the state that it has pulled
}

// sight is what the leader believes about a machine, and since when.
type sight struct {
	alive bool
	since time.Duration
	seen  time.Duration // last time it was really there
}

type group struct {
	*world
	timing   coordinator.Timing
	machines []*machine // the first founded the mesh and holds its root key
	byID     map[identity.NodeID]*machine
	root     *identity.RootKey
	net      *rand.Rand // what the modelled network draws

	log      []coordinator.Command // entry i has index i+1; a zero Kind is a change of the configuration
	ledger   *coordinator.Ledger   // the leader's
	follower *coordinator.Ledger   // another voter's, behind
	followed int                   // entries it has applied

	voters, staged []identity.NodeID // sorted
	leader         *machine          // nil: none
	term           uint64
	lost           time.Duration // when the leader lost its majority; electing since then
	ticks          uint64        // generation of the scheduled tick: a newer one voids an older
	busy           time.Duration // last time something changed

	sights      map[identity.NodeID]*sight
	unwilling   map[identity.NodeID]time.Duration
	yielding    map[identity.NodeID]time.Duration
	watches     map[identity.NodeID]time.Duration // over coordinators of regions, since when
	elected     map[office]identity.NodeID        // by the ledger, ever
	keyring     uint64
	keyringSeen time.Duration

	tokens   []*token
	audited  coordinator.Audit // as of the last check
	broken   bool              // by a planted bug
	slept    time.Duration     // that everybody slept through (daysPass)
	asked    int               // deciders, so far
	quiet    int               // ticks in a row without a proposal
	deciders []coordinator.Decider
}

// office is a region in one term.
type office struct {
	region string
	term   uint64
}

// token is an invitation, and who has used it.
type token struct {
	id   string
	key  [32]byte
	uses uint32
}

// identities are those of all runs, the first ones always the same: making them costs more than a run.
var identities struct {
	mu     sync.Mutex
	source *rand.ChaCha8
	root   *identity.RootKey
	keys   []*identity.Key
}

func keys(n int) ([]*identity.Key, *identity.RootKey) {
	i := &identities
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.source == nil {
		i.source = rand.NewChaCha8([32]byte([]byte("phantommesh decide identities v1")))
		i.root = must(identity.GenerateRoot(i.source))
	}
	for len(i.keys) < n {
		i.keys = append(i.keys, must(identity.Generate(i.source)))
	}
	return i.keys[:n], i.root
}

var regions = []string{"home", "east", "west"}

func runGroup(w *world) {
	g := newGroup(w)
	g.found()
	end := between(w.random, 2*time.Minute, 10*time.Minute)
	g.schedule(end)
	g.tickIn(g.timing.Tick)
	g.until(end)
	g.heal()
	g.settle()
}

func newGroup(w *world) *group {
	g := &group{world: w, timing: coordinator.LAN(), byID: map[identity.NodeID]*machine{}, net: w.stream("network"),
		ledger: coordinator.NewLedger(), follower: coordinator.NewLedger(),
		unwilling: map[identity.NodeID]time.Duration{}, yielding: map[identity.NodeID]time.Duration{},
		watches: map[identity.NodeID]time.Duration{}, elected: map[office]identity.NodeID{}, deciders: slices.Clone(coordinator.Deciders)}
	if g.bugs.decider != nil {
		g.deciders = g.bugs.decider(g.deciders)
	}
	if chance(w.random, 0.3) {
		g.timing = coordinator.WAN()
	}
	n := 1 + w.random.IntN(machinesMax)
	if w.nodes > 0 {
		n = w.nodes
	}
	all, root := keys(max(n, machinesMax))
	g.root = root
	for i, k := range w.random.Perm(len(all))[:n] {
		m := &machine{name: fmt.Sprint("m", i), key: all[k], id: all[k].ID(), region: pick(w.random, regions), up: true, poor: chance(w.random, 0.2),
			skew: drawSkew(w.random)}
		g.machines = append(g.machines, m)
		g.byID[m.id] = m
	}
	w.note("%d machines, LAN timing %v", n, g.timing == coordinator.LAN())
	return g
}

// clockOffMax is how wrong a clock can be.
const clockOffMax = 30 * time.Hour

// drawSkew: most clocks are right to a second, some are minutes off, few are hours off.
func drawSkew(r *rand.Rand) time.Duration {
	limit := time.Second
	switch p := r.Float64(); {
	case p < 0.02:
		limit = clockOffMax
	case p < 0.15:
		limit = 12 * time.Minute
	}
	return between(r, -limit, limit).Truncate(time.Millisecond)
}

// clock is what a machine's clock shows.
func (g *group) clock(m *machine) time.Time {
	return time.Unix(day0, 0).UTC().Add(g.now + g.slept + m.skew)
}

func (g *group) author(m *machine) coordinator.Author {
	return coordinator.Author{Key: m.key, Now: g.clock(m), Rand: &reader{g.net}}
}

// reader gives a stream's randomness as bytes.
type reader struct{ r *rand.Rand }

func (r *reader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.r.Uint32())
	}
	return len(p), nil
}

// found makes the mesh, with the first machine as its only member and voter.
func (g *group) found() {
	m := g.machines[0]
	// Few addresses, so that they run out and are given a second time.
	prefix := pick(g.random, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/28"), netip.MustParsePrefix("10.86.0.0/16")})
	if len(g.machines) > machinesMax {
		prefix = netip.MustParsePrefix("10.86.0.0/16")
	}
	f := coordinator.Founding{MeshName: "lab", NodeName: m.name, Region: m.region, IPv4: prefix}
	command := must(g.author(m).Found(f, g.root))
	g.voters, g.leader, g.term = []identity.NodeID{m.id}, m, 1
	g.sights = map[identity.NodeID]*sight{}
	g.log = append(g.log, coordinator.Command{}) // Raft's first configuration
	if res, ok := g.append(command); !ok || res.Err() != nil {
		panic(mistake(fmt.Sprint("founding: ", res.Err())))
	}
}

func (g *group) name(id identity.NodeID) string {
	if m, ok := g.byID[id]; ok {
		return m.name
	}
	if id.IsZero() {
		return "-"
	}
	return "stranger"
}

func (g *group) names(ids []identity.NodeID) string {
	var out []string
	for _, id := range ids {
		out = append(out, g.name(id))
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

// members are the machines that the ledger calls active, in the order of machines.
func (g *group) members() []*machine {
	return slices.DeleteFunc(slices.Clone(g.machines), func(m *machine) bool { return !g.ledger.State().Active(m.id) })
}

// reaches tells whether two machines can talk now.
func (g *group) reaches(a, b *machine) bool { return a == b || a.up && b.up && a.side == b.side }

// observation is what the leader sees. What it has seen is counted in a time that goes on evenly, whatever is done to its clock on the wall.
func (g *group) observation() coordinator.Observation {
	at := func(t time.Duration) time.Time { return time.Unix(day0, 0).UTC().Add(t) }
	o := coordinator.Observation{Self: g.leader.id, Now: at(g.now), Wall: g.clock(g.leader), Timing: g.timing, Voters: slices.Clone(g.voters), Staged: slices.Clone(g.staged),
		Alive: map[identity.NodeID]time.Time{}, Gone: map[identity.NodeID]time.Time{}, CaughtUp: map[identity.NodeID]bool{},
		Poor: map[identity.NodeID]bool{}, PoorSince: map[identity.NodeID]time.Time{}, Unwilling: map[identity.NodeID]bool{}, Holds: map[identity.NodeID]uint64{},
		Silent: g.silent(), Yielding: map[identity.NodeID]bool{}, Offers: map[identity.NodeID]coordinator.Offer{}}
	for id, s := range g.sights {
		if s.alive {
			o.Alive[id] = at(s.since)
		} else {
			o.Gone[id] = at(s.since)
		}
		o.Poor[id], o.Holds[id] = g.byID[id].poor, g.byID[id].holds
		if m := g.byID[id]; m.poor {
			o.PoorSince[id] = at(m.poorAt)
		}
		if s.alive && !g.byID[id].poor { // each in a network of its own
			o.Offers[id] = coordinator.Offer{}
		}
	}
	for _, id := range g.staged {
		m := g.byID[id]
		o.CaughtUp[id] = g.reaches(g.leader, m) && m.have+8 >= uint64(len(g.log))
	}
	maps.DeleteFunc(g.unwilling, func(_ identity.NodeID, since time.Duration) bool { return g.now-since >= 30*time.Second })
	for id := range g.unwilling {
		o.Unwilling[id] = true
	}
	maps.DeleteFunc(g.yielding, func(_ identity.NodeID, since time.Duration) bool { return g.now-since >= 30*time.Second })
	for id := range g.yielding {
		o.Yielding[id] = true
	}
	if v := g.ledger.State().Keyring.Version; v != g.keyring || g.keyringSeen < 0 {
		g.keyring, g.keyringSeen = v, g.now
	}
	o.KeyringSeen = at(g.keyringSeen)
	return o
}

// silent are the coordinators of regions that have not answered the leader for too long (coordinator's observeOffices).
func (g *group) silent() map[identity.NodeID]bool {
	out, present := map[identity.NodeID]bool{}, map[identity.NodeID]time.Duration{}
	for _, r := range g.ledger.State().Regions.List {
		id, _, ok := g.ledger.State().RegionCoordinator(r.Name)
		if !ok || id == g.leader.id {
			continue
		}
		since, watched := g.watches[id]
		if !watched {
			since = g.now
		}
		present[id] = since
		if s, ok := g.sights[id]; ok && g.now-max(s.seen, since) >= g.timing.Office {
			out[id] = true
		}
	}
	g.watches = present
	return out
}

// look brings the leader's sight of all members up to date.
func (g *group) look() {
	for _, member := range g.ledger.State().Members {
		m := g.byID[member.ID]
		s, ok := g.sights[m.id]
		if !ok {
			s = &sight{since: g.now, seen: -time.Hour}
			g.sights[m.id] = s
		}
		if g.reaches(g.leader, m) {
			s.seen = g.now
		}
		patience := 3 * time.Second // gossip's suspicion; heartbeats of voters tell sooner
		if slices.Contains(g.voters, m.id) {
			patience = 2 * g.timing.Heartbeat
		}
		alive := member.Status == coordinator.Active && (m == g.leader || g.now-s.seen < patience)
		if !ok || alive != s.alive {
			s.alive, s.since = alive, g.now
			g.busy = g.now
		}
	}
}

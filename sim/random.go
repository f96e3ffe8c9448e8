package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Random draws a scenario from a seed: a network, a load and faults. All that follow from one seed are the same, in this version of the program;
// Text has it as a file, to be kept or changed.
func Random(seed uint64) (*Scenario, error) {
	d := draw{rand: rand.New(rand.NewPCG(seed, 4))}
	s, err := Parse(RandomName, []byte(d.scenario(seed)))
	if err != nil {
		return nil, fmt.Errorf("seed %d draws a scenario that is none: %w", seed, err)
	}
	return s, nil
}

// RandomName stands for a drawn scenario on a command line.
const RandomName = "--random"

// draw writes a scenario.
type draw struct {
	rand    *rand.Rand
	out     strings.Builder
	regions []string
	nodes   int // now, those that join included
	length  time.Duration
	revoked bool
	moved   bool
	clock   bool
}

// Bounds of what is drawn. They leave out what no mesh could promise anything about: a founder that nobody can reach, faults that go on until
// the end.
const (
	drawnRegions  = 3
	drawnInRegion = 4
	drawnSteps    = 9
	drawnUsers    = 60
	drawnQuiet    = 30 * time.Second // before the first step
)

func (d *draw) scenario(seed uint64) string {
	d.length = d.between(8*time.Minute, 16*time.Minute).Round(time.Minute)
	d.line("# Drawn from seed %d.", seed)
	d.line("name: random")
	d.line("proves: whatever happens to a mesh that was drawn from a seed, its promises hold")
	d.line("for: %s", d.length)
	far := d.network()
	if far > 20*time.Millisecond || d.chance(0.3) {
		d.line("timing: wan")
	}
	d.load()
	d.line("timeline:")
	for range 2 + d.rand.IntN(drawnSteps-1) {
		d.step()
	}
	d.line("expect: {settle: 4m}")
	return d.out.String()
}

func (d *draw) line(format string, args ...any) { fmt.Fprintf(&d.out, format+"\n", args...) }

func (d *draw) chance(p float64) bool { return d.rand.Float64() < p }

func (d *draw) between(least, most time.Duration) time.Duration {
	return (least + time.Duration(d.rand.Int64N(int64(most-least)+1))).Round(100 * time.Microsecond)
}

func (d *draw) of(words ...string) string { return words[d.rand.IntN(len(words))] }

// network draws regions and the ways between them, and returns the longest.
func (d *draw) network() (far time.Duration) {
	d.line("regions:")
	for i := range 1 + d.rand.IntN(drawnRegions) {
		name, nodes := string(rune('a'+i)), 1+d.rand.IntN(drawnInRegion)
		nat := d.of("none", "none", "open", "easy", "hard")
		if i == 0 {
			nat, nodes = "none", max(nodes, 2) // others must be able to reach the founder
		}
		d.nodes += nodes
		d.regions = append(d.regions, name)
		latency := d.between(200*time.Microsecond, 10*time.Millisecond)
		d.line("  - {name: %s, nodes: %d, latency: %s, jitter: %s, loss: %.2f%%, nat: %s, lan: %t}", name, nodes, latency,
			d.between(0, latency), d.rand.Float64()*0.5, nat, nat != "none" && d.chance(0.5))
	}
	if len(d.regions) == 1 {
		return 0
	}
	d.line("links:")
	for i, a := range d.regions {
		for _, b := range d.regions[i+1:] {
			latency := d.between(2*time.Millisecond, 120*time.Millisecond)
			far = max(far, latency)
			d.line("  - {between: [%s, %s], latency: %s, jitter: %s, loss: %.2f%%}", a, b, latency, d.between(0, latency/4), d.rand.Float64())
		}
	}
	return far
}

func (d *draw) load() {
	text := fmt.Sprintf("load: {every: %s", d.between(5*time.Second, 20*time.Second))
	if d.chance(0.5) {
		text += fmt.Sprintf(", users: %d -> %d, over: %s, think: %s, response: %dB", d.rand.IntN(drawnUsers), d.rand.IntN(drawnUsers), d.length/2,
			d.between(time.Second, 10*time.Second), 1+d.rand.IntN(20_000))
	}
	d.line("%s}", text)
}

// step draws one item of the timeline.
func (d *draw) step() {
	at := d.between(drawnQuiet, d.length-3*time.Minute-drawnQuiet).Round(100 * time.Millisecond)
	lasts := d.between(2*time.Second, 3*time.Minute).Round(100 * time.Millisecond)
	step := func(format string, args ...any) {
		d.line("  - {at: %s, %s}", at, fmt.Sprintf(format, args...))
	}
	switch d.rand.IntN(17) {
	case 0, 1:
		step("kill: %s, for: %s", d.who("leader", "any", "voters", "all"), lasts)
	case 2:
		step("stop: %s, for: %s", d.who("leader", "any", "members"), lasts)
	case 3:
		step("restart: %s, gap: %s", d.who("leader", "any", "all"), d.between(time.Second, 20*time.Second))
	case 4, 5:
		step("cut: %s, for: %s", d.who("leader", "any"), lasts)
	case 6, 7:
		step("partition: [%s, others], for: %s", d.side(), lasts)
	case 8:
		step("degrade: {who: %s, loss: %.1f%%, latency: %s, jitter: %s}, for: %s", d.who("leader", "any", "all"), d.rand.Float64()*20,
			d.between(0, 200*time.Millisecond), d.between(0, 100*time.Millisecond), lasts)
	case 9:
		if d.moved || d.chance(0.5) {
			step("reboot: %s", d.who("any", "leader", "all"))
			return
		}
		// One, and not the founder: nobody finds a mesh all of whose machines have moved while it was away.
		d.moved = true
		step("move: n%d", 2+d.rand.IntN(d.nodes-1))
	case 10:
		n := 1 + d.rand.IntN(3)
		step("join: {nodes: %d, region: %s, over: %s}", n, d.of(d.regions...), d.between(time.Second, 30*time.Second))
		d.nodes += n
	case 11:
		// Who has a vote may do more harm than is promised to be borne: docs/security.md.
		step("traitor: {kind: %s, who: members, rate: %d}, for: %s", d.of(traitorKinds...), 5+d.rand.IntN(30), lasts)
	case 12:
		step("disk: {%s, who: %s}, for: %s", d.of("full: true", "fail: true", fmt.Sprintf("slow: %s", d.between(10*time.Millisecond, time.Second))),
			d.who("leader", "any", "voters"), lasts)
	case 13:
		step("power: %s, for: %s", d.who("leader", "any", "voters", "all"), lasts)
	case 14:
		// One clock at a time: of what most have, nobody can say that it is wrong.
		if d.clock {
			step("power: %s, for: %s", d.who("any"), lasts)
			return
		}
		d.clock = true
		skew := d.between(0, 40*24*time.Hour).Round(time.Second)
		if d.chance(0.5) {
			skew = -skew
		}
		step("clock: {skew: %s, who: %s}, for: %s", skew, d.of("leader", "any", "n1"), lasts)
	default:
		if d.revoked || d.nodes < 4 || d.chance(0.3) {
			step(`policy: "rules: [{from: ['*'], to: ['*'], allow: ['*']}]"`)
			return
		}
		d.revoked = true // one: who is left must be enough for a mesh
		step("revoke: n%d", 2+d.rand.IntN(2))
	}
}

// who names a machine, a region, or one of the roles.
func (d *draw) who(roles ...string) string {
	switch d.rand.IntN(4) {
	case 0:
		return fmt.Sprintf("n%d", 1+d.rand.IntN(d.nodes))
	case 1:
		return fmt.Sprintf("%q", regionPrefix+d.of(d.regions...))
	}
	return d.of(roles...)
}

// side is one half of a split.
func (d *draw) side() string {
	if len(d.regions) > 1 && d.chance(0.4) {
		return fmt.Sprintf("%q", regionPrefix+d.of(d.regions...))
	}
	if d.chance(0.2) {
		return "leader"
	}
	var names []string
	for i := range d.nodes {
		if d.chance(0.5) {
			names = append(names, fmt.Sprintf("n%d", i+1))
		}
	}
	if len(names) == 0 {
		names = []string{"n1"}
	}
	return "[" + strings.Join(names, ", ") + "]"
}

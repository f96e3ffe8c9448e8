package sim

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/node"
	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

const (
	// watchEvery is the time between two looks of the checkers; auditEvery that between two that also ask for the audit log.
	watchEvery = 10 * time.Second
	auditEvery = time.Minute
	// liveEvery is the time between two looks after the faults have ended.
	liveEvery = time.Second
	// lookMax is of up to how many machines these are the times. Each look compares every two, so with more it comes as much more rarely.
	lookMax = 200
	// askMax bounds one question to a node, and formMax the forming of the mesh: both are far beyond the nodes' own bounds.
	askMax  = 30 * time.Second
	formMax = 10 * time.Minute
	// joinGap is the time between two machines that join at the beginning.
	joinGap = 100 * time.Millisecond
	// probeMax bounds each ping of the liveness phase; a tunnel that has to be made first takes about a second.
	probeMax = 5 * time.Second
)

// play is one run of a scenario.
type play struct {
	world    *World
	scenario *Scenario
	topology topology
	checks   []Checker
	agenda   agenda
	formed   time.Duration // the world's time when all were in the mesh
	audited  time.Duration // when the audit log was asked for last
	cutHosts map[string]bool

	load     *load
	findings findings
	measures measures
	recorder recorder
	calm     calm
	growth   growth

	mu        sync.Mutex // guards what follows
	lost      []lostPair
	decisions []Decision
	refused   int // decisions that the mesh did not take
}

// Play runs a scenario in a world of its own and says what came of it. An error is about the run, not about the mesh.
func Play(ctx context.Context, cfg Config, s *Scenario) (*Result, error) {
	wall := cfg.Wall
	if wall == nil {
		start := time.Now()
		wall = func() time.Duration { return time.Since(start) }
	}
	begun := wall()
	var r *Result
	err := Bubble(ctx, cfg, func(w *World) error {
		p := &play{world: w, scenario: s, topology: newTopology(), checks: checkers(s.Expect.Checks),
			cutHosts: map[string]bool{}, load: newLoad(), recorder: recorder{stride: 1}}
		err := p.run()
		r = p.result()
		return err
	})
	if r == nil {
		return nil, err
	}
	r.WallSeconds = (wall() - begun).Seconds()
	r.judge()
	return r, err
}

// run is the whole of it: form, faults under watch, heal, liveness.
func (p *play) run() error {
	p.lay()
	if err := p.form(); err != nil {
		return err
	}
	p.plan()
	if err := p.carryOut(p.formed + p.scenario.For); err != nil {
		return err
	}
	p.heal()
	return p.settle()
}

// form founds the mesh on the first machine and has the others join, in the scenario's way.
func (p *play) form() error {
	hosts := p.world.hosts
	for _, h := range hosts {
		if p.scenario.Formed && h != hosts[0] {
			break // they are given their folders first
		}
		if err := h.Start(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(p.world.life, askMax)
	defer cancel()
	first := localapi.Entry{New: "sim"}
	if p.scenario.Join == JoinLAN {
		first = localapi.Entry{Found: true}
	}
	if err := hosts[0].Enter(ctx, first); err != nil {
		return fmt.Errorf("the mesh could not be founded on %s: %w", hosts[0].name, err)
	}
	p.noteJoined(hosts[0])
	if err := p.bringIn(hosts[1:]); err != nil {
		return err
	}
	ok, err := p.world.Await(formMax, liveEvery, func() bool { return p.countJoined() == len(hosts) })
	if err == nil && !ok {
		err = fmt.Errorf("after %s only %d of %d machines are in the mesh: %s", formMax, p.countJoined(), len(hosts), p.lastEvents())
	}
	p.formed = p.world.Now()
	p.world.Record("", "formed", "%d machines are in the mesh", len(hosts))
	return err
}

// bringIn has the other machines join one after the other, or return to a mesh that they were members of.
func (p *play) bringIn(hosts []*Host) error {
	if p.scenario.Formed {
		return p.returnAll(hosts)
	}
	for _, h := range hosts {
		if err := p.admit(h); err != nil {
			return err
		}
		if err := p.world.Sleep(joinGap); err != nil {
			return err
		}
	}
	return nil
}

// admit has a machine join, trying again as a person would.
func (p *play) admit(h *Host) error {
	if !h.Running() {
		if err := h.Start(); err != nil {
			return err
		}
	}
	try := p.tryJoin
	if p.scenario.Join == JoinLAN {
		try = p.tryPair
	}
	p.world.Go(func(ctx context.Context) {
		for ctx.Err() == nil && !h.outcast.Load() {
			if !h.Running() { // killed meanwhile: it comes back
				pause(ctx, liveEvery)
				continue
			}
			err := try(ctx, h)
			if err == nil {
				p.noteJoined(h)
				return
			}
			p.world.Record(h.name, "refused", "join: %v", err)
			pause(ctx, liveEvery)
		}
	})
	return nil
}

// tryJoin is one attempt.
func (p *play) tryJoin(ctx context.Context, h *Host) error {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	err := errors.New("nobody is in the mesh to invite it")
	for _, by := range p.members(h) {
		n := by.Node()
		if n == nil {
			continue
		}
		var invite *localapi.Invite
		if invite, err = n.Invite(ctx, localapi.InviteRequest{}); err == nil {
			return h.Enter(ctx, localapi.Entry{Token: invite.Token})
		}
	}
	return err
}

// pairLook is how often somebody looks whether a machine shows a code.
const pairLook = 100 * time.Millisecond

// tryPair is one attempt on the LAN: the machine looks for a mesh by itself, and a person types the code that it shows into a member.
func (p *play) tryPair(ctx context.Context, h *Host) error {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	entered := make(chan error, 1)
	p.world.Go(func(context.Context) { entered <- h.Enter(ctx, localapi.Entry{Found: true}) })
	looks := time.NewTicker(pairLook)
	defer looks.Stop()
	for approved := ""; ; {
		select {
		case err := <-entered:
			return err
		case <-looks.C:
		}
		by, n := p.anyMember(h), h.Node()
		if by == nil || n == nil {
			continue
		}
		s, err := n.Status(ctx)
		if err != nil || s.Self.Pending == nil || s.Self.Pending.Code == approved {
			continue
		}
		if _, err := by.Approve(ctx, localapi.ApproveRequest{Code: s.Self.Pending.Code}); err != nil {
			p.world.Record(h.name, "refused", "approve: %v", err)
			continue
		}
		approved = s.Self.Pending.Code
	}
}

// plan writes the timeline, the load and the checkers' looks into the agenda.
func (p *play) plan() {
	for _, step := range p.scenario.Timeline {
		for at := step.At; at <= p.scenario.For; at += step.Every {
			p.agenda.add(p.formed+at, func() { p.step(step) })
			if step.Every == 0 {
				break
			}
		}
	}
	if every := p.scenario.Load.Every; every > 0 {
		p.repeat(every, p.loadTick)
	}
	p.planUsers()
	p.planGrowth()
	p.repeat(p.rarely(watchEvery), func() { p.watch() })
}

// rarely is the time between two looks of which this is the least.
func (p *play) rarely(least time.Duration) time.Duration {
	return max(least, least*time.Duration(len(p.world.hosts))/lookMax)
}

// repeat does something again and again until the faults end.
func (p *play) repeat(every time.Duration, do func()) {
	p.after(every, func() {
		do()
		if p.world.Now() < p.formed+p.scenario.For {
			p.repeat(every, do)
		}
	})
}

// after does something d from now.
func (p *play) after(d time.Duration, do func()) { p.agenda.add(p.world.Now()+d, do) }

// step does one step of the timeline to one machine after the other, or to all at once.
func (p *play) step(s Step) {
	who := s.Who.pick(p)
	if len(who) == 0 && len(s.Who.words) > 0 {
		p.world.Record("", s.Fault.Kind(), "nobody is %s now", s.Who)
		return
	}
	groups := [][]*Host{who}
	if s.Gap > 0 {
		groups = nil
		for _, h := range who {
			groups = append(groups, []*Host{h})
		}
	}
	for i, group := range groups {
		p.after(time.Duration(i)*s.Gap, func() {
			kind := s.Fault.Kind()
			p.world.Record("", kind, "%s", namesOf(group))
			p.disturbed(kind, group, true)
			endSpan := p.recorder.span(kind, namesOf(group), p.world.Now())
			calmed := p.calm.disturbance(kind, faultKinds[kind].undone, p.world.Now())
			s.Fault.begin(p, group)
			if s.Lasts > 0 {
				p.after(s.Lasts, func() {
					p.world.Record("", kind, "ends: %s", namesOf(group))
					endSpan(p.world.Now())
					calmed(p.world.Now())
					p.disturbed(kind, group, false)
					s.Fault.end(p, group)
				})
			}
		})
	}
}

// carryOut works through the agenda until the world is at a time.
func (p *play) carryOut(until time.Duration) error {
	for {
		next, ok := p.agenda.next()
		if !ok || next > until {
			return p.world.SleepUntil(until)
		}
		if err := p.world.SleepUntil(next); err != nil {
			return err
		}
		p.agenda.take()()
		if p.findings.full() {
			return nil
		}
	}
}

// heal ends all faults, those of the network and those of machines.
func (p *play) heal() {
	p.world.Record("", "heal", "the faults end")
	p.recorder.healed = p.world.Now()
	p.disturbed("heal", nil, true)
	p.calm.healed(p.world.Now())
	p.healNetwork()
	for _, h := range p.world.hosts {
		h.rightClock()
		h.SetDisk(diskFaults{})
	}
	startAll(p, p.world.hosts)
}

func (p *play) healNetwork() {
	clear(p.cutHosts)
	p.world.Split()
	p.world.links.heal()
	for _, h := range p.world.hosts {
		if h.fault != (Access{}) {
			h.connect(Access{})
		}
		h.card.Resume()
		h.card.SetFirewall(underlaytest.Firewall{})
	}
	for _, step := range p.scenario.Timeline {
		switch f := step.Fault.(type) {
		case *attack, *traitor:
			f.end(p, nil)
		}
	}
}

// setCut pulls cables, or plugs them in.
func (p *play) setCut(who []*Host, out bool) {
	for _, h := range who {
		p.cutHosts[h.name] = out
		loss := Quality{}
		if out {
			loss.Loss = 1
		}
		p.world.Degrade(h.name, loss)
	}
}

// settle is the liveness phase.
func (p *play) settle() error {
	begun := p.world.Now()
	waiting := map[Checker][]string{}
	for _, c := range p.checks {
		waiting[c] = nil
	}
	for {
		// Machines that were still ending come up again.
		if err := p.carryOut(p.world.Now()); err != nil {
			return err
		}
		v := p.look(true, true)
		p.safe(v)
		for _, c := range p.checks {
			if _, ok := waiting[c]; !ok {
				continue
			}
			if waiting[c] = c.Live(v); len(waiting[c]) == 0 {
				delete(waiting, c)
			}
		}
		if len(waiting) == 0 {
			p.load.settled = p.world.Now() - begun
			p.sample(v)
			p.world.Record("", "settled", "%s after the faults ended", p.load.settled.Round(time.Millisecond))
			return nil
		}
		if p.world.Now()-begun > p.scenario.Expect.Settle {
			p.sample(v)
			for _, c := range p.checks {
				for _, text := range waiting[c] {
					p.findings.add(p, c.Name(), fmt.Sprintf("%s, %s after the faults ended", text, p.scenario.Expect.Settle))
				}
			}
			return nil
		}
		if err := p.carryOut(p.world.Now() + p.rarely(liveEvery)); err != nil {
			return err
		}
	}
}

// watch is one look of the checkers while faults act.
func (p *play) watch() {
	// Without a leader the question for the log waits for one, and the looks for a successor would wait for the question.
	audit := p.world.Now()-p.audited >= auditEvery && p.measures.searches == 0
	v := p.look(false, audit)
	p.safe(v)
	p.sample(v)
	p.tend()
}

func (p *play) safe(v *View) {
	for _, c := range p.checks {
		for _, text := range c.Safe(v) {
			p.findings.add(p, c.Name(), text)
		}
	}
}

// look asks all nodes for what they see.
func (p *play) look(probe, audit bool) *View {
	v := &View{Wire: p.world.wire.packets.Load(), Plain: p.world.wire.plain.Load(), Calm: p.calm.since(p.world.Now()), Lost: p.takeLost(),
		Routines: runtime.NumGoroutine(), Bad: map[string]bool{}}
	ctx, cancel := context.WithTimeout(p.world.life, askMax)
	defer cancel()
	for _, h := range p.world.hosts {
		n := h.Node()
		v.Machines = append(v.Machines, h.ID())
		v.Bad[h.ID()] = h.bad.Load()
		if n == nil || h.stopping() {
			if !h.outcast.Load() {
				v.Silent = append(v.Silent, h.name)
			}
			continue
		}
		s, err := n.Status(ctx)
		if err != nil {
			v.Silent = append(v.Silent, h.name)
			continue
		}
		view := NodeView{Host: h.name, Status: s, Held: n.Held()}
		if len(p.world.hosts) <= drawnMax {
			view.Records = records(n)
		}
		if m, err := n.MembersOnRecord(); err == nil {
			view.Members = m.Members
		}
		v.Nodes = append(v.Nodes, view)
	}
	if audit {
		p.audited = p.world.Now()
		v.Audit = p.audit(ctx)
	}
	if probe {
		v.Probe = func(from, to string) error {
			a, _ := p.world.Host(from)
			b, _ := p.world.Host(to)
			_, err := p.world.Ping(a, b, probeMax)
			return err
		}
	}
	p.mu.Lock()
	v.Decisions = slices.Clone(p.decisions)
	p.mu.Unlock()
	v.At = p.world.Now()
	return v
}

// records are what a node holds that members said of themselves; of a node that is in no mesh, none.
func records(n *node.Node) map[string]peer.Record {
	parts, ok := n.Parts()
	if !ok {
		return nil
	}
	out := map[string]peer.Record{}
	for _, e := range parts.Peers.All() {
		if e.HasRecord && !e.Revoked {
			out[e.ID.String()] = e.Record
		}
	}
	if own, err := peer.ParseRecord(n.ID(), parts.Gossip.Record()); err == nil {
		out[n.ID().String()] = own
	}
	return out
}

// audit asks members in turn for the log of decisions.
func (p *play) audit(ctx context.Context) *localapi.Audit {
	for _, h := range p.members(nil) {
		if a, err := h.Node().Audit(ctx, true); err == nil {
			return a
		}
		// One that cannot reach the leader says so at once or after seconds; three such answers are enough for a look.
		if ctx.Err() != nil {
			break
		}
	}
	return nil
}

// agenda is what will be done, by time; of the same instant, in the order of planning.
type agenda struct {
	items entries
	count int
}

type entry struct {
	at    time.Duration
	count int
	do    func()
}

type entries []entry

func (e entries) Len() int { return len(e) }
func (e entries) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].count < e[j].count
}
func (e entries) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *entries) Push(x any)   { *e = append(*e, x.(entry)) }
func (e *entries) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func (a *agenda) add(at time.Duration, do func()) {
	a.count++
	heap.Push(&a.items, entry{at, a.count, do})
}

func (a *agenda) next() (time.Duration, bool) {
	if len(a.items) == 0 {
		return 0, false
	}
	return a.items[0].at, true
}

func (a *agenda) take() func() { return heap.Pop(&a.items).(entry).do }

// pause waits inside the bubble.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

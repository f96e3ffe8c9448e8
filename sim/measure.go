package sim

import (
	"context"
	"slices"
	"time"
)

const (
	// failoverLook is the time between two looks for a new leader or coordinator, and so the error of those figures.
	failoverLook = 20 * time.Millisecond
	// failoverMax ends such a search.
	failoverMax = 2 * time.Minute
	// convergedLook is the least time between two looks whether everybody knows who is there; of many machines it is longer, as each look
	// compares every two of them.
	convergedLook = 100 * time.Millisecond
	// convergedMax ends such a search. What is not seen by then counts as so long.
	convergedMax = 10 * time.Minute
	// statusMax bounds a question to a node that is just starting.
	statusMax = 5 * time.Millisecond
)

// measures are the times that the mesh needed to come to itself after what was done to it.
type measures struct {
	failovers    []time.Duration // from the loss of a leader until another leads
	coordinators []time.Duration // from the loss of a region's coordinator until it has another
	converged    []time.Duration // from the last change of who is there until all who can know do

	searches int // for successors, that go on

	changed    time.Duration // the last change
	converging bool
}

// changesPresence are the faults that change who is there, or who can hear whom.
var changesPresence = []string{"kill", "power", "restore", "stop", "restart", "start", "cut", "partition", "heal", "join", "revoke"}

// disturbed notes that a fault begins or ends just now, before it does.
func (p *play) disturbed(kind string, who []*Host, begins bool) {
	if !slices.Contains(changesPresence, kind) {
		return
	}
	if begins && len(who) > 0 && kind != "start" && kind != "revoke" {
		p.expectFailovers(who)
	}
	p.expectConvergence()
}

// expectFailovers begins to look for who takes over from those who are about to go, where enough are left to decide.
func (p *play) expectFailovers(gone []*Host) {
	before := p.group()
	voters := p.hostsByID(before.voters...)
	left := filter(voters, func(h *Host) bool { return present(h) && !p.cutHosts[h.name] && !slices.Contains(gone, h) })
	if len(voters) == 0 || 2*len(left) <= len(voters) {
		return
	}
	lost := func(id string) bool { return len(p.hostsByID(id)) == 1 && slices.Contains(gone, p.hostsByID(id)[0]) }
	if lost(before.leader) {
		p.awaitSuccessor(&p.measures.failovers, func(g group) bool { return g.leader != before.leader && g.leader != "" && g.term > before.term })
	}
	for region, id := range before.regions {
		heirs := filter(p.world.hosts, func(h *Host) bool {
			return h.at.Region == region && present(h) && !p.cutHosts[h.name] && !slices.Contains(gone, h)
		})
		if lost(id) && len(heirs) > 0 {
			p.awaitSuccessor(&p.measures.coordinators, func(g group) bool { return g.regions[region] != id && g.regions[region] != "" })
		}
	}
}

// awaitSuccessor looks again and again whether a voter knows of what is waited for, and notes how long it took.
func (p *play) awaitSuccessor(to *[]time.Duration, so func(group) bool) {
	begun := p.world.Now()
	p.measures.searches++
	var look func()
	look = func() {
		took := p.world.Now() - begun
		if took >= failoverMax || p.sawSuccessor(so) {
			*to = append(*to, took)
			p.measures.searches--
			return
		}
		p.after(failoverLook, look)
	}
	p.after(failoverLook, look)
}

func (p *play) sawSuccessor(so func(group) bool) bool {
	for _, h := range p.world.hosts {
		n := h.Node()
		if n == nil || !present(h) || p.cutHosts[h.name] {
			continue
		}
		ctx, cancel := context.WithTimeout(p.world.life, statusMax)
		s, err := n.Status(ctx)
		cancel()
		if err == nil && s.Coordinators.Quorum && slices.Contains(s.Coordinators.Voters, h.ID()) && so(newGroup(s.Coordinators)) {
			return true
		}
	}
	return false
}

// expectConvergence begins, or begins anew, to wait until everybody knows who is there.
func (p *play) expectConvergence() {
	m := &p.measures
	m.changed = p.world.Now()
	if m.converging {
		return
	}
	m.converging = true
	n := len(p.world.hosts)
	every := max(convergedLook, time.Duration(n*n)*100*time.Microsecond)
	var look func()
	look = func() {
		took := p.world.Now() - m.changed
		if took >= convergedMax || p.agree() {
			m.converged, m.converging = append(m.converged, took), false
			return
		}
		p.after(every, look)
	}
	p.after(every, look)
}

// agree reports whether every node that runs holds those for alive that it can reach, and nobody else. Machines whose cable is out are not asked.
func (p *play) agree() bool {
	hosts := p.world.Hosts()
	there := map[string]*Host{}
	for _, h := range hosts {
		switch {
		case p.cutHosts[h.name] || h.outcast.Load():
		case h.stopping(), h.Running() && !h.Overlay().IsValid():
			return false // on its way
		case h.Running():
			there[h.ID()] = h
		}
	}
	for _, h := range there {
		if !p.knows(h, there) {
			return false
		}
	}
	return true
}

// knows reports whether a node holds those for alive that are there and on its side of a split, and nobody else.
func (p *play) knows(h *Host, there map[string]*Host) bool {
	n := h.Node()
	if n == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(p.world.life, statusMax)
	defer cancel()
	s, err := n.Status(ctx)
	if err != nil {
		return false
	}
	missing := -1 // itself
	for _, o := range there {
		if p.world.links.together(h.name, o.name) {
			missing++
		}
	}
	for _, peer := range s.Peers {
		if peer.State != "alive" {
			continue
		}
		o := there[peer.ID]
		if o == nil || !p.world.links.together(h.name, o.name) {
			return false
		}
		missing--
	}
	return missing == 0
}

// figures are what was measured: how often, the median and the longest.
func (m *measures) figures(now time.Duration, to map[string]float64) {
	put := func(of, unit string, times []time.Duration, per time.Duration) {
		if len(times) == 0 {
			return
		}
		sorted := slices.Sorted(slices.Values(times))
		to[of+"s"] = float64(len(sorted))
		to[of+"_p50_"+unit] = float64(percentile(sorted, 0.5)) / float64(per)
		to[of+"_max_"+unit] = float64(sorted[len(sorted)-1]) / float64(per)
	}
	put("failover", "ms", m.failovers, time.Millisecond)
	put("coordinator_failover", "ms", m.coordinators, time.Millisecond)
	converged := m.converged
	if m.converging {
		converged = append(slices.Clone(converged), now-m.changed) // so long at least
	}
	put("converged", "s", converged, time.Second)
	delete(to, "convergeds")
}

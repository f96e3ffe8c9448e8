package sim

import (
	"context"
	"slices"
	"strings"

	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/node"
)

// members are the hosts whose nodes are in the mesh now and not gone bad, but for one; the founder first.
func (p *play) members(but *Host) []*Host {
	return filter(p.world.Hosts(), func(h *Host) bool { return h != but && present(h) && h.traitors.Load() == 0 })
}

// anyMember is a member that can be asked; nil: there is none. Safe from any goroutine, as members is.
func (p *play) anyMember(but *Host) *node.Node {
	for _, h := range p.members(but) {
		if n := h.Node(); n != nil {
			return n
		}
	}
	return nil
}

// group is who decides, as the member with the newest word says.
type group struct {
	term    uint64
	leader  string
	voters  []string
	regions map[string]string // the coordinator's ID by region
}

func (p *play) group() group {
	var g group
	for _, h := range p.members(nil) {
		n := h.Node()
		if n == nil {
			continue
		}
		s, err := n.Status(p.world.life)
		if err != nil || s.Coordinators.Term < g.term || len(s.Coordinators.Voters) == 0 {
			continue
		}
		c := s.Coordinators
		if c.Term == g.term && g.leader != "" && !c.Quorum {
			continue
		}
		g = newGroup(c)
	}
	return g
}

func newGroup(c localapi.Coordinators) group {
	g := group{c.Term, c.Leader, c.Voters, map[string]string{}}
	for _, r := range c.Regions {
		g.regions[r.Region] = r.Coordinator
	}
	return g
}

func (p *play) hostsByID(ids ...string) []*Host {
	return filter(p.world.hosts, func(h *Host) bool { return h.ID() != "" && slices.Contains(ids, h.ID()) })
}

// decide has one member after the other ask the mesh for a decision, beside the driver, until one is told that it is decided.
func (p *play) decide(what string, about *Host, ask func(ctx context.Context, by *Host) error) {
	members := p.members(about)
	p.world.Go(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, askMax)
		defer cancel()
		for _, by := range members {
			if by.Node() == nil {
				continue
			}
			err := ask(ctx, by)
			if err == nil {
				p.world.Record(by.name, "decided", "%s", what)
				return
			}
			p.world.Record(by.name, "refused", "%s: %v", what, err)
			if ctx.Err() != nil {
				break
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.refused++
	})
}

func (p *play) noteJoined(h *Host) {
	p.note(Decision{Kind: Joined, ID: h.ID(), Name: h.name})
	p.world.Record(h.name, "decided", "it is a member")
}

func (p *play) noteRevoked(h *Host) { p.note(Decision{Kind: Revoked, ID: h.ID(), Name: h.name}) }

func (p *play) notePolicy(version uint64) { p.note(Decision{Kind: PolicySet, Version: version}) }

func (p *play) note(d Decision) {
	d.At = p.world.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decisions = append(p.decisions, d)
}

func (p *play) countJoined() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, d := range p.decisions {
		if d.Kind == Joined {
			n++
		}
	}
	return n
}

// failed notes that the world itself could not do something.
func (p *play) failed(err error) {
	if err != nil {
		p.findings.add(p, "simulator", err.Error())
	}
}

// lastEvents are for messages.
func (p *play) lastEvents() string {
	var lines []string
	for _, e := range p.world.Events(2) { // in one line of an error
		lines = append(lines, e.String())
	}
	return "last " + strings.Join(lines, "; ")
}

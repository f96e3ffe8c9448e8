package node

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/dataplane/firewall"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/policy"
)

// guard is a membership's packet filter: the policy of the mesh's state, compiled for this node.
type guard struct {
	firewall *firewall.Firewall

	checking sync.Mutex // one check looks at flows at a time; taken before mu

	mu      sync.Mutex // orders changes of what follows and of the plane's filter
	version uint64     // of the state that the filter was compiled from
	text    string     // of parsed
	parsed  *policy.Policy
	inForce bool  // packets are filtered
	problem error // why the policy cannot be read here
}

// filters tells whether there is a policy.
func (g *guard) filters() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inForce
}

// denyAll is what a node does with a policy that it cannot read, if it has read none before: the mesh meant to deny something.
var denyAll = &policy.Policy{}

// adoptPolicy puts the state's policy in force here. It is called for every new state, as a policy also means other things when members,
// their names or their tags change.
func (m *membership) adoptPolicy(state *coordinator.State) {
	g := &m.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if state.Version <= g.version && g.version != 0 {
		return // only the view of the coordinators has changed, or somebody else was quicker with a newer state
	}
	g.version = state.Version
	was := g.text
	g.readLocked(state.Policy, m)
	if g.parsed == nil {
		if g.inForce {
			g.inForce = false
			m.plane.SetFilter(nil)
			g.firewall.Set(nil)
		}
		if was != "" {
			m.node.log.Info("packet filter off", "version", state.PolicyNumber())
		}
		return
	}
	ended := g.firewall.Set(policy.Compile(g.parsed, m.node.ID(), state.PolicyMembers()))
	m.plane.SetFilter(g.firewall)
	g.inForce = true
	if was != g.text || ended > 0 {
		m.node.log.Info("packet filter", "version", state.PolicyNumber(), "rules", len(g.parsed.Rules), "flows_ended", ended)
	}
}

// firstFilter is the filter that the plane begins with.
func (m *membership) firstFilter(state *coordinator.State) dataplane.Filter {
	g := &m.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readLocked(state.Policy, m)
	if g.parsed == nil {
		return nil
	}
	g.firewall.Set(policy.Compile(g.parsed, m.node.ID(), state.PolicyMembers()))
	g.inForce = true
	return g.firewall
}

// readLocked brings parsed up to date.
func (g *guard) readLocked(p *coordinator.Policy, m *membership) {
	if p == nil || p.Text == "" {
		g.text, g.parsed, g.problem = "", nil, nil
		return
	}
	if p.Text == g.text {
		return
	}
	parsed, err := policy.Parse([]byte(p.Text))
	g.text, g.problem = p.Text, err
	switch {
	case err == nil:
		g.parsed = parsed
	case g.parsed == nil:
		g.parsed = denyAll
	}
	if err != nil {
		m.node.log.Error("the mesh's policy cannot be read by this program", "version", p.Number, "err", err)
	}
}

// Policy shows the policy of the mesh and the filter of this node.
func (n *Node) Policy(context.Context) (*localapi.Policy, error) {
	m, err := n.membership("show the policy")
	if err != nil {
		return nil, err
	}
	state := m.group.State()
	out := &localapi.Policy{Filter: m.describeFilter()}
	if p := state.Policy; p != nil {
		v := m.describePolicy(state, p)
		out.Current, out.Set, out.Text = &v, p.Text != "", p.Text
	}
	m.guard.mu.Lock()
	defer m.guard.mu.Unlock()
	if m.guard.parsed != nil {
		out.Rules = len(m.guard.parsed.Rules)
	}
	return out, nil
}

func (m *membership) describePolicy(state *coordinator.State, p *coordinator.Policy) localapi.PolicyVersion {
	v := localapi.PolicyVersion{Version: p.Number, Of: p.Of, By: p.By.String(), At: p.At.UTC()}
	if p.Of != 0 {
		v.Hash = hex.EncodeToString(p.Hash[:])
	}
	if by, ok := state.Member(p.By); ok {
		v.ByName = by.Certificate.Name
	}
	return v
}

func (m *membership) describeFilter() localapi.PolicyFilter {
	g := &m.guard
	g.mu.Lock()
	f := localapi.PolicyFilter{InForce: g.inForce}
	if g.problem != nil {
		f.Problem = g.problem.Error()
	}
	g.mu.Unlock()
	s := g.firewall.Stats()
	f.Flows = s.Flows
	for _, reasons := range s.Dropped {
		for _, n := range reasons {
			f.Dropped += n
		}
	}
	for _, d := range g.firewall.LastDrops() {
		direction := "out"
		if d.Direction == dataplane.Inbound {
			direction = "in"
		}
		f.Last = append(f.Last, localapi.PolicyDrop{At: d.At.UTC(), Direction: direction, Reason: d.Reason, From: m.whose(d.From), To: m.whose(d.To),
			Service: serviceText(d.Protocol, d.Port)})
	}
	return f
}

// whose is the name of the member with an address, or the address.
func (m *membership) whose(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	for _, member := range m.group.State().Members {
		if member.Status == coordinator.Active && slices.Contains(member.Certificate.Addresses(), a) {
			return member.Certificate.Name
		}
	}
	return a.String()
}

// serviceText is a protocol and port as a rule says it.
func serviceText(protocol uint8, port uint16) string {
	switch protocol {
	case 1, 58:
		return "icmp"
	case 6:
		return "tcp/" + strconv.Itoa(int(port))
	case 17:
		return "udp/" + strconv.Itoa(int(port))
	}
	return "protocol " + strconv.Itoa(int(protocol))
}

// Bounds of what a check shows, and how long it looks for flows where there is no policy yet and so nobody remembers any.
const (
	changesShown = 200
	cutShown     = 100
	watchTime    = 1500 * time.Millisecond
)

// CheckPolicy tells whether the mesh would take a policy, and what it would change.
func (n *Node) CheckPolicy(ctx context.Context, r localapi.PolicyRequest) (*localapi.PolicyCheck, error) {
	m, err := n.membership("check the policy")
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse([]byte(r.Text))
	if err != nil {
		return nil, localapi.Fail(localapi.Failed, "the policy has an error", err, "phantom policy show --example prints a policy that has none")
	}
	state := m.group.State()
	members := state.PolicyMembers()
	hash := p.Hash()
	out := &localapi.PolicyCheck{Hash: hex.EncodeToString(hash[:]), Rules: len(p.Rules), Expects: len(p.Expects),
		Failed: problems(p.Check(members)), Warnings: problems(p.Warnings(members))}
	out.OK = len(out.Failed) == 0
	m.guard.mu.Lock()
	current := m.guard.parsed
	m.guard.mu.Unlock()
	out.Same = current != nil && current.Hash() == hash
	changes := policy.Compare(current, p, members, changesShown)
	out.ChangesTotal, out.Pairs, out.Partial = changes.Total, changes.Pairs, changes.Partial
	for _, c := range changes.List {
		out.Changes = append(out.Changes, localapi.PolicyChange{From: c.From, To: c.To, Pairs: c.Pairs, Family: c.Family, Gained: c.Gained, Lost: c.Lost})
	}
	return out, m.checkFlows(ctx, p, members, out)
}

func problems(list []policy.Problem) localapi.List[localapi.PolicyProblem] {
	var out localapi.List[localapi.PolicyProblem]
	for _, p := range list {
		out = append(out, localapi.PolicyProblem{Line: p.Line, Text: p.Text, Why: p.Why})
	}
	return out
}

// checkFlows says which live flows of this node a policy would end.
func (m *membership) checkFlows(ctx context.Context, p *policy.Policy, members []policy.Member, out *localapi.PolicyCheck) error {
	g := &m.guard
	g.checking.Lock()
	defer g.checking.Unlock()
	if m.watch(members) {
		defer m.unwatch()
		if !sleep(ctx, watchTime) {
			return ctx.Err()
		}
		out.WatchedMs = int(watchTime / time.Millisecond)
	}
	out.Flows = len(g.firewall.Flows())
	cut := g.firewall.WouldCut(policy.Compile(p, m.node.ID(), members))
	names := map[string]string{}
	for _, member := range members {
		names[member.ID.String()] = member.Name
	}
	out.CutTotal = len(cut)
	for _, f := range cut[:min(len(cut), cutShown)] {
		port, family := f.RemotePort, "IPv4"
		if f.Inbound {
			port = f.LocalPort
		}
		if f.IPv6 {
			family = "IPv6"
		}
		out.Cut = append(out.Cut, localapi.PolicyFlow{Peer: names[f.Peer.String()], Inbound: f.Inbound, Service: serviceText(f.Protocol, port), Family: family,
			IdleS: int(f.Idle / time.Second)})
	}
	return nil
}

// watch begins to remember flows where there is no policy; false: they are remembered anyway.
func (m *membership) watch(members []policy.Member) bool {
	g := &m.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inForce {
		return false
	}
	everything := &policy.Policy{Rules: []policy.Rule{{From: []policy.Selector{{}}, To: []policy.Selector{{}}, Allow: []policy.Service{{}}}}}
	g.firewall.Watch(policy.Compile(everything, m.node.ID(), members))
	m.plane.SetFilter(g.firewall)
	return true
}

// unwatch ends watch, unless a policy came meanwhile.
func (m *membership) unwatch() {
	g := &m.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.inForce {
		m.plane.SetFilter(nil)
		g.firewall.Set(nil)
	}
}

// SetPolicy puts a policy in force in the whole mesh.
func (n *Node) SetPolicy(ctx context.Context, r localapi.PolicyRequest) (*localapi.PolicyVersion, error) {
	m, err := n.membership("set the policy")
	if err != nil {
		return nil, err
	}
	if _, err := policy.Parse([]byte(r.Text)); err != nil {
		return nil, localapi.Fail(localapi.Failed, "the policy has an error", err, "phantom policy check FILE tells more")
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	p, err := m.group.SetPolicy(ctx, r.Text)
	return m.policySet(ctx, "cannot set the policy", p, err)
}

// RollbackPolicy brings an earlier policy back.
func (n *Node) RollbackPolicy(ctx context.Context, r localapi.PolicyRollback) (*localapi.PolicyVersion, error) {
	m, err := n.membership("roll the policy back")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	p, err := m.group.RollbackPolicy(ctx, r.To)
	return m.policySet(ctx, "cannot roll the policy back", p, err)
}

// adoptWait bounds how long a command waits until what it set is in force on its own node.
const adoptWait = 2 * time.Second

// policySet answers who set a policy, once it is in force here.
func (m *membership) policySet(ctx context.Context, what string, p *coordinator.Policy, err error) (*localapi.PolicyVersion, error) {
	if err != nil {
		return nil, failed(what, err)
	}
	ctx, cancel := context.WithTimeout(ctx, adoptWait)
	defer cancel()
	const look = 10 * time.Millisecond
	asked := false
	for {
		state := m.group.State()
		if state.Policy != nil && state.Policy.Number >= p.Number && m.guards(state.Policy.Text) {
			break
		}
		if leader := state.Coordinators.Leader; !asked && leader != m.node.ID() && !leader.IsZero() {
			m.group.PullSoon(leader)
			asked = true
		}
		if !sleep(ctx, look) {
			break // it comes with the next state
		}
	}
	v := m.describePolicy(m.group.State(), p)
	return &v, nil
}

// guards tells whether a text is in force here.
func (m *membership) guards(text string) bool {
	m.guard.mu.Lock()
	defer m.guard.mu.Unlock()
	return m.guard.text == text
}

// PolicyHistory lists the versions of the policy that the ledger keeps.
func (n *Node) PolicyHistory(ctx context.Context) (*localapi.PolicyHistory, error) {
	m, err := n.membership("list the policy's versions")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	list, err := m.group.Policies(ctx)
	if err != nil {
		return nil, failed("cannot list the policy's versions", err)
	}
	out, state := &localapi.PolicyHistory{}, m.group.State()
	for _, p := range slices.Backward(list) {
		out.Versions = append(out.Versions, m.describePolicy(state, p))
	}
	return out, nil
}

// PolicyText shows one of the versions that the ledger keeps.
func (n *Node) PolicyText(ctx context.Context, version uint64) (*localapi.Policy, error) {
	m, err := n.membership("show the policy")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	p, err := m.group.PolicyText(ctx, version)
	if err != nil {
		return nil, failed("cannot show the policy", err)
	}
	v := m.describePolicy(m.group.State(), p)
	out := &localapi.Policy{Current: &v, Set: p.Text != "", Text: p.Text}
	if parsed, err := policy.Parse([]byte(p.Text)); err == nil {
		out.Rules = len(parsed.Rules)
	}
	return out, nil
}

// checkPolicy tells whether the mesh's policy is in force here, for doctor.
func (m *membership) checkPolicy(state *coordinator.State) localapi.Finding {
	f := localapi.Finding{Check: "policy", OK: true, Severity: localapi.SeverityInfo, What: "no packet filter policy: members may talk to each other as they like"}
	filter := m.describeFilter()
	switch {
	case filter.Problem != "":
		f.OK, f.Severity, f.What, f.Why = false, localapi.SeverityError, "this program cannot read the mesh's policy", filter.Problem
		f.Next = "update phantom on this machine, or set another policy: phantom policy rollback"
	case filter.InForce:
		f.What = fmt.Sprintf("policy version %d is in force, %s dropped", state.PolicyNumber(), countOf(int(filter.Dropped), "packet", "packets"))
		if len(filter.Last) > 0 {
			d := filter.Last[0]
			f.Why = fmt.Sprintf("the last one %s ago: %s from %s to %s, %s", time.Since(d.At).Round(time.Second), d.Service, d.From, d.To, d.Reason)
		}
	}
	return f
}

// collectFilter counts for metrics.
func (m *membership) collectFilter(gauge emitGauge, count emitCount) {
	s := m.guard.firewall.Stats()
	for d, direction := range []string{dataplane.Outbound: "out", dataplane.Inbound: "in"} {
		for reason, v := range s.Dropped[d] {
			count(descFilterDropped, v, direction, reason)
		}
	}
	gauge(descFilterFlows, float64(s.Flows))
	count(descFilterEvicted, s.Evicted)
	version := uint64(0)
	if p := m.group.State().Policy; p != nil {
		version = p.Number
	}
	gauge(descPolicyVersion, float64(version))
}

var (
	descFilterDropped = desc("filter_packets_dropped_total", "Packets that the packet filter dropped, by direction and reason.", "direction", "reason")
	descFilterFlows   = desc("filter_flows", "Flows that the packet filter remembers.")
	descFilterEvicted = desc("filter_flows_evicted_total", "Live flows that were forgotten for want of room.")
	descPolicyVersion = desc("policy_version", "Version of the mesh's packet filter policy; 0: none was ever set.")
)

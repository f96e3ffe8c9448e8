package sim

import (
	"fmt"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// alwaysLive is for checkers that ask for nothing after the faults.
type alwaysLive struct{}

func (alwaysLive) Live(*View) []string { return nil }

// plaintext: what goes through the tunnels carries a mark, and no packet between machines may show it.
type plaintext struct {
	alwaysLive
	seen int64
}

func (*plaintext) Name() string    { return "no-plaintext" }
func (*plaintext) Promise() string { return "nothing from inside a tunnel is on the wire in clear" }
func (c *plaintext) Safe(v *View) []string {
	if v.Plain <= c.seen {
		return nil
	}
	fresh := v.Plain - c.seen
	c.seen = v.Plain
	return []string{fmt.Sprintf("%d packets on the wire showed what was inside the tunnels", fresh)}
}

// postQuantum: a tunnel that is up has a post-quantum key.
type postQuantum struct{ alwaysLive }

func (*postQuantum) Name() string    { return "post-quantum" }
func (*postQuantum) Promise() string { return "no tunnel carries packets under a classical-only key" }
func (*postQuantum) Safe(v *View) (out []string) {
	for _, n := range v.Nodes {
		for _, p := range n.Status.Peers {
			if p.Tunnel.State == localapi.TunnelUp && !p.Tunnel.PostQuantum {
				out = append(out, fmt.Sprintf("the tunnel from %s to %s is up without a post-quantum key", n.Host, p.Name))
			}
		}
	}
	return out
}

// leases: an address belongs to one member.
type leases struct {
	alwaysLive
	owner map[string]string // by address, the node's ID: over all views and all time
}

func newLeases() *leases { return &leases{owner: map[string]string{}} }

func (*leases) Name() string    { return "one-lease" }
func (*leases) Promise() string { return "no address is ever leased to two members" }
func (c *leases) Safe(v *View) (out []string) {
	for _, n := range v.Nodes {
		for _, m := range n.Members {
			if m.State != localapi.MemberActive {
				continue
			}
			for _, a := range m.Addresses {
				before, known := c.owner[a]
				c.owner[a] = m.ID
				if known && before != m.ID {
					out = append(out, fmt.Sprintf("%s lists %s as the address of %s, it was leased to %s", n.Host, a, m.ID, before))
				}
			}
		}
	}
	return out
}

// oneLeader: of one term there is one leader, whoever is asked.
type oneLeader struct {
	alwaysLive
	leader map[uint64]string
}

func newOneLeader() *oneLeader { return &oneLeader{leader: map[uint64]string{}} }

func (*oneLeader) Name() string    { return "one-leader" }
func (*oneLeader) Promise() string { return "nobody obeys two leaders of the same term" }
func (c *oneLeader) Safe(v *View) (out []string) {
	for _, n := range v.Nodes {
		g := n.Status.Coordinators
		if g.Leader == "" || !g.Quorum {
			continue
		}
		before, known := c.leader[g.Term]
		c.leader[g.Term] = g.Leader
		if known && before != g.Leader {
			out = append(out, fmt.Sprintf("%s obeys %s as leader of term %d, others obeyed %s", n.Host, g.Leader, g.Term, before))
		}
	}
	return out
}

// auditChain: what was written into the log of decisions stays, and all coordinators hold the same.
type auditChain struct {
	hash map[uint64]string // by index in the replicated log
}

func newAuditChain() *auditChain { return &auditChain{hash: map[uint64]string{}} }

func (*auditChain) Name() string { return "audit-chain" }
func (*auditChain) Promise() string {
	return "the log of decisions is never rewritten, and every coordinator holds the same"
}

func (c *auditChain) Safe(v *View) (out []string) {
	if v.Audit == nil {
		return nil
	}
	for _, e := range v.Audit.Entries {
		before, known := c.hash[e.Index]
		c.hash[e.Index] = e.Hash
		if known && before != e.Hash {
			out = append(out, fmt.Sprintf("entry %d of the audit log (%s %s) was rewritten", e.Index, e.Action, e.Subject))
		}
	}
	for _, w := range v.Audit.Witnesses {
		if w.Says == localapi.WitnessContradicts {
			out = append(out, fmt.Sprintf("the audit log of %s contradicts the leader's", w.Name))
		}
	}
	return out
}

func (c *auditChain) Live(v *View) []string {
	if v.Audit == nil || v.Audit.Verified == nil || !*v.Audit.Verified {
		return []string{"no node can show an audit log that all coordinators confirm"}
	}
	return nil
}

// cutOff: who was revoked is out.
type cutOff struct{}

// cutOffWithin is how long a revocation may take to end all tunnels to the node where no fault is in the way; a rumour and a pull take
// a few seconds.
const cutOffWithin = 30 * time.Second

func (*cutOff) Name() string        { return "revoked-out" }
func (*cutOff) Promise() string     { return "a revoked node is cut off from everybody" }
func (*cutOff) Safe(*View) []string { return nil }

// Live is the whole of it: while the network is split, nobody can know of a revocation on the other side.
func (*cutOff) Live(v *View) (out []string) {
	revoked := v.revoked()
	for _, n := range v.Nodes {
		if at, ok := revoked[n.Status.Self.ID]; ok && v.At-at > cutOffWithin && n.Status.Self.State == localapi.StateOnline {
			out = append(out, fmt.Sprintf("%s was revoked and is still online", n.Host))
		}
		for _, p := range n.Status.Peers {
			if at, ok := revoked[p.ID]; ok && v.At-at > cutOffWithin {
				out = append(out, fmt.Sprintf("%s still lists %s, which was revoked", n.Host, p.Name))
			}
		}
	}
	return out
}

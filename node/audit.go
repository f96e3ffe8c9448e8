package node

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// Audit gives the log of decisions as the leader has it; its hash chain was recomputed here. Without a quorum it is this node's own copy, if it keeps
// one. With verify, every coordinator is asked in which hash its own copy ends: a leader that rewrote the past is contradicted by the others.
func (n *Node) Audit(ctx context.Context, verify bool) (*localapi.Audit, error) {
	const what = "cannot show the audit log"
	m, err := n.membership("show the audit log")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, decideMax)
	defer cancel()
	chain, err := m.group.Audit(ctx)
	own := false
	if errors.Is(err, coordinator.ErrNoQuorum) {
		if chain, own = m.group.OwnAudit(); own {
			err = chain.Verify()
		}
	}
	if err != nil {
		return nil, failed(what, err)
	}
	out := &localapi.Audit{Dropped: chain.Dropped, Own: own}
	names := m.memberNames()
	for _, e := range chain.Entries {
		out.Entries = append(out.Entries, localapi.AuditEntry{
			Index: e.Index, Time: e.Time, By: idText(e.Asker), ByName: names[e.Asker], Action: e.Action, Subject: e.Subject, Outcome: e.Outcome,
			Hash: hex.EncodeToString(e.Hash[:]),
		})
	}
	head, _ := chain.HeadAt(chain.Count())
	out.Head = hex.EncodeToString(head[:])
	if verify {
		verified := true
		for _, w := range m.group.AuditWitnesses(ctx) {
			said := witness(chain, w)
			said.Name = names[w.Node]
			verified = verified && said.Says != localapi.WitnessContradicts
			out.Witnesses = append(out.Witnesses, said)
		}
		out.Verified = &verified
	}
	return out, nil
}

// witness compares one coordinator's copy with the chain.
func witness(chain coordinator.Audit, w coordinator.AuditWitness) localapi.AuditWitness {
	out := localapi.AuditWitness{ID: w.Node.String(), Entries: w.Count, Says: localapi.WitnessAgrees}
	head, kept := chain.HeadAt(w.Count)
	switch {
	case w.Err != nil:
		out.Entries, out.Says, out.Why = 0, localapi.WitnessSilent, w.Err.Error()
	case w.Count > chain.Count():
		// Decided after the chain was fetched. What it says of the entries before cannot be seen from its newest hash.
		out.Says, out.Why = localapi.WitnessSilent, "it has newer entries already; ask again"
	case !kept:
		out.Says, out.Why = localapi.WitnessBehind, "its last entry is older than what is kept"
	case head != w.Head:
		out.Says = localapi.WitnessContradicts
	case w.Count < chain.Count():
		out.Says = localapi.WitnessBehind
	}
	return out
}

// memberNames are the names of all members there ever were.
func (m *membership) memberNames() map[identity.NodeID]string {
	out := map[identity.NodeID]string{}
	for _, member := range m.group.State().Members {
		out[member.ID] = member.Certificate.Name
	}
	return out
}

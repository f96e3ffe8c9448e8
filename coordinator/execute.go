package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// execution answers one op on the leader.
type execution func(g *Group, ctx context.Context, r *replica, asker identity.NodeID, body []byte) ([]byte, error)

// executions is the table of what a leader can be asked.
var executions = map[op]execution{
	opEnroll:      on((*Group).executeEnroll),
	opInvite:      on((*Group).executeInvite),
	opInvitations: on((*Group).executeInvitations),
	opCancel:      on((*Group).executeCancel),
	opRevoke:      on((*Group).executeRevoke),
	opLeave:       on((*Group).executeLeave),
	opTag:         on((*Group).executeTag),
	opRename:      on((*Group).executeRename),
	opAudit:       on((*Group).executeAudit),
	opResign:      on((*Group).executeResign),

	opSetPolicy:      on((*Group).executeSetPolicy),
	opRollbackPolicy: on((*Group).executeRollbackPolicy),
	opPolicies:       on((*Group).executePolicies),
	opPolicyText:     on((*Group).executePolicyText),

	opApprove: on((*Group).executeApprove),

	opMoveRegion: on((*Group).executeMoveRegion),
	opYield:      on((*Group).executeYield),
}

// on decodes the body for an execution.
func on[B any](do func(*Group, context.Context, *replica, identity.NodeID, B) ([]byte, error)) execution {
	return func(g *Group, ctx context.Context, r *replica, asker identity.NodeID, raw []byte) ([]byte, error) {
		var body B
		if err := wire.Unmarshal(raw, &body); err != nil {
			return nil, refuse(RefusedRequest, "the question does not decode; update phantom on the older of the two machines")
		}
		return do(g, ctx, r, asker, body)
	}
}

// execute answers a question as the leader, after making sure that a majority still follows and that the ledger here holds
// everything that was ever acknowledged. errNotLeader: ask elsewhere.
func (g *Group) execute(ctx context.Context, r *replica, asker identity.NodeID, q question) ([]byte, error) {
	do, ok := executions[q.Op]
	if !ok {
		return nil, refuse(RefusedRequest, "question %d is not known here; update phantom on the leader's machine", q.Op)
	}
	if err := r.fence.fault(); err != nil || g.outdated(r) {
		return nil, errNotLeader
	}
	if err := g.ready(ctx, r); err != nil {
		return nil, err
	}
	var frozen error
	r.machine.view(func(l *Ledger) { frozen = l.Frozen() })
	if frozen != nil {
		return nil, frozen
	}
	state := g.ledgerState(r)
	if !state.Active(asker) {
		return nil, refuse(RefusedNotAllowed, "%s is not an active member of the mesh", asker.Short())
	}
	if slices.Contains(datedOps, q.Op) {
		if err := g.dated(ctx, r); err != nil {
			return nil, err
		}
	}
	return do(g, ctx, r, asker, q.Body)
}

// datedOps sign something with the leader's time. To put somebody out is none of them: that must work while no clock is right.
var datedOps = []op{opEnroll, opInvite, opApprove, opTag, opRename, opMoveRegion}

// ready confirms leadership and, once a term, waits until all entries of earlier terms are applied here.
func (g *Group) ready(ctx context.Context, r *replica) error {
	if err := r.verify(ctx); err != nil {
		return err
	}
	return r.begun(ctx)
}

func (g *Group) ledgerState(r *replica) (s *State) {
	r.machine.view(func(l *Ledger) { s = l.State() })
	return s.withCoordinators(g.ownView(r))
}

// propose replicates a command. A refusal comes back as *Refused.
func (g *Group) propose(ctx context.Context, r *replica, kind Kind, asker identity.NodeID, body any) (Result, error) {
	c, err := newCommand(kind, g.cfg.Now(), asker, body)
	if err != nil {
		return Result{}, err
	}
	return g.proposeCommand(ctx, r, c)
}

func (g *Group) proposeCommand(ctx context.Context, r *replica, c Command) (Result, error) {
	res, err := r.propose(ctx, c, g.cfg.Timing.RPC)
	if err != nil {
		return res, err
	}
	return res, res.Err()
}

func (g *Group) executeInvite(ctx context.Context, r *replica, asker identity.NodeID, b inviteBody) ([]byte, error) {
	_, err := g.propose(ctx, r, KindInvite, asker, b)
	if errors.Is(err, errConflict) { // asked again after a lost answer: the same invitation is there
		var same bool
		r.machine.view(func(l *Ledger) {
			inv, ok := l.Invitation(b.ID)
			same = ok && inv.Key == b.Key && inv.By == asker
		})
		if same {
			return nil, nil
		}
	}
	return nil, err
}

type nothing struct {
	_ struct{} `cbor:",toarray"`
}

// listMax keeps a list within an answer.
const listMax = 512

func (g *Group) executeInvitations(_ context.Context, r *replica, _ identity.NodeID, _ nothing) ([]byte, error) {
	var list []invitationRecord
	r.machine.view(func(l *Ledger) {
		for _, i := range l.Invitations(g.cfg.Now()) {
			if len(list) < listMax && l.backed(i) == nil {
				list = append(list, invitationRecord{ID: i.ID, Uses: i.Uses, Total: i.Total, Created: i.Created.UnixMilli(),
					Expires: i.Expires.UnixMilli(), Tags: i.Tags, Name: i.Name, By: i.By}) // without its key
			}
		}
	})
	return wire.Marshal(list)
}

func (g *Group) executeCancel(ctx context.Context, r *replica, asker identity.NodeID, b cancelBody) ([]byte, error) {
	_, err := g.propose(ctx, r, KindCancel, asker, b)
	return nil, err
}

type revokeRequest struct {
	_      struct{} `cbor:",toarray"`
	Node   identity.NodeID
	Reason string
}

func (g *Group) executeRevoke(ctx context.Context, r *replica, asker identity.NodeID, b revokeRequest) ([]byte, error) {
	voters, _ := r.servers()
	if err := MayRevoke(g.ledgerState(r), voters, g.self, b.Node); err != nil {
		return nil, err
	}
	return nil, g.endMembership(ctx, r, asker, certificate.Revocation{Node: b.Node, Reason: b.Reason})
}

// MayRevoke tells whether the group can bear that a node is revoked now, by what its leader sees. Errors: *Refused.
func MayRevoke(s *State, voters []identity.NodeID, leader, node identity.NodeID) error {
	switch {
	case len(voters) == 1 && node == leader:
		return refuse(RefusedNotAllowed, "this machine is the mesh's only coordinator; let it leave (phantom leave), so that it hands its "+
			"duties over first, or add machines until others coordinate too")
	case tooManyOut(s, voters, leader, node):
		return refuse(RefusedNotAllowed, "coordinators that were revoked just now have not been replaced yet, and without this one too the rest would be no majority; "+
			"try again in some seconds")
	}
	return nil
}

// tooManyOut tells whether the group could not remove its outcast voters any more if another one were to go: nobody hears an outcast, and to
// remove the first of them takes a majority of the others. If it is the leader that goes, another must be elected before, by a majority of all.
func tooManyOut(s *State, voters []identity.NodeID, leader, another identity.NodeID) bool {
	if !slices.Contains(voters, another) {
		return false
	}
	in := 0
	for _, id := range voters {
		if id != another && s.Active(id) {
			in++
		}
	}
	if another == leader {
		return in <= len(voters)/2
	}
	return in <= (len(voters)-1)/2
}

func (g *Group) executeLeave(ctx context.Context, r *replica, asker identity.NodeID, _ nothing) ([]byte, error) {
	return nil, g.endMembership(ctx, r, asker, certificate.Revocation{Node: asker, Reason: "left", Left: true})
}

func (g *Group) endMembership(ctx context.Context, r *replica, asker identity.NodeID, rev certificate.Revocation) error {
	command, err := g.author().EndMembership(g.ledgerState(r), asker, rev)
	if err != nil {
		return err
	}
	res, err := g.proposeCommand(ctx, r, command)
	if err == nil {
		g.cfg.Log.Info("coordinator: membership ended", "peer", rev.Node.Short(), "status", res.Member.Status.String(), "reason", rev.Reason)
	}
	return err
}

type tagRequest struct {
	_    struct{} `cbor:",toarray"`
	Node identity.NodeID
	Tags []string
}

func (g *Group) executeTag(ctx context.Context, r *replica, asker identity.NodeID, b tagRequest) ([]byte, error) {
	tags := certificate.SortTags(b.Tags)
	if r := validTags(tags); r != nil {
		return nil, r
	}
	return nil, g.reissue(ctx, r, b.Node, change{asker, "tagged", func(m *certificate.Member) { m.Tags = tags }})
}

type renameRequest struct {
	_    struct{} `cbor:",toarray"`
	Node identity.NodeID
	Name string
}

func (g *Group) executeRename(ctx context.Context, r *replica, asker identity.NodeID, b renameRequest) ([]byte, error) {
	if !validName(b.Name) {
		return nil, refuse(RefusedRequest, "%q is not a name: 1 to 63 of a-z, 0-9 and inner hyphens", b.Name)
	}
	var holder identity.NodeID
	r.machine.view(func(l *Ledger) { holder = l.byName[b.Name] })
	if !holder.IsZero() && holder != b.Node {
		return nil, refuse(RefusedRequest, "the name %s belongs to %s", b.Name, holder.Short())
	}
	return nil, g.reissue(ctx, r, b.Node, change{asker, "renamed", func(m *certificate.Member) { m.Name = b.Name }})
}

// change is what makes a member's next certificate differ from its last.
type change struct {
	asker identity.NodeID // zero: the group itself
	name  string          // for the audit log
	make  func(*certificate.Member)
}

// reissue signs a member's next certificate with a change, and proposes it; again when another change came first.
func (g *Group) reissue(ctx context.Context, r *replica, id identity.NodeID, c change) error {
	for range admitTries {
		m, ok := g.ledgerState(r).Member(id)
		if !ok || m.Status != Active {
			return refuse(RefusedNoMember, "%s is not an active member", id.Short())
		}
		command, err := g.author().Reissue(m, c.asker, c.name, c.make)
		if err != nil {
			return err
		}
		_, err = g.proposeCommand(ctx, r, command)
		if !errors.Is(err, errConflict) {
			return err
		}
	}
	return fmt.Errorf("coordinator: reissue the certificate of %s: %w", id.Short(), errConflict)
}

type auditAnswer struct {
	_       struct{} `cbor:",toarray"`
	Base    [32]byte
	Dropped uint64
	Entries []auditForm
	Head    [32]byte
}

func (g *Group) executeAudit(_ context.Context, r *replica, _ identity.NodeID, _ nothing) ([]byte, error) {
	var a Audit
	r.machine.view(func(l *Ledger) { a = l.audit.export() })
	a = a.newest(auditKept)
	out := auditAnswer{Base: a.Base, Dropped: a.Dropped, Head: a.Base}
	for _, e := range a.Entries {
		out.Entries, out.Head = append(out.Entries, e.form()), e.Hash
	}
	return wire.Marshal(out)
}

func unixMilli(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

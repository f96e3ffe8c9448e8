package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Handover gives this node's duties away before it stops, for as long as ctx lasts: its region to another member of it; leadership to another voter; its vote back to
// the group, or, if it is the only voter, to another member. A node without a vote has nothing to give. On an error the duties
// stay, and the group treats the node like any voter that went away.
func (g *Group) Handover(ctx context.Context) error {
	g.yield(ctx)
	r := g.current()
	if r == nil {
		return nil
	}
	g.handing.Store(true)
	defer g.handing.Store(false)
	voters, _ := r.servers()
	switch {
	case !contains(voters, g.self):
		return nil
	case len(voters) == 1:
		heir, err := g.lendVote(ctx, r)
		if err != nil || heir.IsZero() {
			return err
		}
	}
	if r.leads() {
		if err := g.giveLeadership(ctx, r); err != nil {
			return err
		}
	}
	if _, err := g.decide(ctx, opResign, nothing{}); err != nil {
		if _, refused := asRefused(err); refused {
			return nil // it would cost the group its majority: the vote stays with this node
		}
		return fmt.Errorf("coordinator: give the vote back: %w", err)
	}
	return g.resignLocally(r.raft.CurrentTerm())
}

// transferTries: a transfer has one election timeout to succeed, and a heartbeat that crosses it can spoil it.
const transferTries = 4

// giveLeadership makes another voter the leader.
func (g *Group) giveLeadership(ctx context.Context, r *replica) error {
	var err error
	for range transferTries {
		err = r.wait(ctx, func() raft.Future { return r.raft.LeadershipTransfer() })
		if err == nil || !r.leads() {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("coordinator: hand leadership over: %w", err)
}

const handoverPoll = 20 * time.Millisecond

// lendVote makes another member the second voter of a group of one. It returns zero if nobody is there.
func (g *Group) lendVote(ctx context.Context, r *replica) (identity.NodeID, error) {
	s := g.ledgerState(r)
	o := Observation{Self: g.self, Now: time.Now(), Wall: g.cfg.Now(), Voters: []identity.NodeID{g.self}, Alive: map[identity.NodeID]time.Time{g.self: {}}}
	for _, m := range s.Members {
		if m.ID != g.self && m.Status == Active && g.cfg.Alive(m.ID) {
			o.Alive[m.ID] = time.Time{}
		}
	}
	var failed error
	for _, id := range candidates(s, o) { // all stable: Timing is zero
		if err := g.lendTo(ctx, r, s, o, id); err == nil {
			return id, nil
		} else if failed = errors.Join(failed, err); ctx.Err() != nil {
			break
		}
	}
	if failed != nil {
		return identity.NodeID{}, fmt.Errorf("coordinator: hand the mesh's only vote over: %w", failed)
	}
	return identity.NodeID{}, nil
}

func (g *Group) lendTo(ctx context.Context, r *replica, s *State, o Observation, id identity.NodeID) error {
	if !s.MaySpeakRaft(id, o.Wall) {
		signer, depth, ok := signerFor(s, o)
		if !ok || signer != g.self {
			return errors.New("this node cannot make another one an issuer")
		}
		raw, err := g.signIssuer(id, depth)
		if err != nil {
			return err
		}
		if _, err = g.propose(ctx, r, KindIssuer, identity.NodeID{}, issuerBody{Certificate: raw}); err != nil && !errors.Is(err, errConflict) {
			return err
		}
	}
	change := func(a Action) error {
		ctx, cancel := context.WithTimeout(g.ctx, g.cfg.Timing.Decide)
		defer cancel()
		return g.changeGroup(ctx, r, Proposal{Action: a, Node: id})
	}
	if err := change(Stage); err != nil {
		return err
	}
	stage, cancel := context.WithTimeout(ctx, 2*g.cfg.Timing.RPC)
	defer cancel()
	for {
		st, err := g.askStatus(stage, id)
		if err == nil && st.Replica && st.Applied+caughtUpWithin >= r.raft.AppliedIndex() {
			return change(Promote)
		}
		select {
		case <-time.After(handoverPoll):
		case <-stage.Done():
			return errors.Join(fmt.Errorf("%s did not catch up in time", id.Short()), change(RemoveVoter))
		}
	}
}

// executeResign takes the vote of a voter that goes, if the group keeps a living majority without it.
func (g *Group) executeResign(ctx context.Context, r *replica, asker identity.NodeID, _ nothing) ([]byte, error) {
	voters, staged := r.servers()
	if asker == g.self {
		return nil, errNotLeader // it has just given leadership away, or is about to
	}
	if !contains(voters, asker) && !contains(staged, asker) {
		return nil, nil
	}
	o := Observation{Self: g.self, Now: time.Now(), Wall: g.cfg.Now(), Alive: map[identity.NodeID]time.Time{}}
	for _, id := range voters {
		if id == g.self || !r.contact.fails(id, 0) {
			o.Alive[id] = time.Time{}
		}
	}
	if !keepsMajority(g.ledgerState(r), o, without(voters, asker)) {
		return nil, refuse(RefusedNotAllowed, "without %s's vote the group would have no majority", asker.Short())
	}
	return nil, r.wait(ctx, func() raft.Future { return r.raft.RemoveServer(serverID(asker), 0, g.cfg.Timing.RPC) })
}

func contains(list []identity.NodeID, id identity.NodeID) bool {
	for _, x := range list {
		if x == id {
			return true
		}
	}
	return false
}

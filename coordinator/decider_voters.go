package coordinator

import (
	"context"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// What is done to the group.
const (
	Stage       Action = "stage"    // send the log to a node, without a vote
	Promote     Action = "promote"  // give the staged node its vote
	RemoveVoter Action = "remove"   // take a node out of the group, voter or staged
	Transfer    Action = "transfer" // make a node the leader
)

// DecideVoters keeps the group at one, three or five voters, one change at a time:
//
//  1. A leader that is no longer a member gives leadership away; other voters that are no longer members are removed.
//  2. Who is wanted (successors) is staged first: it receives the log without a vote. All that are wanted are staged before the
//     first is promoted, so that the group is even for milliseconds only.
//  3. One left over (standby) is staged to stay so.
//  4. A voter gone for Grace is removed when a staged successor has caught up; one gone for Shrink is removed anyway
//     (see removeLost).
//  5. A voter that has been hard to reach (behind a hard NAT, UDP blocked) for Shrink is replaced by one that is not: a leader first gives leadership
//     away, then the other is staged and promoted like any successor.
//  6. A voter too many (an even group, nobody gone) is removed, one that is hard to reach first.
//
// No change leaves the group without a living majority; what would, waits.
func DecideVoters(s *State, o Observation) []Proposal {
	steps := []func(*State, Observation) (Proposal, bool){
		abdicate, removeOutcast, dropStaged, stepAside, stageSuccessor, replaceOrPromote, removeLost, removeSurplus, stageStandby,
	}
	for _, step := range steps {
		if p, ok := step(s, o); ok {
			return []Proposal{p}
		}
	}
	return nil
}

// keepsMajority tells whether the group still has a living majority with these voters.
func keepsMajority(s *State, o Observation, voters []identity.NodeID) bool {
	o.Voters = voters
	return len(livingVoters(s, o)) > len(voters)/2
}

func without(list []identity.NodeID, id identity.NodeID) []identity.NodeID {
	return slices.DeleteFunc(slices.Clone(list), func(x identity.NodeID) bool { return x == id })
}

func abdicate(s *State, o Observation) (Proposal, bool) {
	if s.Active(o.Self) {
		return Proposal{}, false
	}
	for _, id := range livingVoters(s, o) {
		if id != o.Self {
			return Proposal{Action: Transfer, Node: id, Why: "the leader is no longer a member"}, true
		}
	}
	return Proposal{}, false
}

// stepAside has a leader that is to be relieved lead no longer: nobody removes itself.
func stepAside(s *State, o Observation) (Proposal, bool) {
	if !o.weary(o.Self) || !relieves(s, o, candidates(s, o)) {
		return Proposal{}, false
	}
	for _, id := range livingVoters(s, o) {
		if id != o.Self && !o.Poor[id] {
			return Proposal{Action: Transfer, Node: id, Why: "the leader is hard to reach"}, true
		}
	}
	return Proposal{}, false
}

func removeOutcast(s *State, o Observation) (Proposal, bool) {
	for _, id := range o.Voters {
		if id != o.Self && !s.Active(id) && keepsMajority(s, o, without(o.Voters, id)) {
			return Proposal{Action: RemoveVoter, Node: id, Why: "no longer a member"}, true
		}
	}
	return Proposal{}, false
}

func dropStaged(s *State, o Observation) (Proposal, bool) {
	for _, id := range o.Staged {
		switch {
		case !s.Active(id):
			return Proposal{Action: RemoveVoter, Node: id, Why: "no longer a member"}, true
		case o.goneFor(id) >= o.Timing.Grace:
			return Proposal{Action: RemoveVoter, Node: id, Why: "gone while it caught up"}, true
		case o.alive(id) && !slices.Contains(candidates(s, o), id):
			continue // alive, but not yet stable again
		case recentlyGone(o):
			continue // who is needed may be different when it comes back
		case o.alive(id) && !slices.Contains(slices.Concat(successors(s, o), standby(s, o)), id):
			return Proposal{Action: RemoveVoter, Node: id, Why: "no longer needed"}, true
		}
	}
	return Proposal{}, false
}

// recentlyGone tells whether a server is away and may still come back.
func recentlyGone(o Observation) bool {
	return slices.ContainsFunc(append(slices.Clone(o.Voters), o.Staged...), func(id identity.NodeID) bool {
		_, gone := o.Gone[id]
		return gone && o.goneFor(id) < o.Timing.Grace
	})
}

func stageSuccessor(s *State, o Observation) (Proposal, bool) {
	for _, id := range successors(s, o) {
		if !slices.Contains(o.Staged, id) && s.MaySpeakRaft(id, o.Wall) {
			return Proposal{Action: Stage, Node: id, Why: "to become a voter"}, true
		}
	}
	return Proposal{}, false
}

// stageStandby comes last: a change of the voters is more urgent.
func stageStandby(s *State, o Observation) (Proposal, bool) {
	for _, id := range standby(s, o) {
		if !slices.Contains(o.Staged, id) && s.MaySpeakRaft(id, o.Wall) {
			return Proposal{Action: Stage, Node: id, Why: "to stand by"}, true
		}
	}
	return Proposal{}, false
}

// replaceOrPromote acts when every successor has caught up: it first removes a lost voter whose place is filled, then promotes.
func replaceOrPromote(s *State, o Observation) (Proposal, bool) {
	next := successors(s, o)
	ready := slices.DeleteFunc(slices.Clone(next), func(id identity.NodeID) bool {
		return !o.CaughtUp[id] || !slices.Contains(o.Staged, id) || !s.MaySpeakRaft(id, o.Wall)
	})
	if len(next) == 0 || len(ready) < len(next) {
		return Proposal{}, false
	}
	for _, id := range o.Voters {
		if o.goneFor(id) >= o.Timing.Grace && keepsMajority(s, o, without(o.Voters, id)) {
			return Proposal{Action: RemoveVoter, Node: id, Why: "gone, another takes its vote"}, true
		}
	}
	lost := len(o.Voters) - len(livingVoters(s, o))
	if lost > 0 && len(o.Voters) >= VotersFor(len(o.Voters)) && len(o.Voters)%2 == 1 {
		return Proposal{}, false // a voter is away but may still come back: its successor waits at its side
	}
	if !keepsMajority(s, o, append(slices.Clone(o.Voters), ready[0])) {
		return Proposal{}, false
	}
	return Proposal{Action: Promote, Node: ready[0], Why: "caught up"}, true
}

// removeLost waits for Shrink, for a voter that comes back is cheaper than one that is made. It waits for Grace only if the group
// could bear no further loss now and could without the lost ones: two gone of five.
func removeLost(s *State, o Observation) (Proposal, bool) {
	patience, living := o.Timing.Shrink, len(livingVoters(s, o))
	if living == len(o.Voters)/2+1 && VotersFor(living) >= 3 {
		patience = o.Timing.Grace
	}
	for _, id := range o.Voters {
		if id != o.Self && o.goneFor(id) >= patience && keepsMajority(s, o, without(o.Voters, id)) {
			return Proposal{Action: RemoveVoter, Node: id, Why: "gone for good"}, true
		}
	}
	return Proposal{}, false
}

// pending tells whether a member without a vote is alive and not yet stable: it will soon be a candidate.
func pending(s *State, o Observation) bool {
	for id, since := range o.Alive {
		if s.Active(id) && !slices.Contains(o.Voters, id) && o.Now.Sub(since) < o.Timing.Stable {
			return true
		}
	}
	return false
}

// fillable tells whether somebody is there to fill the group up who is an issuer or can be made one. After the last of those who make
// issuers was revoked, nobody can.
func fillable(s *State, o Observation) bool {
	o.Unwilling = nil // who gave no signature just now may give one soon
	_, _, signable := signerFor(s, o)
	return slices.ContainsFunc(successors(s, o), func(id identity.NodeID) bool { return signable || s.MaySpeakRaft(id, o.Wall) })
}

// removeSurplus makes an even group odd again when all of it is alive and nobody is there to fill it up.
func removeSurplus(s *State, o Observation) (Proposal, bool) {
	living := livingVoters(s, o)
	if pending(s, o) || len(living) < len(o.Voters) || len(o.Voters) <= VotersFor(len(o.Voters)) || fillable(s, o) {
		return Proposal{}, false
	}
	var pick identity.NodeID
	for _, id := range living {
		switch {
		case id == o.Self:
		case pick.IsZero() || o.Poor[id] && !o.Poor[pick]:
			pick = id
		case o.Poor[id] == o.Poor[pick] && o.Alive[id].After(o.Alive[pick]):
			pick = id
		}
	}
	if pick.IsZero() || !keepsMajority(s, o, without(o.Voters, pick)) {
		return Proposal{}, false
	}
	return Proposal{Action: RemoveVoter, Node: pick, Why: "an even number of voters"}, true
}

// changeGroup carries out what DecideVoters proposed, and what a voter that goes wants.
func (g *Group) changeGroup(ctx context.Context, r *replica, p Proposal) error {
	id, addr, limit := serverID(p.Node), serverAddress(p.Node), g.cfg.Timing.RPC
	return r.wait(ctx, func() raft.Future {
		switch p.Action {
		case Stage:
			return r.raft.AddNonvoter(id, addr, 0, limit)
		case Promote:
			return r.raft.AddVoter(id, addr, 0, limit)
		case RemoveVoter:
			return r.raft.RemoveServer(id, 0, limit)
		case Transfer:
			return r.raft.LeadershipTransferToServer(id, addr)
		}
		panic("coordinator: no action of the group: " + string(p.Action))
	})
}

package coordinator

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Observation is what the leader sees beside the ledger, at one moment.
type Observation struct {
	Self identity.NodeID
	// Now is what this process's own clock says, which goes on evenly: what was seen here is counted in it. Wall is what the machine believes the
	// time to be, and may be set: what is in the ledger is compared with it.
	Now    time.Time
	Wall   time.Time
	Timing Timing
	Voters []identity.NodeID // of raft's latest configuration, sorted
	Staged []identity.NodeID // receive the log but have no vote yet, sorted
	// Alive and Gone hold since when; a node is in one of them. Of voters, Alive also means that heartbeats reach them.
	Alive map[identity.NodeID]time.Time
	Gone  map[identity.NodeID]time.Time
	// CaughtUp are the staged that have applied the log up to where it was a moment ago.
	CaughtUp map[identity.NodeID]bool
	// Poor are hard to reach: behind a hard NAT, or with UDP blocked. They vote only where nobody better is there.
	// PoorSince holds since when.
	Poor      map[identity.NodeID]bool
	PoorSince map[identity.NodeID]time.Time
	// Offers are the members that say they relay for others.
	Offers map[identity.NodeID]Offer
	// Unwilling were asked for an issuer's signature lately and gave none.
	Unwilling map[identity.NodeID]bool
	// Silent are coordinators of regions that have not answered the leader for Timing.Office. Yielding are those that go, and want to
	// coordinate nothing.
	Silent   map[identity.NodeID]bool
	Yielding map[identity.NodeID]bool
	// Holds is the version of the state that members say they hold; KeyringSeen since when the leader has seen the keyring there is.
	Holds       map[identity.NodeID]uint64
	KeyringSeen time.Time
}

func (o Observation) alive(id identity.NodeID) bool { _, ok := o.Alive[id]; return ok }

// goneFor tells for how long a node has not been seen; zero for one that is alive.
func (o Observation) goneFor(id identity.NodeID) time.Duration {
	if since, ok := o.Gone[id]; ok {
		return o.Now.Sub(since)
	}
	return 0
}

// weary tells whether a node has been hard to reach for so long that it will not pass.
func (o Observation) weary(id identity.NodeID) bool {
	since, ok := o.PoorSince[id]
	return ok && o.Poor[id] && o.Now.Sub(since) >= o.Timing.Shrink
}

// Action is what a proposal wants done, by the name that logs and golden traces have for it. Each belongs to one decider, and is declared with it.
type Action string

// Proposal is one thing a decider wants done, with its reason for the log.
type Proposal struct {
	Action Action
	Node   identity.NodeID
	Signer identity.NodeID // of SignIssuer
	Depth  uint8           // of SignIssuer
	Region string          // of ElectRegion, AppointRelay, DismissRelay
	Term   uint64          // of ElectRegion
	Why    string
}

// Decider is one row of the table. Decide is pure: its memory is the ledger.
type Decider struct {
	Name   string
	Decide func(ledger *State, seen Observation) []Proposal
	// Dates: what it proposes is signed with the leader's time, and so waits until its clock is known to be right.
	Dates bool
	// Prompt: it is not first proven that this node still leads, which takes a round trip. What it proposes proves it by being committed, or comes to nothing.
	Prompt bool
	// Staged: it looks at CaughtUp, for which the staged are asked first. That takes a while when one of them does not answer, and a region
	// must not wait for it.
	Staged bool
	// carryOut does what it proposed. It may be called a second time for the same proposal: after it failed, or by the next leader.
	carryOut func(g *Group, ctx context.Context, r *replica, p Proposal) error
}

// Deciders is the table: a further decider is one file, with its actions, what decides and what carries out, and one row. Each runs every
// tick on the leader; what it proposes is carried out in order, up to proposalsPerTick.
var Deciders = []Decider{
	{Name: "regions", Decide: DecideRegions, carryOut: (*Group).electRegion, Prompt: true},
	{Name: "issuers", Decide: DecideIssuers, carryOut: (*Group).grantIssuer, Dates: true},
	{Name: "voters", Decide: DecideVoters, carryOut: (*Group).changeGroup, Staged: true},
	{Name: "renewal", Decide: DecideRenewal, carryOut: (*Group).renew, Dates: true},
	{Name: "keyring", Decide: DecideKeyring, carryOut: (*Group).changeKeys, Dates: true},
	{Name: "relays", Decide: DecideRelays, carryOut: (*Group).changeRelays},
}

// proposalsPerTick bounds what one decider can set off at once: a commit takes some milliseconds.
const proposalsPerTick = 8

// VotersFor is the size of the group by the number of members that could vote: always odd, since a fourth voter makes a group
// slower but not safer.
func VotersFor(reachable int) int {
	switch {
	case reachable >= 5:
		return 5
	case reachable >= 3:
		return 3
	}
	return 1
}

// candidates are active members that have been alive for long enough and have no vote, the best first: those that others reach
// easily, of regions that have the fewest voters, those who are issuers already, then by how long they have been alive. Each one counts as
// a voter of its region for those after it, so that the first few are spread as well.
func candidates(s *State, o Observation) []identity.NodeID {
	var out []identity.NodeID
	for _, m := range s.Members {
		since, alive := o.Alive[m.ID]
		if m.Status == Active && alive && o.Now.Sub(since) >= o.Timing.Stable && !slices.Contains(o.Voters, m.ID) {
			out = append(out, m.ID)
		}
	}
	crowd := map[string]int{} // voters by region
	for _, id := range livingVoters(s, o) {
		crowd[s.RegionOf(id)]++
	}
	better := func(a, b identity.NodeID) int {
		return cmp.Or(
			falseFirst(o.Poor[a], o.Poor[b]),
			cmp.Compare(crowd[s.RegionOf(a)], crowd[s.RegionOf(b)]),
			falseFirst(!s.MaySpeakRaft(a, o.Wall), !s.MaySpeakRaft(b, o.Wall)),
			o.Alive[a].Compare(o.Alive[b]))
	}
	for i := range min(len(out), candidatesMax) {
		slices.SortStableFunc(out[i:], better)
		crowd[s.RegionOf(out[i])]++
	}
	return out
}

// candidatesMax is how many candidates are put in order: more than the group ever wants at once.
const candidatesMax = 8

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// successors are the candidates that the group wants now: as many as it takes to fill it, or one to relieve a voter.
func successors(s *State, o Observation) []identity.NodeID {
	list := candidates(s, o)
	living := len(livingVoters(s, o))
	missing := VotersFor(living+len(list)) - living
	if missing <= 0 && relieves(s, o, list) {
		missing = 1
	}
	return list[:max(0, min(missing, len(list)))]
}

// relieves tells whether the first candidate, whom others reach easily, should vote in place of a voter that has long been hard to reach. The
// group must be whole: with a voter away, a further change could cost its majority.
func relieves(s *State, o Observation, list []identity.NodeID) bool {
	n := len(o.Voters)
	return len(list) > 0 && !o.Poor[list[0]] && n > 1 && n == VotersFor(n) && len(livingVoters(s, o)) == n && slices.ContainsFunc(o.Voters, o.weary)
}

// standby is who receives the log without a vote, for as long as it is not needed as a voter: the one left over when two or four could
// vote. Should all the others be lost for good, it holds the whole ledger and may sign, so that a person can recover the mesh on it. From
// five on the voters are many enough.
func standby(s *State, o Observation) []identity.NodeID {
	list := candidates(s, o)
	next := successors(s, o)
	if total := len(livingVoters(s, o)) + len(list); total > 5 || len(list) == len(next) {
		return nil
	}
	rest := list[len(next):]
	for _, id := range rest { // who is there already stays
		if slices.Contains(o.Staged, id) {
			return []identity.NodeID{id}
		}
	}
	return rest[:1]
}

func livingVoters(s *State, o Observation) []identity.NodeID {
	return slices.DeleteFunc(slices.Clone(o.Voters), func(id identity.NodeID) bool { return !s.Active(id) || !o.alive(id) })
}

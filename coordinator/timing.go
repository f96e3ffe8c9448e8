package coordinator

import "time"

// Timing holds every wait of the group. The profiles keep these relations: lease < heartbeat <= election (raft insists);
// the longest silence of a leader, 2x beat, is under the lease, by what a busy machine or a lost packet adds; stable and grace are many elections, so that a failover never
// looks like a lost voter.
type Timing struct {
	Heartbeat time.Duration // a follower that hears nothing for this long (to 2x, drawn) campaigns
	Stagger   time.Duration // over which the moments are spread at which followers campaign, so that seldom two do at once
	Election  time.Duration // a candidate that has not won after this long (to 2x, drawn) starts again
	Lease     time.Duration // a leader that reached no majority for this long steps down
	Beat      time.Duration // a leader sends each voter a heartbeat every 1 to 2x this
	Commit    time.Duration // followers see a decision 1 to 2x this later: an append tells them once (idle.go)
	RPC       time.Duration // deadline of one raft message and of opening its stream
	Tick      time.Duration // deciders and duties
	Stable    time.Duration // a node is a candidate for a vote when it has been alive for this long
	Grace     time.Duration // a voter gone for this long is replaced if another node can take its vote
	Shrink    time.Duration // a voter gone for this long loses its vote even if nobody takes it over
	Ask       time.Duration // whole time a member looks for a leader before it reports ErrNoQuorum: at least one failover
	Decide    time.Duration // whole time for a decision once a leader is found
	Ping      time.Duration // the leader asks a region's coordinator outside the group for a sign of life this often
	Answer    time.Duration // a server that is there answers within this: a round trip
	Greet     time.Duration // a follower sends the others something that is answered this often, see greet.go; 0: never
	Office    time.Duration // a region's coordinator not heard of for this long is replaced, and one that heard no leader for as long steps aside
	Poll      time.Duration // a member pulls the state at least this often, longer in big meshes (pollPerMember)
	Seek      time.Duration // the same while no coordinator with a quorum is known, and once after a pull that brought news
}

// LAN fits links up to 20 ms; Answer leaves a busy machine the rest. Measured with five processes whose leader is killed: a new leader after a median of 0.74 s, at worst 1.2 s. Idle, a
// leader sends each voter 4.4 heartbeats a second, each a packet of about 90 bytes that is answered with one, and acknowledged once more: see docs/performance.md.
func LAN() Timing {
	return Timing{
		Heartbeat: 380 * time.Millisecond, Stagger: 150 * time.Millisecond, Election: 380 * time.Millisecond, Lease: 370 * time.Millisecond,
		Beat: 150 * time.Millisecond, Commit: 100 * time.Millisecond, RPC: time.Second, Tick: 500 * time.Millisecond,
		Stable: 3 * time.Second, Grace: 15 * time.Second, Shrink: 60 * time.Second,
		Ask: 2500 * time.Millisecond, Decide: 5 * time.Second,
		Ping: 500 * time.Millisecond, Answer: 150 * time.Millisecond, Office: 900 * time.Millisecond, Poll: 20 * time.Minute, Seek: 5 * time.Second,
	}
}

// WAN fits links with round trips up to 300 ms: a heartbeat is heard up to 2x Beat and a round trip after the one before, and 1.5 round trips later
// when a packet is lost. What is later still costs a question to the others, not an election: they hear the leader. Office is two questions, of
// which one may be lost. Greet is less than the 30 s after which many routers forget who spoke with whom.
func WAN() Timing {
	return Timing{
		Heartbeat: time.Second, Stagger: 250 * time.Millisecond, Election: time.Second, Lease: 900 * time.Millisecond,
		Beat: 200 * time.Millisecond, Commit: 200 * time.Millisecond, RPC: 4 * time.Second, Tick: 500 * time.Millisecond,
		Stable: 15 * time.Second, Grace: 60 * time.Second, Shrink: 240 * time.Second,
		Ask: 2500 * time.Millisecond, Decide: 10 * time.Second,
		Ping: 500 * time.Millisecond, Answer: 300 * time.Millisecond, Greet: 25 * time.Second, Office: 1500 * time.Millisecond, Poll: 20 * time.Minute, Seek: 10 * time.Second,
	}
}

// pollPerMember stretches Seek so that a big mesh's pulls stay near 20 a second over all members.
const pollPerMember = 50 * time.Millisecond

// poll returns how long a plain member waits until it pulls without being told to. That a new state exists is told by gossip, as is that a
// coordinator has come or gone (Group.Refresh); what is left for polling to find is rare, and every pull may cost a connection of 25 kB.
func (t Timing) poll(members int, quorum bool) time.Duration {
	seek := max(t.Seek, time.Duration(members)*pollPerMember)
	if quorum {
		return max(t.Poll, seek)
	}
	return seek
}

// refreshWait is how long a member waits before it asks the coordinators about themselves, because one came or went: about as long as an
// election takes. A big mesh's members spread their questions further.
func refreshWait(members int) time.Duration {
	return time.Second + time.Duration(members)*pollPerMember/10
}

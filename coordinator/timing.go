package coordinator

import "time"

// Timing holds every wait of the group. The profiles keep these relations: lease < heartbeat <= election (raft insists);
// stable and grace are many elections, so that a failover never looks like a lost voter.
type Timing struct {
	Heartbeat time.Duration // a follower that hears nothing for this long (to 2x, drawn) campaigns
	Election  time.Duration // a candidate that has not won after this long (to 2x, drawn) starts again
	Lease     time.Duration // a leader that reached no majority for this long steps down
	Commit    time.Duration // idle append, carries the commit index to followers: they see a decision 1 to 2x this later
	RPC       time.Duration // deadline of one raft message and of opening its stream
	Tick      time.Duration // deciders and duties
	Stable    time.Duration // a node is a candidate for a vote when it has been alive for this long
	Grace     time.Duration // a voter gone for this long is replaced if another node can take its vote
	Shrink    time.Duration // a voter gone for this long loses its vote even if nobody takes it over
	Ask       time.Duration // whole time a member looks for a leader before it reports ErrNoQuorum: at least one failover
	Decide    time.Duration // whole time for a decision once a leader is found
	Poll      time.Duration // a member pulls the state at least this often, longer in big meshes (pollPerMember)
}

// LAN fits links up to 20 ms. Measured in virtual time with 10 to 20 ms links: leader killed, new leader after a median of
// 0.7 s, first commit 0.75 s (worst 1.3 s).
func LAN() Timing {
	return Timing{
		Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond, Lease: 250 * time.Millisecond,
		Commit: 200 * time.Millisecond, RPC: time.Second, Tick: 500 * time.Millisecond,
		Stable: 3 * time.Second, Grace: 15 * time.Second, Shrink: 60 * time.Second,
		Ask: 2 * time.Second, Decide: 5 * time.Second, Poll: 5 * time.Second,
	}
}

// WAN fits links up to 300 ms: a heartbeat must survive one lost packet and its retransmission (about 3 round trips).
func WAN() Timing {
	return Timing{
		Heartbeat: 1200 * time.Millisecond, Election: 1200 * time.Millisecond, Lease: time.Second,
		Commit: 400 * time.Millisecond, RPC: 4 * time.Second, Tick: 500 * time.Millisecond,
		Stable: 15 * time.Second, Grace: 60 * time.Second, Shrink: 240 * time.Second,
		Ask: 2500 * time.Millisecond, Decide: 10 * time.Second, Poll: 10 * time.Second,
	}
}

// pollPerMember stretches Poll so that a big mesh's pulls stay near 20 a second over all members.
const pollPerMember = 50 * time.Millisecond

func (t Timing) poll(members int) time.Duration {
	return max(t.Poll, time.Duration(members)*pollPerMember)
}

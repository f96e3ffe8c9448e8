package coordinator

import (
	"time"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Followers speak with their leader, and with each other only once it is lost. A candidate that has to make connections first, or to open streams on them,
// has its first answer three round trips later, on links that lose packets more, and others campaign meanwhile. So where round trips count
// (Timing.Greet) a follower greets the other voters now and then, over the streams that it would ask for their votes on: connection, streams and
// the routers' memory stay as they are, and an election begins at once.
//
// A greeting is a pre-vote for term 0. Whom it reaches answers it before raft or canvass.go see it; raft would refuse it, as its own term is
// higher.

var greetingHeader = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}

func isGreeting(command any) bool {
	a, ok := command.(*raft.RequestPreVoteRequest)
	return ok && a.Term == 0
}

// greet sends the other voters a greeting where it is time to. Its goroutines end within Timing.RPC, or with the replica's streams.
func (g *Group) greet(r *replica) {
	now := time.Now()
	if g.cfg.Timing.Greet == 0 || now.Before(g.greetAt) {
		return
	}
	g.greetAt = now.Add(g.cfg.Timing.Greet)
	voters, _ := r.servers()
	if !contains(voters, g.self) {
		return
	}
	for _, id := range voters {
		if id == g.self || id == r.leader() || !g.cfg.Alive(id) {
			continue
		}
		for range greetings {
			g.running.Go(func() { r.network.greet(id) })
		}
	}
}

// greetings are sent at a time: as many as a candidate needs streams at once, one for a pre-vote that is kept (canvass.go), one for the vote.
const greetings = 2

func (t *fencedTransport) greet(id identity.NodeID) {
	args := &raft.RequestPreVoteRequest{RPCHeader: greetingHeader}
	t.overFreshStream(func() error {
		return t.NetworkTransport.RequestPreVote(serverID(id), serverAddress(id), args, &raft.RequestPreVoteResponse{})
	})
}

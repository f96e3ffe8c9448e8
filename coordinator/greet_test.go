package coordinator

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// with counts the streams with a node, both ways.
func (s *raftStreams) with(id identity.NodeID) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.Peer().ID == id {
			n++
		}
	}
	return n
}

// A follower has streams to the other followers before it needs their votes, and keeps them.
func TestFollowersKnowEachOtherBeforeTheyNeedVotes(t *testing.T) {
	for name, greet := range map[string]time.Duration{"with greetings": 5 * time.Second, "without": 0} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *lab) {
				l.timing.Greet = greet
				l.mesh(5)
				settle(l, 5)
				lead := l.leader()
				term := lead.group.current().raft.CurrentTerm()
				time.Sleep(time.Minute)
				for _, m := range l.nodes {
					for _, other := range l.nodes {
						if m == other || m == lead || other == lead {
							continue
						}
						want := 0
						if greet > 0 {
							want = 2 * greetings // both ways
						}
						if got := m.group.current().streams.with(other.id()); got != want {
							t.Errorf("%s has %d streams with %s, want %d", m.name, got, other.name, want)
						}
					}
					r := m.group.current()
					r.canvass.mu.Lock()
					if p := r.canvass.promises; p.to.candidate != "" || p.ownUntil.After(time.Now()) {
						t.Errorf("%s has promised something: %+v", m.name, p)
					}
					r.canvass.mu.Unlock()
				}
				if now := lead.group.current().raft.CurrentTerm(); l.leader() != lead || now != term {
					t.Errorf("term %d became %d", term, now)
				}
			})
		})
	}
}

// A greeting is answered by a voter in any state, at once: also by one that would keep a pre-vote, or has no leader.
func TestAGreetingIsAnsweredAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		l.mesh(3)
		settle(l, 3)
		lead := l.leader()
		lead.kill()
		var asks, asked *member
		for _, m := range l.nodes {
			if m != lead {
				asks, asked = asked, m
			}
		}
		time.Sleep(l.timing.Heartbeat / 2) // a pre-vote would be kept until the leader is lost
		r := asks.group.current()
		begun := time.Now()
		var resp raft.RequestPreVoteResponse
		args := &raft.RequestPreVoteRequest{RPCHeader: greetingHeader}
		if err := r.network.NetworkTransport.RequestPreVote(serverID(asked.id()), serverAddress(asked.id()), args, &resp); err != nil || resp.Granted {
			t.Errorf("answered %+v, %v", resp, err)
		}
		if took := time.Since(begun); took > l.timing.Beat/10 {
			t.Errorf("after %v", took)
		}
		if p := &asked.group.current().canvass.promises; p.to.candidate != "" {
			t.Errorf("promised to %s", p.to.candidate)
		}
	})
}

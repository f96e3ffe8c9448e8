package coordinator

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// echoes remembers, for each server, which was the last heartbeat or append that it agreed to. They are numbered as they are sent.
type echoes struct {
	mu     sync.Mutex
	number uint64
	agreed map[raft.ServerID]uint64
	heard  map[raft.ServerID]time.Time // when one last answered anything
	spoke  map[raft.ServerID]time.Time // when one last spoke as the leader
	term   uint64                      // in which this node last asked for votes
	asked  time.Time                   // when it first did in that term
}

// next numbers what is sent now.
func (e *echoes) next() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.number++
	return e.number
}

func (e *echoes) note(id raft.ServerID, number uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.agreed == nil || len(e.agreed) >= 2*maxServers {
		e.agreed = map[raft.ServerID]uint64{}
	}
	e.agreed[id] = number
}

// hear notes an answer of any kind.
func (e *echoes) hear(id raft.ServerID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.heard == nil || len(e.heard) >= 2*maxServers {
		e.heard = map[raft.ServerID]time.Time{}
	}
	e.heard[id] = time.Now()
}

// led notes that a server speaks as the leader.
func (e *echoes) led(id raft.ServerID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.spoke == nil || len(e.spoke) >= 2*maxServers {
		e.spoke = map[raft.ServerID]time.Time{}
	}
	e.spoke[id] = time.Now()
}

// ask notes that this node asks for votes. It asks all servers at once.
func (e *echoes) ask(term uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.term != term {
		e.term, e.asked = term, time.Now()
	}
}

// succession returns when this node asked for the votes by which it leads, and when a server last spoke as the leader; zero: never.
func (e *echoes) succession(id identity.NodeID) (asked, spoke time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked, e.spoke[serverID(id)]
}

// lastHeard returns when a server last answered; zero: not yet.
func (e *echoes) lastHeard(id identity.NodeID) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard[serverID(id)]
}

// since counts those of a list that have agreed to something that was sent after a number was given out.
func (e *echoes) since(number uint64, list []identity.NodeID) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range list {
		if e.agreed[serverID(id)] > number {
			n++
		}
	}
	return n
}

// AppendEntries implements raft.Transport.
func (t *fencedTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := t.silenced(); err != nil {
		return err
	}
	if t.said.spares(id, args, t.patience) {
		*resp = raft.AppendEntriesResponse{RPCHeader: args.RPCHeader, Term: args.Term, LastLog: args.PrevLogEntry, Success: true}
		return nil
	}
	number := t.echoes.next()
	err := t.NetworkTransport.AppendEntries(id, target, args, resp)
	if err == nil {
		t.echoes.hear(id)
	}
	if err == nil && resp.Success {
		t.echoes.note(id, number)
		t.said.agreed(id, args)
	} else {
		t.said.forget(id)
	}
	return err
}

// echoPoll is how often verify looks whether a majority has answered: a fraction of a round trip.
const echoPoll = 2 * time.Millisecond

// verify asks a majority whether we still lead; on a group cut in two it fails as soon as the lease ends. VerifyLeader of raft 1.8.0 counts
// the answers of servers without a vote as well, so where there are such, a majority of the voters must have answered since, too.
func (r *replica) verify(ctx context.Context) error {
	asked := r.echoes.next()
	if err := r.wait(ctx, r.raft.VerifyLeader); err != nil {
		return errNotLeader
	}
	voters, staged := r.servers()
	if len(staged) == 0 || len(voters) <= 1 {
		return nil
	}
	for r.leads() {
		if 1+r.echoes.since(asked, voters) > len(voters)/2 {
			return nil
		}
		select {
		case <-time.After(echoPoll):
		case <-ctx.Done():
			return errNotLeader
		}
	}
	return errNotLeader
}

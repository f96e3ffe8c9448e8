package coordinator

import (
	"context"
	"sync"

	"golang.org/x/time/rate"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// A member's questions to the leader: a commit takes milliseconds and an entry in everybody's log, so that one member alone must not fill either.
// Who is over it waits, and gives up at its own deadline. The burst lets a script invite, or a member pass on, a whole fleet's joining.
const (
	askRate  = 50 // a second, of one member
	askBurst = 200
)

// askers holds the pace of every member that asks. Members are bounded, and with them this.
type askers struct {
	mu    sync.Mutex
	paces map[identity.NodeID]*rate.Limiter
}

// wait returns when id may be answered, or with an error when it would be after ctx.
func (a *askers) wait(ctx context.Context, id identity.NodeID) error {
	return a.of(id, askRate, askBurst).Wait(ctx)
}

func (a *askers) of(id identity.NodeID, every rate.Limit, burst int) *rate.Limiter {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.paces == nil || len(a.paces) >= maxMembers {
		a.paces = map[identity.NodeID]*rate.Limiter{}
	}
	l, ok := a.paces[id]
	if !ok {
		l = rate.NewLimiter(every, burst)
		a.paces[id] = l
	}
	return l
}

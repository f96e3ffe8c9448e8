package reach

import (
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

const (
	// upkeepInterval is how often indirect paths are looked at without news; upkeepPause is the least time between two looks, and upkeepTurn what each
	// path adds to it: in a mesh of hundreds that forms something changes all the time.
	upkeepInterval = 30 * time.Second
	upkeepPause    = 100 * time.Millisecond
	upkeepTurn     = 500 * time.Microsecond
	// channelLinger is for how long a channel stays open beside a direct path: what was just found may be lost again.
	channelLinger = time.Minute
	// channelIdle ends a channel to a member that nobody talks to.
	channelIdle = 5 * time.Minute
)

// upkeep punches the members that are in use and reached indirectly, and gives up channels that nobody needs any more.
func (r *Reach) upkeep() {
	news, cancelNews := r.table.Watch()
	defer cancelNews()
	changed, cancel := r.net.Watch()
	defer cancel()
	for r.ctx.Err() == nil {
		now, paths := time.Now(), r.net.Paths()
		next, least := min(r.punchDue(paths, now), r.closeIdle(paths, now)), upkeepPause+time.Duration(len(paths))*upkeepTurn
		tick, pause := time.NewTimer(max(next, least)), time.NewTimer(least)
		select {
		case <-r.ctx.Done():
		case <-pause.C:
		}
		select {
		case <-r.ctx.Done():
		case <-tick.C:
		case <-news:
		case <-changed:
		case <-r.wakeUpkeep:
		}
		tick.Stop()
		pause.Stop()
	}
}

// punchDue begins the attempts that are due and returns how long until the next is.
func (r *Reach) punchDue(paths map[identity.NodeID]Path, now time.Time) time.Duration {
	next := upkeepInterval
	var order []identity.NodeID
	for id, p := range paths {
		if p.Kind == Relayed || p.Kind == Pipe {
			order = append(order, id)
		}
	}
	// Tunnels first: places are few, and with whom only gossip is exchanged a relayed path is good enough for now.
	slices.SortFunc(order, func(a, b identity.NodeID) int {
		if x, y := paths[a].Tunnel, paths[b].Tunnel; x != y {
			if x {
				return -1
			}
			return 1
		}
		return a.Compare(b)
	})
	for _, id := range order {
		p := paths[id]
		if p.Kind == Relayed && p.Tunnel && now.Sub(p.Heard) < inUse && r.lacksSecond(id, now) {
			r.Assist(id)
		}
		wait, due := r.mayPunch(id, p, now)
		switch {
		case !due:
		case !r.beginPunch(id, now):
			wait = time.Second // for a place, or its budget
		case !r.spawn(func() { r.punch(id) }):
			return next
		}
		if wait > 0 {
			next = min(next, wait)
		}
	}
	return next
}

// lacksSecond reports whether it is time to look for another relay to a member that is reached through one of ours only: the second must be there
// before the first is gone. Where there is none it is looked for at the pace of punches.
func (r *Reach) lacksSecond(id identity.NodeID, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	open := 0
	for k := range r.channels {
		if k.peer == id {
			open++
		}
	}
	h := r.historyLocked(id)
	switch {
	case open >= channelsEnough:
		h.helps = 0
	case open == 1 && !now.Before(h.helpNext):
		h.helpNext = now.Add(punchBackoff[min(h.helps, len(punchBackoff)-1)])
		h.helps++
		return true
	}
	return false
}

// mayPunch reports whether an attempt with a member is due, or how long until it is. What its record says anew sets the pace back.
func (r *Reach) mayPunch(id identity.NodeID, p Path, now time.Time) (wait time.Duration, due bool) {
	e, ok := r.table.Get(id)
	if !ok || e.Revoked {
		return 0, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.historyLocked(id)
	if e.HasRecord {
		if k := knowledgeOf(e.Record); k != h.known {
			h.known = k
			h.pace.renew(now)
		}
	}
	if p.Tunnel && !h.tunnel {
		h.pace.renew(now) // somebody wants this path now: what was tried for gossip's sake counts for nothing
		h.pace.next = time.Time{}
	}
	h.tunnel = p.Tunnel
	switch {
	case now.Sub(p.Heard) > inUse && now.Sub(h.wanted) > inUse, h.busy():
		return 0, false
	case h.pace.due(now):
		return 0, true
	}
	return h.pace.next.Sub(now), false
}

// closeIdle gives back the channels to members that are reached directly by now, or that nobody talks to, and returns when to look again.
func (r *Reach) closeIdle(paths map[identity.NodeID]Path, now time.Time) time.Duration {
	var done []*lease
	next := upkeepInterval
	r.mu.Lock()
	for k, c := range r.channels {
		if c.lease == nil {
			continue
		}
		p := paths[k.peer]
		limit := channelIdle
		if p.Kind == Direct || p.Kind == Pipe {
			limit = channelLinger
		} else if now.Sub(p.Heard) < inUse || now.Sub(r.historyLocked(k.peer).wanted) < inUse {
			c.idle = time.Time{}
			continue
		}
		if c.idle.IsZero() {
			c.idle = now
		}
		if left := limit - now.Sub(c.idle); left > 0 {
			next = min(next, left)
			continue
		}
		done = append(done, c.lease)
	}
	r.mu.Unlock()
	for _, l := range done {
		l.end()
	}
	return next
}

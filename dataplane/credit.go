package dataplane

import (
	"sync/atomic"
	"time"
)

// Credits bound the packets between the host's side and the wire's side of the WireGuard device, one bound per direction. The
// device's own queues hold thousands of packets; on few cores that only cools the caches: with 64 to 128 packets in flight a
// two-core machine moves 12 % more for 15 % less CPU (docs/performance.md).
//
// A packet takes a credit when it enters and gives it back when it leaves. Packets that are lost inside (no session yet, a bad
// authenticator, a replay) never leave, so credits are also forgiven: all of them when nothing has moved for creditStall, and
// in any case once every creditPardon while somebody waits. An account whose packets did not move is not charged again until one
// of them does, so a peer that is gone can not hold up the others.

const (
	// creditDefault is the default bound per direction, in packets. A batch that was read when one credit was left goes over it:
	// at most 64 + 127 packets are in flight.
	creditDefault = 64
	// creditStall: two hundred times what a batch needs (about 25 µs), well below what a user notices.
	creditStall = 5 * time.Millisecond
	// creditPardon: at most one bound of extra packets per 100 ms, which is nothing at the rates where the bound matters.
	creditPardon = 100 * time.Millisecond
)

// account is what one flow of packets owes.
type account struct {
	charged atomic.Int64
	stuck   atomic.Bool // not charged until its packets move
}

// credits are the bound of one direction.
type credits struct {
	limit    int64 // constant; zero or less: no bound
	inflight atomic.Int64
	waiting  atomic.Int32
	moved    atomic.Bool   // something came back while somebody waited
	signal   chan struct{} // capacity 1: there is room
	accounts func(func(*account))
}

// creditWaiter is the private part of one goroutine that takes credits.
type creditWaiter struct {
	timer    *time.Timer
	pardoned time.Time
}

func newCredits(limit int, accounts func(func(*account))) *credits {
	return &credits{limit: int64(limit), signal: make(chan struct{}, 1), accounts: accounts}
}

func newCreditWaiter() *creditWaiter {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &creditWaiter{timer: t}
}

// take charges the account with n packets that have entered.
func (c *credits) take(a *account, n int64) {
	if c.limit <= 0 || n == 0 || a.stuck.Load() {
		return
	}
	a.charged.Add(n)
	c.inflight.Add(n)
}

// give takes n packets that have left off the account, as far as they are on it.
func (c *credits) give(a *account, n int64) {
	if c.limit <= 0 {
		return
	}
	if a.stuck.Load() {
		a.stuck.Store(false)
	}
	for {
		old := a.charged.Load()
		back := min(n, old)
		if back <= 0 {
			return
		}
		if a.charged.CompareAndSwap(old, old-back) {
			c.back(back)
			return
		}
	}
}

// back returns credits to everybody.
func (c *credits) back(n int64) {
	left := c.inflight.Add(-n)
	if c.waiting.Load() == 0 {
		return
	}
	c.moved.Store(true)
	if left < c.limit {
		select {
		case c.signal <- struct{}{}:
		default:
		}
	}
}

// settle closes an account: its packets will not come back.
func (c *credits) settle(a *account) {
	a.stuck.Store(true)
	if n := a.charged.Swap(0); n > 0 {
		c.back(n)
	}
}

// wait returns when there is room for another batch, false when stop is closed first. It never waits longer than a few times
// creditStall.
func (c *credits) wait(w *creditWaiter, stop <-chan struct{}) bool {
	if c.limit <= 0 || c.inflight.Load() < c.limit {
		return true
	}
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	if now := time.Now(); now.Sub(w.pardoned) >= creditPardon {
		w.pardoned = now
		c.pardon(false)
	}
	w.timer.Reset(creditStall)
	defer w.timer.Stop()
	for c.inflight.Load() >= c.limit {
		select {
		case <-c.signal:
		case <-w.timer.C:
			if !c.moved.Swap(false) {
				c.pardon(true)
			}
			w.timer.Reset(creditStall)
		case <-stop:
			return false
		}
	}
	if c.waiting.Load() > 1 {
		select {
		case c.signal <- struct{}{}: // the room may be enough for the next one too
		default:
		}
	}
	return true
}

// pardon forgives what is in flight. With stalled, those who owed are not charged again until their packets move.
func (c *credits) pardon(stalled bool) {
	c.accounts(func(a *account) {
		if n := a.charged.Swap(0); n > 0 {
			if stalled {
				a.stuck.Store(true)
			}
			c.inflight.Add(-n)
		}
	})
}

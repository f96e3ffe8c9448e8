package dataplane

import (
	"testing"
	"testing/synctest"
	"time"
)

// bound makes credits over the given accounts.
func bound(limit int, accounts ...*account) *credits {
	return newCredits(limit, func(f func(*account)) {
		for _, a := range accounts {
			f(a)
		}
	})
}

func TestCreditsBoundWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &account{}
		c, w := bound(8, a), newCreditWaiter()
		stop := make(chan struct{})
		c.wait(w, stop)
		c.take(a, 20)
		go func() {
			time.Sleep(time.Millisecond)
			c.give(a, 13)
		}()
		if !c.wait(w, stop) {
			t.Fatal("stopped")
		}
		// The first wait pardons, for none has been in 100 ms; take again and wait for real.
		c.take(a, 20)
		begun := time.Now()
		if !c.wait(w, stop) || time.Since(begun) > time.Millisecond {
			t.Fatalf("room came after %v", time.Since(begun))
		}
	})
}

func TestLostPacketsGiveTheirCreditsBackSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &account{}
		c, w := bound(8, a), newCreditWaiter()
		w.pardoned = time.Now()
		c.take(a, 8) // and none of them ever comes out
		begun := time.Now()
		if !c.wait(w, nil) || time.Since(begun) > 2*creditStall {
			t.Fatalf("room came after %v", time.Since(begun))
		}
		if !a.stuck.Load() {
			t.Error("who lost everything is charged again")
		}
		c.take(a, 100)
		if c.inflight.Load() != 0 {
			t.Error("a stuck account was charged")
		}
		c.give(a, 1)
		c.take(a, 3)
		if c.inflight.Load() != 3 {
			t.Error("an account that moves again is not charged")
		}
	})
}

func TestADeadPeerDoesNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, alive := &account{}, &account{}
		c, w := bound(8, dead, alive), newCreditWaiter()
		begun := time.Now()
		for range 1000 {
			if !c.wait(w, nil) {
				t.Fatal("stopped")
			}
			c.take(dead, 8)
			c.take(alive, 8)
			c.give(alive, 8)
		}
		if took := time.Since(begun); took > 10*creditStall {
			t.Errorf("1000 batches beside a dead peer took %v", took)
		}
	})
}

func TestCreditsAreConserved(t *testing.T) {
	a := &account{}
	c := bound(8, a)
	c.take(a, 5)
	c.give(a, 7) // two of them keepalives that were never charged
	if c.inflight.Load() != 0 || a.charged.Load() != 0 {
		t.Error("more was given back than had been taken")
	}
	c.take(a, 5)
	c.settle(a)
	if c.inflight.Load() != 0 {
		t.Error("a closed account still holds credits")
	}
}

func TestWaitingForCreditsEndsWithTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCredits(1, func(func(*account)) {})
		a := &account{}
		c.take(a, 1) // an account that nobody pardons
		stop := make(chan struct{})
		go func() {
			time.Sleep(time.Second)
			close(stop)
		}()
		if c.wait(newCreditWaiter(), stop) {
			t.Error("there was room")
		}
	})
}

func TestWithoutABoundNothingIsCounted(t *testing.T) {
	a := &account{}
	c := bound(-1, a)
	c.take(a, 1000)
	if !c.wait(newCreditWaiter(), nil) || c.inflight.Load() != 0 {
		t.Error("counted")
	}
}

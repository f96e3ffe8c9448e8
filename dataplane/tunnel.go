package dataplane

import "time"

// This file is the policy of one tunnel as a pure machine: state, event and now go in, actions come out. It knows no socket, no
// clock and no lock. The conductor owns every state, feeds it and carries out what it says.

// phase is where a tunnel stands.
type phase uint8

const (
	asleep     phase = iota // no WireGuard peer, and nobody asks for one
	connecting              // somebody asks: an exchange is under way or will be tried again; packets wait
	settling                // the peer exists, its other end opens the session; packets wait
	open                    // packets pass
)

// tunnelState is what the policy remembers of a tunnel.
type tunnelState struct {
	phase phase

	running  bool      // an exchange that we began is under way
	failures int       // of our exchanges, in a row
	retryAt  time.Time // none of ours before this
	wanted   time.Time // when somebody last asked for the tunnel

	epoch   uint64    // of the installed key; zero: none
	keyAt   time.Time // when it was installed
	ours    bool      // we began the exchange it came from
	session bool      // WireGuard has carried something since the peer was made
	active  time.Time // when traffic was last seen
	sampled time.Time // when it was last looked for
	suspect bool      // the control connection was lost and nothing was heard since: the other end may have lost its keys
	checkAt time.Time // when we look whether it was heard; zero: not to be looked

	settleUntil time.Time
	kickAt      time.Time // zero: no kick pending
	kicks       int
	verifyAt    time.Time // zero: nothing to verify
	verifies    int
	since       time.Time // when it fell asleep
}

// happening is one kind of event.
type happening uint8

const (
	tick     happening = iota // time has passed; sent and heard say what has passed since the last tick
	wanted                    // a packet waits, a program asks, or a watched packet has passed
	orphaned                  // WireGuard packets arrive from the other end, and we hold no peer for it
	lost                      // its control connection is gone
	agreed                    // an exchange gave a key
	failed                    // an exchange that we began gave none
	yielded                   // ours gave way to the other side's
	refused                   // the other end refuses us, or is no member
	answered                  // WireGuard has sent a handshake response
	carried                   // WireGuard has sent data: the session is up
)

// event is something that happened to a tunnel.
type event struct {
	kind  happening
	sent  bool   // tick: packets went out
	heard bool   // tick: packets came in
	epoch uint64 // agreed
	ours  bool   // agreed: we began the exchange
	fresh bool   // agreed: the other end had no keys before
}

// action is something the conductor has to do.
type action uint8

const (
	begin     action = iota // begin an exchange
	install                 // make the peer with its key; one that exists is replaced
	renew                   // give the running peer its new key; sessions are not touched
	release                 // let packets pass, those that wait first
	hold                    // let packets wait
	handshake               // send a handshake initiation, if WireGuard thinks it is time
	kick                    // send a handshake initiation at once; only while there is no session to lose
	keepalive               // send an empty packet, which also confirms the session to the other end
	verify                  // if the session still is under an older key: handshake
	watch                   // report the next packet that passes
	remove                  // remove the peer and wipe its key
	reject                  // answer the packets that wait: unreachable
	tellUp                  // whoever waits for the tunnel: it is up
	tellDown                // whoever waits for the tunnel: it failed
	forget                  // drop the tunnel altogether
)

// step applies one event. The actions are to be done in order.
func (s *tunnelState) step(e event, now time.Time, t timing) []action {
	switch e.kind {
	case tick:
		return s.tick(e, now, t)
	case wanted:
		return s.onWanted(now, t)
	case orphaned:
		if s.phase == asleep || s.phase == connecting {
			return s.onWanted(now, t)
		}
		return nil // the news is older than our peer
	case lost:
		return s.onLost(now)
	case agreed:
		return s.onAgreed(e, now)
	case failed, yielded, refused:
		return s.onFailed(e.kind, now)
	case answered:
		if s.phase == settling {
			s.phase = open
			return []action{release, keepalive}
		}
		return nil
	case carried:
		return s.onCarried()
	}
	return nil
}

// live reports whether a WireGuard peer exists.
func (s *tunnelState) live() bool { return s.phase == settling || s.phase == open }

func (s *tunnelState) onWanted(now time.Time, t timing) []action {
	s.wanted = now
	if s.phase == asleep {
		s.phase = connecting
	}
	if s.live() {
		s.active = now
		if !s.suspect && !s.overdue(now, t) {
			return nil
		}
	} else if s.phase != connecting {
		return nil
	}
	return s.tryExchange(now)
}

// tryExchange begins an exchange unless one is under way or it is too early for another.
func (s *tunnelState) tryExchange(now time.Time) []action {
	if s.running || now.Before(s.retryAt) {
		return nil
	}
	s.running = true
	return []action{begin}
}

func (s *tunnelState) onLost(now time.Time) []action {
	if !s.live() || now.Sub(s.keyAt) < lostQuiet {
		return nil
	}
	s.suspect, s.checkAt = true, now.Add(lostCheck)
	return nil
}

func (s *tunnelState) onAgreed(e event, now time.Time) []action {
	rotation := s.live() && !e.fresh
	if e.ours {
		s.running = false
	}
	s.failures, s.retryAt, s.suspect, s.checkAt = 0, time.Time{}, false, time.Time{}
	s.epoch, s.keyAt, s.ours = e.epoch, now, e.ours
	if rotation {
		if !e.ours {
			return []action{renew}
		}
		s.verifyAt, s.verifies = now.Add(verifyAfter), 0
		return []action{renew, handshake}
	}
	// A new peer, without a session. Only the side that began the exchange opens it: handshakes that cross would void each other
	// and cost WireGuard's five seconds.
	s.session, s.kicks, s.kickAt, s.verifyAt = false, 0, time.Time{}, time.Time{}
	s.active, s.sampled = now, now
	if e.ours {
		s.phase, s.kickAt = open, now.Add(kickFirst)
		return []action{install, release, handshake}
	}
	s.phase, s.settleUntil = settling, now.Add(settleMax)
	return []action{hold, install}
}

func (s *tunnelState) onFailed(kind happening, now time.Time) []action {
	s.running = false
	switch kind {
	case yielded:
		s.retryAt = now.Add(yieldWait)
		return nil
	case refused:
		s.failures++
		s.retryAt = now.Add(backoff(refusedFirst, refusedMax, s.failures))
		if s.live() {
			return nil
		}
		s.sleep(now)
		return []action{reject, tellDown}
	}
	s.failures++
	s.retryAt = now.Add(backoff(retryFirst, retryMax, s.failures))
	if s.live() {
		return nil
	}
	return []action{tellDown}
}

// backoff returns the wait after the given number of failures in a row: the first, doubled each time.
func backoff(first, most time.Duration, failures int) time.Duration {
	wait := first
	for i := 1; i < failures && wait < most; i++ {
		wait *= 2
	}
	return min(wait, most)
}

func (s *tunnelState) onCarried() []action {
	if !s.live() || s.session {
		return nil
	}
	s.session, s.kickAt = true, time.Time{}
	if s.phase == settling {
		s.phase = open
		return []action{release, tellUp}
	}
	return []action{tellUp}
}

func (s *tunnelState) tick(e event, now time.Time, t timing) []action {
	s.sampled = now
	if e.sent || e.heard {
		s.active = now
	}
	if e.heard {
		s.suspect, s.checkAt = false, time.Time{}
	}
	switch s.phase {
	case asleep:
		if now.Sub(s.since) >= forgetAfter {
			return []action{forget}
		}
	case connecting:
		if s.running {
			return nil
		}
		if now.Sub(s.wanted) >= wantedFor {
			s.sleep(now)
			return []action{reject, tellDown}
		}
		return s.tryExchange(now)
	case settling:
		if !now.Before(s.settleUntil) {
			// The other end's handshake was lost, or it waits for ours.
			s.phase, s.kickAt = open, now.Add(kickFirst)
			return []action{release, handshake}
		}
	case open:
		return s.tickOpen(e, now, t)
	}
	return nil
}

func (s *tunnelState) tickOpen(e event, now time.Time, t timing) []action {
	var out []action
	if !s.checkAt.IsZero() && !now.Before(s.checkAt) {
		s.checkAt = time.Time{}
		if e.sent {
			out = append(out, s.tryExchange(now)...)
		} else {
			out = append(out, watch)
		}
	}
	if !s.kickAt.IsZero() && !now.Before(s.kickAt) {
		s.kicks++
		if s.kicks > kicksMax {
			// The key is there and WireGuard does not come up: the other end lacks the peer, or the path lacks WireGuard.
			// Start over, while anyone still asks.
			s.phase, s.kickAt, s.epoch, s.session = connecting, time.Time{}, 0, false
			s.failures++
			s.retryAt = now.Add(backoff(retryFirst, retryMax, s.failures))
			return []action{hold, remove, tellDown}
		}
		s.kickAt = now.Add(kickFirst << s.kicks)
		out = append(out, kick)
	}
	if !s.verifyAt.IsZero() && !now.Before(s.verifyAt) {
		s.verifies++
		s.verifyAt = now.Add(verifyAfter)
		if s.verifies >= verifyMax {
			s.verifyAt = time.Time{}
		}
		out = append(out, verify)
	}
	if now.Sub(s.active) >= t.idle {
		s.sleep(now)
		s.epoch, s.session, s.kickAt, s.verifyAt = 0, false, time.Time{}, time.Time{}
		return []action{hold, remove}
	}
	if s.overdue(now, t) {
		if s.active.After(s.keyAt) && now.Sub(s.active) <= t.rekey/recentDivisor {
			return append(out, s.tryExchange(now)...)
		}
		return append(out, watch)
	}
	return out
}

func (s *tunnelState) sleep(now time.Time) { s.phase, s.since = asleep, now }

// rotateAt is when the key of an active tunnel is to be replaced by us.
func (s *tunnelState) rotateAt(t timing) time.Time {
	at := s.keyAt.Add(t.rekey - t.rekey/rotateLeadDivisor)
	if !s.ours {
		at = at.Add(t.rekey / rotateSlackDivisor)
	}
	return at
}

func (s *tunnelState) overdue(now time.Time, t timing) bool {
	return s.live() && !now.Before(s.rotateAt(t))
}

// next is when the state wants its next tick; zero: not before another event.
func (s *tunnelState) next(now time.Time, t timing) time.Time {
	switch s.phase {
	case asleep:
		return s.since.Add(forgetAfter)
	case connecting:
		if s.running {
			return time.Time{} // the exchange has its own time limit
		}
		return earliest(s.retryAt, s.wanted.Add(wantedFor))
	case settling:
		return s.settleUntil
	}
	at := earliest(s.sampled.Add(t.idle/sampleDivisor), s.active.Add(t.idle), s.kickAt, s.verifyAt, s.checkAt)
	if s.running {
		return at
	}
	rotate := s.rotateAt(t)
	if rotate.Before(s.retryAt) {
		rotate = s.retryAt
	}
	// One that is overdue without traffic waits for its next packet, which is watched.
	if rotate.After(now) {
		at = earliest(at, rotate)
	}
	return at
}

// earliest returns the first of the times that are set.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

func (p phase) String() string {
	switch p {
	case connecting:
		return "connecting"
	case settling:
		return "settling"
	case open:
		return "open"
	}
	return "asleep"
}

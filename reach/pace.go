package reach

import (
	"time"

	"github.com/phantommesh/phantommesh/nat"
)

// The pure core of retrying: when to punch a peer again, and how much a peer may make us do.
//
// One punch draws at most candidatesMax addresses × 6 checks × 312 bytes (264 with IPv6 and UDP headers) = 15 KB from us. A malicious member, which
// can name any addresses, gets that for an offer of some 400 bytes on a connection that we authenticated: 37 bytes a byte, but at most punchBurst at
// once and then one in punchGap: 1 KB/s toward others for each member gone bad, and no more than punchesMax at a time, 12 KB/s, for all together.
// What a member's record draws is of the same size. A fan sends at most nat.FanPacketsMax checks of 312 bytes, 320 KB, to one IP address: fansPerPeer
// times a peer in fanGap, and for all together fanBurst at once and then one in fanRest, 21 KB/s. Only who has a tunnel with us gets one: with all
// others a relayed path is good enough.
const (
	candidatesMax = nat.CandidatesMax
	punchBurst    = 3
	punchGap      = 15 * time.Second
	punchesMax    = 4
	fanGap        = 10 * time.Minute
	// fansPerPeer: one fan misses with 2 %, and more where the router forgets mappings under the load; a router that restarts asks for
	// another. All four in fanGap are 2 KB/s.
	fansPerPeer = 4
	fanBurst    = 4
	fanRest     = 15 * time.Second
)

// punchBackoff are the waits after the first attempts; the last repeats.
var punchBackoff = [...]time.Duration{5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute}

// pace is when a peer is punched again, and what it may still ask of us. The zero value: at once.
type pace struct {
	attempts int       // since something changed
	next     time.Time // not before

	budget float64 // of punches, whoever begins them: a peer whose record changes all the time makes us begin
	filled time.Time
	fanned time.Time // first fan of those counted
	fans   int
}

// due reports whether the next attempt of ours may begin.
func (p *pace) due(now time.Time) bool { return !now.Before(p.next) }

// attempted notes an attempt that ended without a direct path, whoever began it.
func (p *pace) attempted(now time.Time) {
	p.next = now.Add(punchBackoff[min(p.attempts, len(punchBackoff)-1)])
	p.attempts++
}

// putOff notes an attempt of ours that the peer refused for now: it cost no checks, and so nothing of the budget. Without this two that
// begin at about the same time, as both do when a router restarts, use up each other's budgets with attempts that come to nothing.
func (p *pace) putOff(now time.Time, wait time.Duration) {
	p.budget = min(punchBurst, p.budget+1)
	if later := now.Add(wait); p.next.Before(later) {
		p.next = later
	}
}

// renew forgets the failures: the network of one of the two has changed. A burst of changes does not make a burst of attempts.
func (p *pace) renew(now time.Time) {
	p.attempts = 0
	if soon := now.Add(time.Second); p.next.After(soon) {
		p.next = soon
	}
}

// admit reports whether the budget allows another attempt, and takes it.
func (p *pace) admit(now time.Time) bool {
	if p.filled.IsZero() {
		p.budget = punchBurst
	} else {
		p.budget = min(punchBurst, p.budget+float64(now.Sub(p.filled))/float64(punchGap))
	}
	p.filled = now
	if p.budget < 1 {
		return false
	}
	p.budget--
	return true
}

// mayFan reports whether many ports may be tried with this peer now.
func (p *pace) mayFan(now time.Time) bool { return p.fans < fansPerPeer || now.Sub(p.fanned) >= fanGap }

// beganFan counts a fan.
func (p *pace) beganFan(now time.Time) {
	if p.fans == 0 || now.Sub(p.fanned) >= fanGap {
		p.fanned, p.fans = now, 0
	}
	p.fans++
}

// fanBudget is that of all peers together. The zero value is full.
type fanBudget struct {
	spent float64
	at    time.Time
}

func (b *fanBudget) left(now time.Time) float64 {
	if !b.at.IsZero() {
		b.spent = max(0, b.spent-float64(now.Sub(b.at))/float64(fanRest))
	}
	b.at = now
	return fanBurst - b.spent
}

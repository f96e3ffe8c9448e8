package underlay

import (
	"net/netip"
	"time"
)

// The pure core of what keeps paths: NAT mappings that must not expire, paths that the system refuses or that a change of network has put
// in doubt, and paths that take turns in being the fastest.
//
// Bytes of a kept path on which nothing else is sent: every 25 s one packet of one byte (a refresh) keeps the mapping; RFC 4787 §4.3 has
// mappings live for 2 minutes at least, common routers for 30 s. Every third is a ping, which a node that knows us answers with a byte, so
// that a path that broke is noticed in 75 s, and the other side's mapping is refreshed too. With headers that is 4×29 bytes in 75 s over
// IPv4, 134 KB a day, and 4×49, 226 KB, over IPv6. Keyed checks would take 4 times as much. A ping that is not answered is followed
// by a keyed check, which makes the path anew where a NAT has given us another address.

const (
	// refreshInterval is how long a kept path goes without a packet of ours.
	refreshInterval = 25 * time.Second
	// pingAfter without a packet from there the refresh is a ping: every third, as its answer counts.
	pingAfter = 2*refreshInterval + refreshInterval/2
	// keptRetryMin..Max are the gaps between searches for a kept node without a path: 16 addresses cost 30 KB each, and 144 searches a day
	// at the largest gap less than five megabytes. News of its addresses or of our network do not wait for them.
	keptRetryMin = time.Second
	keptRetryMax = 10 * time.Minute
	// failingInterval is the gap between checks of a path that the system refuses to send to.
	failingInterval = time.Second
	// dwellMin..Max: after a switch for speed no other one for so long, doubling while they go on, so that two paths whose round trips
	// depend on which of them carries the load do not take turns.
	dwellMin    = 10 * time.Second
	dwellMax    = 5 * time.Minute
	dwellForget = 15 * time.Minute
	// lowsPeriod is how long the lowest round trip is remembered, at least: the load on a path adds to the others.
	lowsPeriod = 30 * time.Second
	// forever is after everything.
	forever instant = 1<<63 - 1
)

// lows remembers the lowest round trip of the last one to two periods.
type lows struct {
	present, past time.Duration // 0: none
	since         instant
}

func (l *lows) add(rtt time.Duration, now instant) {
	if l.present > 0 && now-l.since >= lowsPeriod {
		l.past, l.present, l.since = l.present, 0, now
	}
	if l.present == 0 || rtt < l.present {
		if l.present == 0 {
			l.since = now
		}
		l.present = rtt
	}
}

// speed is the round trip that paths are compared by: that of the way itself, without the queues that our own traffic fills.
func (p *pathState) speed() time.Duration {
	l := p.rtt
	if p.lows.present > 0 {
		l = min(l, p.lows.present)
	}
	if p.lows.past > 0 {
		l = min(l, p.lows.past)
	}
	return l
}

// held reports whether a switch to best would be one for speed alone, too soon after another. If not, it notes the switch.
func (s *pathSet) held(best netip.AddrPort, now instant) bool {
	a, b := s.find(s.active), s.find(best)
	if a == nil || b == nil || rank(a) != rank(b) || now-s.first <= settleTime {
		return false
	}
	if now < s.hold {
		return true
	}
	if now-s.hold >= dwellForget {
		s.dwell = dwellMin
	}
	s.hold, s.dwell = now+s.dwell, min(2*s.dwell, dwellMax)
	return false
}

// keep says what a kept node needs beyond what a node in use does.
func (s *pathSet) keep(now instant) []action {
	if !s.kept || now < s.nextKeep(now) {
		return nil
	}
	a := s.find(s.active)
	if a == nil {
		s.rechecked, s.retryGap = now, min(max(2*s.retryGap, keptRetryMin), keptRetryMax)
		return []action{{kind: actRecheck}}
	}
	s.refreshed = now
	if now-a.heard < pingAfter || a.waiting {
		return []action{{actRefresh, a.addr}}
	}
	a.probed, a.waiting, a.ping = now, true, true
	return []action{{actPing, a.addr}}
}

// nextKeep is when keep has something to do.
func (s *pathSet) nextKeep(now instant) instant {
	a := s.find(s.active)
	if a == nil {
		if s.rechecked == 0 {
			return now
		}
		return s.rechecked + s.retryGap
	}
	return max(s.sent, s.refreshed, a.probed, s.since) + refreshInterval
}

// fail takes in that the system refused to send over addr, for want of a route or of permission: the path is as good as silent until it
// answers.
func (s *pathSet) fail(addr netip.AddrPort, now instant) []action {
	p := s.find(addr)
	if p == nil {
		return nil
	}
	if p.missed == 0 {
		p.silent = now
	}
	p.missed++ // as if it had not been answered, so that it dies in time
	p.failing, p.waiting, p.probed = true, false, now
	return s.settle(now)
}

// refuse takes in that the system would not send a packet of so many bytes over addr.
func (s *pathSet) refuse(addr netip.AddrPort, bytes int) []action {
	if p := s.find(addr); p != nil && p.mtu.refused(bytes) {
		return []action{{kind: actPublish}}
	}
	return nil
}

// doubt takes in that the network has changed, or that the machine slept: nothing that was known about the paths need be true.
func (s *pathSet) doubt(now instant) {
	for i := range s.paths {
		p := &s.paths[i]
		p.doubted, p.waiting, p.failing = true, false, false
		p.lows = lows{}
		p.evidence = evidence{now: p.evidence.now, asked: p.evidence.asked, lossy: p.evidence.lossy, trial: now}
		p.mtu.restart()
	}
	s.retryGap, s.rechecked, s.hold, s.dwell = 0, 0, 0, dwellMin
}

package underlay

import (
	"net/netip"
	"slices"
	"time"
)

// The pure core of path upkeep: which of a node's paths carries its packets, which are probed and which are given up. It knows
// neither the clock nor the socket; `instant` is the time since the socket was opened. The owner goroutine feeds it what happened
// (answered, lastHeard, sent…) and carries out the actions it returns.
//
// What tells that a path loses data is in report.go, the search for its MTU in mtu.go, kept paths and hysteresis in keep.go.
//
// Bytes: a probe is an opening request and its answer, with IPv6 and UDP headers 264+48 + 124+48 = 484 bytes.
//   - Busy both ways: what arrives is proof enough; only the measurement every 10 s: 48 B/s a path.
//   - Busy, but silent from there for 400 ms: one probe at once, then with doubling gaps.
//   - Quiet for less than quietAfter since the last data: one probe in 2 s, which stands for the other side's too, so 2: 968 bytes.
//   - Idle: nothing at all, until it is sent something: then one probe from either side if the last answer is long ago: 968 bytes.
//
// So a peer that is used in bursts, minutes apart, costs some 2 KB a burst beyond the data: the 250 KB that an idle peer may cost in
// a day are more than 120 bursts.

// instant is a point in time: the duration since the socket was opened.
type instant = time.Duration

const (
	// silenceMax is how long an active path may owe us a packet, after we sent one, before it is probed. With two probe timeouts of
	// at least 150 ms and the tick of the owner, a broken path is replaced within 400 + 2×150 + 100 = 800 ms.
	silenceMax = 400 * time.Millisecond
	// probeInterval is the gap between probes of the active path of a peer in use from which nothing arrives.
	probeInterval = 2 * time.Second
	// quietAfter ends these probes once no data has passed for so long.
	quietAfter = 5 * time.Second
	// measureInterval is the gap between measurements of each path of a peer in use, so that a faster one is noticed.
	measureInterval = 10 * time.Second
	// idleAfter puts a peer to sleep: no timer runs for it until it is sent something.
	idleAfter = 60 * time.Second
	// probeTimeoutMin..Max bound three round trips, the time an answer gets.
	probeTimeoutMin     = 150 * time.Millisecond
	probeTimeoutMax     = time.Second
	probeTimeoutUnknown = 500 * time.Millisecond // no round trip was measured yet
	// silentAfter missed probes a path is silent: not chosen while there is another.
	silentAfter = 2
	// deadAfter missed probes and deadSilence without a packet a path is given up. Long enough to ride out a router's restart of its
	// uplink, as the last path costs nothing to keep.
	deadAfter   = 5
	deadSilence = 15 * time.Second
	// retryMax is the largest gap between probes of a silent path.
	retryMax = 2 * time.Second
	// recheckInterval is the gap between checks of all candidates while the only path is silent.
	recheckInterval = 5 * time.Second
	// settleTime after the first path the fastest is taken without hysteresis: answers are still coming in.
	settleTime = time.Second
	// switchRTT and switchShare: a faster path must be better by both, or two paths of one speed would take turns.
	switchRTT   = time.Millisecond
	switchShare = 0.8
	// pathsMax bounds the paths kept for a node: as many as it may announce.
	pathsMax = 8
)

// pathClass orders paths before their speed does; lower is better.
type pathClass uint8

const (
	pathUDP pathClass = iota
	pathPipe
	pathRelayed
	pathClasses
)

// pathState is one validated path of a node.
type pathState struct {
	addr     netip.AddrPort
	class    pathClass
	mutual   bool          // they have validated it too, by the newest that we know
	asked    instant       // when they last asked from there and had our answer
	rtt      time.Duration // smoothed as in RFC 6298, gain 1/4; 0: not measured
	heard    instant       // last packet from there, of any kind
	answered instant       // last keyed answer
	probed   instant       // when the last probe was sent; -1: never
	waiting  bool          // for the answer of that probe
	ping     bool          // which was a ping: anything heard answers it
	doubted  bool          // the network has changed: to be probed at once
	failing  bool          // the system refuses to send there
	missed   int           // probes in a row that got no answer
	silent   instant       // when the first of these was sent
	lows     lows
	evidence evidence
	mtu      mtuSearch
}

// pathSet is what the core knows of one node's paths.
type pathSet struct {
	paths     []pathState
	active    netip.AddrPort // invalid: none
	since     instant        // of the active path
	first     instant        // when the first path appeared
	owed      instant        // first packet sent since the active path was last heard; -1: none
	sent      instant        // last packet sent
	used      instant        // last tunnel data in either direction; -1: never
	rechecked instant
	// unanswered is the first WireGuard packet sent since one came from the node, over whatever path; -1: none
	unanswered instant
	refreshed  instant // last packet for a NAT's sake
	kept       bool    // the active path is kept alive, and found again when lost
	retryGap   instant // between searches for a kept node that has no path
	hold       instant // no switch for speed before
	dwell      instant // what the next such switch adds to it
	patient    bool    // the other side probes first; constant
}

// actionKind is what the owner has to do.
type actionKind uint8

const (
	actProbe   actionKind = iota + 1 // send a check to addr
	actSwitch                        // addr is the active path now; invalid: there is none
	actDrop                          // addr does not belong to the node any more
	actRecheck                       // check all candidates again
	actReport                        // send a small check to addr, for its report
	actSize                          // send a check to addr, padded to what its search for the MTU says
	actRefresh                       // keep a NAT's mapping for addr alive
	actPing                          // the same, and have it answered
	actTrial                         // send copies of the next packets to addr too
	actLossy                         // addr carries checks, but not our data
	actPublish                       // what is told about the paths has changed
)

type action struct {
	kind actionKind
	addr netip.AddrPort
}

func newPathSet(patient bool) pathSet {
	return pathSet{owed: -1, used: -1, sent: -1, unanswered: -1, dwell: dwellMin, patient: patient}
}

// find returns the path with the address, or nil.
func (s *pathSet) find(addr netip.AddrPort) *pathState {
	for i := range s.paths {
		if s.paths[i].addr == addr {
			return &s.paths[i]
		}
	}
	return nil
}

// answer records a keyed answer over addr after rtt, and makes a path of the address if it was none. A full set gives up its
// worst path for it.
func (s *pathSet) answer(addr netip.AddrPort, class pathClass, rtt time.Duration, now instant) []action {
	p := s.find(addr)
	if p == nil {
		var acts []action
		if len(s.paths) == 0 {
			s.first = now
		}
		if len(s.paths) == pathsMax {
			acts = s.dropWorst()
		}
		s.paths = append(s.paths, pathState{addr: addr, class: class, rtt: rtt, heard: now, answered: now, probed: -1, mtu: newMTUSearch(addr)})
		s.paths[len(s.paths)-1].lows.add(rtt, now)
		s.retryGap = 0
		return append(acts, s.settle(now)...)
	}
	if p.rtt == 0 {
		p.rtt = rtt
	} else {
		p.rtt += (rtt - p.rtt) / 4
	}
	p.lows.add(rtt, now)
	p.heard, p.answered, p.waiting, p.missed, p.failing = now, now, false, 0, false
	p.evidence.heardUs(now)
	if addr == s.active {
		s.owed = -1
	}
	return s.settle(now)
}

// dropWorst gives up the standby path with the most misses, then the longest round trip.
func (s *pathSet) dropWorst() []action {
	worst := -1
	for i, p := range s.paths {
		if p.addr == s.active {
			continue
		}
		if worst < 0 || p.missed > s.paths[worst].missed || p.missed == s.paths[worst].missed && p.rtt > s.paths[worst].rtt {
			worst = i
		}
	}
	addr := s.paths[worst].addr
	s.paths = slices.Delete(s.paths, worst, worst+1)
	return []action{{actDrop, addr}}
}

// remove gives up the path with the address at once.
func (s *pathSet) remove(addr netip.AddrPort, now instant) []action {
	s.paths = slices.DeleteFunc(s.paths, func(p pathState) bool { return p.addr == addr })
	return append([]action{{actDrop, addr}}, s.settle(now)...)
}

// settle makes the best path the active one.
func (s *pathSet) settle(now instant) []action {
	best := choose(s.paths, s.active, now-s.first <= settleTime)
	if best == s.active || s.held(best, now) {
		return nil
	}
	s.active, s.since, s.owed = best, now, -1
	return []action{{actSwitch, best}}
}

// choose returns the address of the path to use, invalid if there is none: one that is not silent before one that is, UDP
// before TCP before relayed, then the lowest round trip; the present one stays unless another is better by a margin (eager: by anything).
func choose(paths []pathState, active netip.AddrPort, eager bool) netip.AddrPort {
	var best, present *pathState
	for i := range paths {
		p := &paths[i]
		if p.addr == active {
			present = p
		}
		if best == nil || better(p, best) {
			best = p
		}
	}
	switch {
	case best == nil:
		return netip.AddrPort{}
	case present == nil, best == present:
		return best.addr
	case !better(best, present):
		return present.addr
	case rank(best) == rank(present) && !eager && !faster(best.speed(), present.speed()):
		return present.addr
	}
	return best.addr
}

// rank orders what matters more than speed; lower is better.
func rank(p *pathState) int {
	r := int(p.class)
	if p.evidence.lossy {
		r += int(pathClasses)
	}
	if p.missed >= silentAfter || p.failing {
		r += 2 * int(pathClasses)
	}
	return r
}

// worksDirectly reports whether there is a path that leads through no relay and is not silent.
func (s *pathSet) worksDirectly() bool {
	return slices.ContainsFunc(s.paths, func(p pathState) bool { return rank(&p) < int(pathRelayed) })
}

func better(a, b *pathState) bool {
	if rank(a) != rank(b) {
		return rank(a) < rank(b)
	}
	return a.speed() < b.speed()
}

func faster(a, b time.Duration) bool {
	return a+switchRTT < b && float64(a) < switchShare*float64(b)
}

// timeout is how long the probe under way may take: three round trips, and longer with every miss.
func (p *pathState) timeout() time.Duration {
	t := probeTimeoutUnknown
	if p.rtt > 0 {
		t = min(max(3*p.rtt, probeTimeoutMin), probeTimeoutMax)
	}
	if p.missed >= silentAfter {
		t = min(t<<min(p.missed-silentAfter+1, deadAfter), retryMax)
	}
	if p.evidence.deaf > 0 {
		t = min(t<<p.evidence.deaf, probeTimeoutMax)
	}
	return t
}

// asleep reports whether the peer needs no timer: it is not kept, and nothing was sent to it or used for a while.
func (s *pathSet) asleep(now instant) bool {
	return !s.kept && (s.sent < 0 || now-s.sent >= idleAfter) && (s.used < 0 || now-s.used >= idleAfter)
}

// quietInterval is the gap between probes of a quiet path. One side of the pair is the patient one: it hears the other's probes, and
// need not send its own.
func (s *pathSet) quietInterval() time.Duration {
	if s.patient {
		return probeInterval + probeInterval/4
	}
	return probeInterval
}

// inUse reports whether tunnel data has passed lately.
func (s *pathSet) inUse(now instant) bool { return s.used >= 0 && now-s.used < quietAfter }

// step carries time forward. It returns what is to be done and when to call again at the latest; 0: not before something is sent.
func (s *pathSet) step(now instant) (acts []action, next instant) {
	acts = s.expire(now)
	acts = append(append(acts, s.bury(now)...), s.settle(now)...)
	if s.asleep(now) {
		return acts, 0
	}
	for i := range s.paths {
		acts = append(acts, s.stepPath(&s.paths[i], now)...)
	}
	if a := s.find(s.active); a != nil && a.missed >= silentAfter && (s.rechecked == 0 || now-s.rechecked >= recheckInterval) {
		s.rechecked = now
		acts = append(acts, action{kind: actRecheck})
	}
	acts = append(acts, s.keep(now)...)
	return acts, s.deadline(now)
}

// stepPath says what is to be sent over one path now.
func (s *pathSet) stepPath(p *pathState, now instant) (acts []action) {
	switch {
	case p.waiting:
	case s.due(p, now):
		acts = append(acts, action{actProbe, p.addr})
	case s.wantsReport(p, now):
		acts = append(acts, action{actReport, p.addr})
	}
	if len(acts) > 0 {
		p.probed, p.waiting, p.ping, p.doubted, p.evidence.asked = now, true, false, false, p.evidence.now
	}
	if s.wantsTrial(p, now) {
		p.evidence.trying = true
		acts = append(acts, action{actTrial, p.addr})
	}
	if s.wantsSize(p, now) {
		probe, changed := p.mtu.step(now, p.timeout(), p.evidence.now.large)
		if probe {
			acts = append(acts, action{actSize, p.addr})
		}
		if changed {
			acts = append(acts, action{kind: actPublish})
		}
	}
	return acts
}

// wantsSize reports whether the MTU of the path matters now: that of the active path of a node in use, and once of the others.
func (s *pathSet) wantsSize(p *pathState, now instant) bool {
	return s.inUse(now) && p.missed == 0 && (p.addr == s.active || p.mtu.done == 0)
}

// expire counts the probes whose time is up. Anything heard since a probe is as good as its answer.
func (s *pathSet) expire(now instant) (acts []action) {
	for i := range s.paths {
		p := &s.paths[i]
		heard := p.probed >= 0 && p.heard > p.probed
		switch {
		case heard && p.waiting && !p.ping && now-p.probed >= p.timeout():
			acts = append(acts, s.heardOnly(p, now)...)
		case heard:
			p.missed = 0
			p.waiting = p.waiting && !p.ping
		case p.waiting && now-p.probed >= p.timeout():
			if p.missed == 0 {
				p.silent = p.probed
			}
			p.waiting = false
			p.missed++
		}
	}
	return acts
}

// bury gives up the paths that are dead.
func (s *pathSet) bury(now instant) (acts []action) {
	s.paths = slices.DeleteFunc(s.paths, func(p pathState) bool {
		dead := p.missed >= deadAfter && now-p.silent >= deadSilence
		if dead {
			acts = append(acts, action{actDrop, p.addr})
		}
		return dead
	})
	return acts
}

// due reports whether a path on which no probe is under way needs one.
func (s *pathSet) due(p *pathState, now instant) bool {
	active := s.find(s.active)
	switch {
	case p.doubted:
		return true
	case p.failing:
		return now-p.probed >= failingInterval
	case p.evidence.deaf > 0:
		return s.inUse(now) || p == active
	case p.missed > 0:
		return p == active || p.missed < deadAfter
	case active != nil && (active.missed > 0 || s.owed >= 0 && now >= s.overdue(active)):
		// The standby paths too, so that a working one is known when it is needed; not for a path that is merely stale, and not those
		// that have just answered.
		return p == active || !s.stale(active) && now-p.answered >= silenceMax
	case p == active && s.owed < 0 && s.inUse(now) && now-p.heard >= s.quietInterval():
		return true
	}
	return s.inUse(now) && now-p.answered >= measureInterval
}

// stale reports whether nothing had been heard for long when the packet was sent for which the active path owes an answer.
func (s *pathSet) stale(a *pathState) bool { return a.missed == 0 && s.owed-a.heard >= idleAfter }

// overdue is when the active path, which owes us a packet, becomes suspect: at once if it had not been used for long.
func (s *pathSet) overdue(a *pathState) instant {
	if s.stale(a) {
		return s.owed
	}
	return max(s.owed, a.heard) + silenceMax
}

// deadline is when the next of all these things may become due.
func (s *pathSet) deadline(now instant) instant {
	next := max(s.sent, s.used) + idleAfter
	if s.kept {
		next = s.nextKeep(now)
	}
	for i := range s.paths {
		p := &s.paths[i]
		switch {
		case p.waiting:
			next = min(next, p.probed+p.timeout())
		case s.inUse(now):
			next = min(next, p.answered+measureInterval, s.nextReport(p))
			if s.wantsSize(p, now) {
				next = min(next, p.mtu.due(now, p.timeout()))
			}
		}
		if p.failing {
			next = min(next, p.probed+failingInterval)
		}
		if p.missed >= deadAfter {
			next = min(next, p.silent+deadSilence)
		}
	}
	if a := s.find(s.active); a != nil && !a.waiting {
		if s.sent >= 0 && now-s.sent < quietMin {
			next = min(next, now+watchInterval)
		}
		if s.owed < 0 && s.inUse(now) {
			next = min(next, a.heard+s.quietInterval())
		}
		if s.owed >= 0 {
			next = min(next, s.overdue(a))
		}
	}
	return max(next, now+tickMin)
}

// watchInterval is the time between two looks at a node that is being sent to: its packets do not wake the owner (quietMin does).
const watchInterval = 100 * time.Millisecond

// tickMin is the shortest time between two steps of one node.
const tickMin = 50 * time.Millisecond

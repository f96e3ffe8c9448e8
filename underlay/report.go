package underlay

import (
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/nat"
)

// The pure core of what tells a path that carries checks from one that carries data. Every keyed answer from a node that has validated
// us reports how many WireGuard packets have arrived from our address; we know how many we had sent when we asked. Checks alone are
// not enough: a firewall may let STUN pass and drop WireGuard, and a link may drop what is large.
//
// Packets are judged apart by size. Small ones that do not arrive make the path lossy: it ranks behind every other that works and is
// tried again with copies of packets (a trial; WireGuard drops what it has seen). If only large ones are lost the path is narrow,
// which the search for its MTU deals with (mtu.go); lossy it is if padded checks of the same size do pass.
//
// A report may be overtaken by the packets it is about, and the other way round. So loss is believed when the report of a later check
// still does not have what had been sent before an earlier one. With reportInterval 500 ms and confirmAfter 250 ms a path that goes
// black just after a check is found out after 500 + 500 + 250 ms and two round trips at most.

const (
	// reportInterval is the least time between two checks for the sake of their reports.
	reportInterval = 500 * time.Millisecond
	// confirmAfter is the time packets get to arrive before they are taken for lost.
	confirmAfter = 250 * time.Millisecond
	// reportPackets sent are worth a check (324 bytes with its answer) when the other side's packets keep coming: a tenth of their bytes
	// at most. Large packets always are.
	reportPackets = 16
	// reportSlow is the time after which fewer are, if they are enough to judge by: a flow whose packets are lost slows down, as TCP's does, while
	// the other side repeats its own. A flow of some packets a second pays 324 B/s for it at most.
	reportSlow = time.Second
	// lossPackets is the least number of packets that says something about a path: fewer may be lost by chance.
	lossPackets = 3
	// lossShare of those sent have to arrive, or the path is lossy: 1/8. Congestion costs a flow a few percent.
	lossShare = 8
	// deafAfter checks in a row without an answer a path is lossy, although packets come from there.
	deafAfter = 3
	// calmAfter a fall of the MTU large packets may still be sent: until the routes are set and TCP has heard of it.
	calmAfter = 750 * time.Millisecond
	// fallForget after a fall of the MTU large packets that are lost may be those that TCP made before it: no reason to leave the path.
	fallForget = 5 * time.Second
	// trialMin..Max are the gaps between trials of a lossy path, doubling; trialForget after the last verdict they start again.
	trialMin    = 10 * time.Second
	trialMax    = 5 * time.Minute
	trialForget = 15 * time.Minute
)

// counts are packets of WireGuard over one path since its source was validated. They wrap.
type counts struct{ packets, large uint32 }

// largePacket is the size in bytes, of the UDP payload, beyond which not every path carries a packet.
const largePacket = nat.MessageMax

// small are those that every path carries.
func (c counts) small() uint32 { return c.packets - c.large }

// verdict is what a report says about packets of one size class.
type verdict uint8

const (
	verdictNone    verdict = iota // too few to say
	verdictArrive                 // they arrive
	verdictSuspect                // they may be late: ask again
	verdictLost                   // they do not
)

// tally compares what was sent with what arrived, of one size class, from a point at which both were known.
type tally struct {
	known     bool
	sent, got uint32 // at that point
	suspect   bool
	before    uint32  // sent when the suspicion arose
	since     instant // when that was
}

// judge takes in a report: got packets had arrived when the check came that was sent at asked, after sent packets.
func (t *tally) judge(sent, got uint32, asked instant) verdict {
	arrived, out := got-t.got, sent-t.sent
	if !t.known || int32(arrived) < 0 || int32(out) < 0 { // the other side, or we, have counted anew
		*t = tally{known: true, sent: sent, got: got}
		return verdictNone
	}
	if t.suspect && asked-t.since >= confirmAfter {
		lost := few(t.before-t.sent, arrived)
		*t = tally{known: true, sent: sent, got: got}
		if lost {
			return verdictLost
		}
		return verdictArrive
	}
	switch {
	case few(out, arrived):
		if !t.suspect {
			t.suspect, t.before, t.since = true, sent, asked
		}
		return verdictSuspect
	case arrived == 0:
		return verdictNone
	}
	*t = tally{known: true, sent: sent, got: got}
	return verdictArrive
}

// few reports whether of enough packets nearly none arrived.
func few(sent, arrived uint32) bool { return sent >= lossPackets && arrived*lossShare <= sent }

// evidence is what we know of the delivery of our packets over one path.
type evidence struct {
	now          counts // sent so far
	asked        counts // sent when the last check was
	small, large tally
	deaf         int  // checks in a row that got no answer although packets came
	mute         bool // lossy for want of answers
	lossy        bool // nearly nothing of ours arrives, though checks may pass
	trial        instant
	trialGap     instant
	trying       bool    // copies of packets are going over it
	judged       instant // last verdict of loss
	fell         instant // when the MTU fell for loss; 0: never
	calm         instant // large packets say nothing before: the MTU fell, and who sends them has yet to follow
}

// suspect reports whether a check would settle a suspicion.
func (d *evidence) suspect() bool { return d.small.suspect || d.large.suspect }

// report takes in what the node says to have received over addr: got, by a check that was sent at asked after sent packets.
func (s *pathSet) report(addr netip.AddrPort, sent, got counts, asked, now instant) []action {
	p := s.find(addr)
	if p == nil {
		return nil
	}
	d := &p.evidence
	since := d.large.since
	small := d.small.judge(sent.small(), got.small(), asked)
	large := d.large.judge(sent.large, got.large, asked)
	switch {
	case small == verdictLost:
		return s.condemn(p, now)
	case large == verdictNone, now < d.calm:
	case large == verdictLost && p.mtu.narrow():
		return s.condemn(p, now) // not in fragments either
	case large == verdictLost && p.mtu.verified >= since:
		if now-d.fell >= fallForget || d.fell == 0 {
			return s.condemn(p, now) // checks of that size pass
		}
	case large == verdictLost:
		p.mtu.fall()
		d.fell, d.calm = now, now+calmAfter
		return []action{{kind: actPublish}}
	case large == verdictSuspect:
		p.mtu.doubtful = true
	}
	if d.lossy && (small == verdictArrive || large == verdictArrive) {
		return s.acquit(p, now)
	}
	return nil
}

// condemn marks a path lossy. All candidates are checked again if there is no other.
func (s *pathSet) condemn(p *pathState, now instant) []action {
	d := &p.evidence
	if now-d.judged >= trialForget || d.judged == 0 {
		d.trialGap = trialMin
	} else {
		d.trialGap = min(2*d.trialGap, trialMax)
	}
	d.judged, d.trial, d.trying = now, now+d.trialGap, false
	if d.lossy {
		return nil
	}
	d.lossy = true
	acts := append([]action{{kind: actLossy, addr: p.addr}}, s.settle(now)...)
	if a := s.find(s.active); a != nil && a.evidence.lossy {
		s.rechecked = now
		acts = append(acts, action{kind: actRecheck})
	}
	return acts
}

// acquit takes a path for a good one again.
func (s *pathSet) acquit(p *pathState, now instant) []action {
	p.evidence.lossy, p.evidence.trying, p.evidence.mute = false, false, false
	return append([]action{{kind: actPublish}}, s.settle(now)...)
}

// wantsReport reports whether a check would tell something new about the delivery of what was sent over p.
func (s *pathSet) wantsReport(p *pathState, now instant) bool {
	d := &p.evidence
	fresh := counts{d.now.packets - d.asked.packets, d.now.large - d.asked.large}
	switch {
	case p.missed > 0 || p.waiting || p.addr != s.active && !d.trying:
		return false
	case d.suspect():
		return now-p.probed >= confirmAfter
	case p.probed >= 0 && now-p.probed < reportInterval || fresh.packets == 0:
		return false
	}
	return s.unanswered >= 0 && now-s.unanswered >= reportInterval || fresh.large > 0 || fresh.packets >= reportPackets || d.trying ||
		fresh.packets >= lossPackets && now-p.probed >= reportSlow
}

// nextReport is when wantsReport may change its mind without anything being sent.
func (s *pathSet) nextReport(p *pathState) instant {
	d := &p.evidence
	fresh := counts{d.now.packets - d.asked.packets, d.now.large - d.asked.large}
	switch {
	case p.addr != s.active && !d.trying:
		return forever
	case d.suspect():
		return p.probed + confirmAfter
	case fresh.large > 0 || fresh.packets >= reportPackets || d.trying && fresh.packets > 0:
		return p.probed + reportInterval
	case fresh.packets > 0 && s.unanswered >= 0:
		return max(p.probed, s.unanswered) + reportInterval
	case fresh.packets >= lossPackets:
		return p.probed + reportSlow
	}
	return forever
}

// heardOnly takes in that a check had no answer although packets come from there: what they send arrives, what we send may not.
func (s *pathSet) heardOnly(p *pathState, now instant) []action {
	p.waiting, p.missed = false, 0
	p.evidence.deaf = min(p.evidence.deaf+1, deafAfter)
	if p.evidence.deaf < deafAfter || p.evidence.lossy {
		return nil
	}
	p.evidence.mute = true
	return s.condemn(p, now)
}

// heardUs takes in a keyed answer: a path that was condemned for giving none is given another chance when a trial would be due.
func (d *evidence) heardUs(now instant) {
	d.deaf = 0
	if d.mute && now >= d.trial {
		d.mute, d.lossy, d.trying = false, false, false
	}
}

// wantsTrial reports whether a lossy path shall be given copies of packets: while others carry them.
func (s *pathSet) wantsTrial(p *pathState, now instant) bool {
	d := &p.evidence
	return d.lossy && !d.trying && p.addr != s.active && p.missed == 0 && s.inUse(now) && now >= d.trial
}

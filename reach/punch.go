package reach

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/nat"
)

const (
	// fanDelay is what the candidates get before many ports are tried: the first retransmissions of their checks.
	fanDelay = 500 * time.Millisecond
	// punchOpenTimeout bounds the opening of the stream over the path in use.
	punchOpenTimeout = 5 * time.Second
)

// punch makes one attempt with a member that is reached indirectly. The caller has begun it.
func (r *Reach) punch(id identity.NodeID) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.ctx, punchOpenTimeout+punchTimeout+nat.PlanLength+nat.FanLength)
	defer cancel()
	p := Punch{At: began, Began: true, Strategy: "none"}
	theirs, why := r.agree(ctx, id)
	if why == "" {
		p.Strategy, p.Result = r.carryOut(ctx, id, theirs)
	} else {
		p.Result = why
	}
	r.endPunch(id, p, why == punchTexts[punchBusy])
}

// agree tells a member our situation and hears its; why says why nothing came of it.
func (r *Reach) agree(ctx context.Context, id identity.NodeID) (theirs brief, why string) {
	open, cancel := context.WithTimeout(ctx, punchOpenTimeout)
	defer cancel()
	s, err := r.cfg.Streams.Open(open, id, ProtocolPunch)
	if err != nil {
		return brief{}, "no control connection"
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Close() })()
	ours := r.brief(id)
	situation, candidates := ours.wire()
	offer := punchOffer{Nonce: make([]byte, nonceSize), Situation: situation, Candidates: candidates, Fan: ours.fan}
	r.random(offer.Nonce)
	var a punchAnswer
	if err := exchange(s, offer, &a, punchMax, punchTimeout); err != nil {
		return brief{}, "no answer over the path in use"
	}
	theirs, ok := readBrief(a.Situation, a.Candidates, a.Fan && ours.fan)
	switch {
	case !ok || a.Code > punchLast || !bytes.Equal(a.Nonce, offer.Nonce):
		return brief{}, "the answer made no sense"
	case a.Code != 0:
		return brief{}, punchTexts[a.Code]
	}
	return theirs, ""
}

// servePunch answers an offer and joins in.
func (r *Reach) servePunch(ctx context.Context, s Stream) {
	defer s.Close()
	ctx, done := r.within(ctx)
	defer done()
	if s.SetDeadline(time.Now().Add(requestTimeout)) != nil {
		return
	}
	var q punchOffer
	if err := wire.ReadMessage(s, &q, punchMax); err != nil {
		return
	}
	began, id := time.Now(), s.Peer()
	theirs, ok := readBrief(q.Situation, q.Candidates, q.Fan)
	code := punchForm
	if ok && len(q.Nonce) == nonceSize && r.isMember(id) {
		code = r.joinPunch(id)
	}
	ours := r.brief(id)
	if code != 0 {
		ours = brief{}
	}
	situation, candidates := ours.wire()
	a := punchAnswer{Code: code, Nonce: q.Nonce[:min(len(q.Nonce), nonceSize)], Situation: situation, Candidates: candidates, Fan: ours.fan && q.Fan}
	err := wire.WriteMessage(s, a, punchMax)
	if s.Close(); code != 0 {
		return
	}
	p := Punch{At: began, Strategy: "none", Result: "the answer was not taken"}
	if err == nil {
		theirs.fan = a.Fan
		bounded, cancel := context.WithTimeout(r.ctx, nat.PlanLength+nat.FanLength)
		defer cancel()
		p.Strategy, p.Result = r.carryOut(bounded, id, theirs)
	}
	r.endPunch(id, p, false)
}

// brief is what we tell a member of ourselves.
func (r *Reach) brief(id identity.NodeID) brief {
	b := brief{situation: r.Situation()}
	for _, e := range r.Endpoints() {
		if usable(e.Addr) { // a node that listens on loopback need not say so to others
			b.candidates = append(b.candidates, e)
		}
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	b.fan = r.historyLocked(id).pace.mayFan(now) && (r.fanned.IsZero() || now.Sub(r.fanned) >= fanRest)
	return b
}

// beginPunch takes a place for an attempt of ours; false if it has to wait.
func (r *Reach) beginPunch(id identity.NodeID, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.historyLocked(id)
	if h.busy() || r.punching >= punchesMax || !h.pace.due(now) || !h.pace.admit(now) {
		return false
	}
	h.ours = true
	r.punching++
	r.count.punches.Add(1)
	return true
}

// joinPunch takes a place for an attempt that a member began, or says why not. When both began at once that of the lower ID goes on.
func (r *Reach) joinPunch(id identity.NodeID) punchCode {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.historyLocked(id)
	switch {
	case h.joined > 0, h.ours && r.self.Compare(id) < 0:
		return punchBusy
	case r.punching >= punchesMax || !h.pace.admit(time.Now()):
		return punchPaced
	}
	h.joined++
	r.punching++
	r.count.punches.Add(1)
	return 0
}

// endPunch gives the place back and notes how it went. An attempt that gave way to the peer's own counts for nothing.
func (r *Reach) endPunch(id identity.NodeID, p Punch, gaveWay bool) {
	now := time.Now()
	p.Took = now.Sub(p.At)
	r.mu.Lock()
	h := r.historyLocked(id)
	r.punching--
	if p.Began {
		h.ours = false
	} else {
		h.joined--
	}
	switch {
	case p.Result == punchDirect:
		h.pace.attempts, h.pace.next = 0, time.Time{}
		r.count.punched.Add(1)
	case !gaveWay:
		h.pace.attempted(now)
	}
	if !gaveWay {
		h.note(p)
	}
	r.mu.Unlock()
	r.log.Debug("punched", "peer", id, "strategy", p.Strategy, "result", p.Result)
	wake(r.wakeUpkeep)
}

// What a punch came to.
const (
	punchDirect = "direct"
	punchSilent = "no answer on any direct path"
)

// carryOut sends the checks and waits for a direct path.
func (r *Reach) carryOut(ctx context.Context, id identity.NodeID, theirs brief) (strategy, result string) {
	r.mu.Lock()
	h := r.historyLocked(id)
	h.situation, h.hasSituation = theirs.situation, true
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, nat.PlanLength)
	defer cancel()
	changed, stop := r.net.Watch()
	defer stop()
	var addrs []netip.AddrPort
	for _, e := range theirs.candidates {
		addrs = append(addrs, e.Addr)
	}
	// An address that others see the member at may work even if it promises little: its NAT may let everybody in.
	for _, a := range theirs.situation.Mapped {
		if !slices.Contains(addrs, a) && len(addrs) < candidatesMax {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) > 0 {
		r.try(id, addrs...)
	}
	chosen := strategyOf(r.Situation().Kind, theirs.situation.Kind)
	var fan sync.WaitGroup
	defer fan.Wait()
	defer cancel()
	timer := time.NewTimer(fanDelay)
	defer timer.Stop()
	for {
		if p, ok := r.net.Path(id); ok && p.Kind == Direct {
			return chosen.String(), punchDirect
		}
		select {
		case <-ctx.Done():
			return chosen.String(), punchSilent
		case <-changed:
		case <-timer.C:
			if to, ok := fanTarget(theirs, chosen); ok && theirs.fan && r.beginFan(id) {
				fan.Go(func() { r.fan(ctx, id, chosen, to) })
			}
		}
	}
}

// fanTarget is the address to try many ports of, or from many sockets: an IPv4 one at which others see the member.
func fanTarget(theirs brief, s strategy) (netip.AddrPort, bool) {
	if s != fanIn && s != fanOut {
		return netip.AddrPort{}, false
	}
	for _, a := range theirs.situation.Mapped {
		if a.Addr().Is4() && isOutside(a.Addr()) {
			return a, true
		}
	}
	return netip.AddrPort{}, false
}

// beginFan notes a fan, if there may be one.
func (r *Reach) beginFan(id identity.NodeID) bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.historyLocked(id)
	if !h.pace.mayFan(now) || !r.fanned.IsZero() && now.Sub(r.fanned) < fanRest {
		return false
	}
	h.pace.fanned, r.fanned = now, now
	return true
}

func (r *Reach) fan(ctx context.Context, id identity.NodeID, s strategy, to netip.AddrPort) {
	var err error
	if s == fanOut {
		err = r.net.FanOut(ctx, id, to, nat.FanSocketsMax)
	} else {
		var seed [32]byte
		r.random(seed[:])
		err = r.net.FanIn(ctx, id, nat.FanInPlan(to, seed))
	}
	if err != nil && ctx.Err() == nil {
		r.log.Debug("many ports not tried", "peer", id, "err", err)
	}
}

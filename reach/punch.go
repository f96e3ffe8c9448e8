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
	"github.com/phantommesh/phantommesh/peer"
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
	r.endPunch(id, p)
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
	offer := punchOffer{Nonce: make([]byte, nonceSize), Fan: r.mayFan(id)}
	r.random(offer.Nonce)
	if offer.Situation, err = r.tellable().Encode(); err != nil {
		return brief{}, "our situation cannot be told"
	}
	var a punchAnswer
	if err := exchange(s, offer, &a, punchMax, punchTimeout); err != nil {
		return brief{}, "no answer over the path in use"
	}
	switch {
	case a.Code > punchLast || !bytes.Equal(a.Nonce, offer.Nonce):
		return brief{}, "the answer made no sense"
	case a.Code != 0:
		return brief{}, punchTexts[a.Code]
	}
	if theirs.situation, err = readSituation(a.Situation); err != nil {
		return brief{}, "the answer made no sense"
	}
	theirs.fan = a.Fan && offer.Fan
	return theirs, ""
}

// servePunch answers an offer and joins in.
func (r *Reach) servePunch(_ context.Context, s Stream) {
	defer s.Close()
	if s.SetDeadline(time.Now().Add(requestTimeout)) != nil {
		return
	}
	var q punchOffer
	if err := wire.ReadMessage(s, &q, punchMax); err != nil {
		return
	}
	began, id := time.Now(), s.Peer()
	situation, err := readSituation(q.Situation)
	code := punchForm
	if err == nil && len(q.Nonce) == nonceSize && r.isMember(id) {
		code = r.joinPunch(id)
	}
	a := punchAnswer{Code: code, Nonce: q.Nonce[:min(len(q.Nonce), nonceSize)], Situation: []byte{}}
	if code == 0 {
		a.Fan = q.Fan && r.mayFan(id)
		a.Situation, err = r.tellable().Encode()
	}
	if err == nil || code != 0 {
		err = wire.WriteMessage(s, a, punchMax)
	}
	if s.Close(); code != 0 {
		return
	}
	p := Punch{At: began, Strategy: "none", Result: "the answer was not taken"}
	if err == nil {
		bounded, cancel := context.WithTimeout(r.ctx, nat.PlanLength+nat.FanLength)
		defer cancel()
		p.Strategy, p.Result = r.carryOut(bounded, id, brief{situation, a.Fan})
	}
	r.endPunch(id, p)
}

// brief is what a member told us for one attempt.
type brief struct {
	situation nat.Situation
	fan       bool // many ports may be tried, they and we say
}

// tellable is our situation without the addresses that nobody else can use.
func (r *Reach) tellable() nat.Situation { return cleaned(r.Situation()) }

// readSituation takes what a member says, without the addresses that are none of another machine.
func readSituation(b []byte) (nat.Situation, error) {
	s, err := nat.DecodeSituation(b)
	return cleaned(s), err
}

func cleaned(s nat.Situation) nat.Situation {
	s.Candidates = slices.DeleteFunc(slices.Clone(s.Candidates), func(e peer.Endpoint) bool { return !usable(e.Addr) })
	s.Mapped = slices.DeleteFunc(slices.Clone(s.Mapped), func(a netip.AddrPort) bool { return !usable(a) })
	return s
}

// mayFan reports whether we would try many ports with the member now.
func (r *Reach) mayFan(id identity.NodeID) bool {
	now := time.Now()
	p, _ := r.net.Path(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	return p.Tunnel && r.mayFanLocked(r.historyLocked(id), now)
}

func (r *Reach) mayFanLocked(h *history, now time.Time) bool {
	return h.pace.mayFan(now) && r.fans.left(now) >= 1
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

// endPunch gives the place back and notes how it went. An attempt that the peer put off, and nobody sent a check for, is no failure.
func (r *Reach) endPunch(id identity.NodeID, p Punch) {
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
	gaveWay := p.Result == punchTexts[punchBusy]
	switch {
	case p.Result == punchDirect:
		h.pace.attempts, h.pace.next = 0, time.Time{}
		r.count.punched.Add(1)
	case gaveWay:
		h.pace.putOff(now, punchBackoff[0])
	case p.Result == punchTexts[punchPaced]:
		h.pace.putOff(now, punchGap)
	default:
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
	for _, e := range theirs.situation.Candidates {
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
	chosen := nat.Choose(r.Situation(), theirs.situation)
	var fan sync.WaitGroup
	defer fan.Wait()
	defer cancel()
	if ours := r.Situation(); ours.Kind == peer.NATBlocked {
		fan.Go(func() { r.pipes(ctx, id, theirs.situation) })
	}
	timer := time.NewTimer(fanDelay)
	defer timer.Stop()
	for {
		// Over TCP is as good as it gets where UDP is blocked.
		if p, ok := r.net.Path(id); ok && (p.Kind == Direct || p.Kind == Pipe && chosen.Approach == nat.RelayOnly) {
			return chosen.Approach.String(), punchDirect
		}
		select {
		case <-ctx.Done():
			return chosen.Approach.String(), punchSilent
		case <-changed:
		case <-timer.C:
			if theirs.fan && fans(chosen) && r.beginFan(id) {
				fan.Go(func() { r.fan(ctx, id, chosen) })
			}
		}
	}
}

// pipesMax bounds the TCP connections of one attempt.
const pipesMax = 2

// pipes tries the member over TCP: with UDP blocked here, and one of its addresses open to all, no relay is needed.
func (r *Reach) pipes(ctx context.Context, id identity.NodeID, theirs nat.Situation) {
	tried := 0
	for _, e := range theirs.Candidates {
		if tried == pipesMax {
			return
		}
		if e.Kind == peer.Mapped || !nat.IsPublic(e.Addr.Addr()) {
			continue
		}
		tried++
		link, err := r.net.DialPipe(ctx, e.Addr)
		if err != nil {
			r.log.Debug("no pipe", "peer", id, "addr", e.Addr, "err", err)
			continue
		}
		r.try(id, link)
		return
	}
}

// fans reports whether a strategy is to try many ports, of an address that is not of our own networks: nobody shall have us search those.
func fans(s nat.Strategy) bool {
	return (s.Approach == nat.FanIn || s.Approach == nat.FanOut) && nat.IsPublic(s.Target.Addr())
}

// beginFan notes a fan, if there may be one.
func (r *Reach) beginFan(id identity.NodeID) bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.historyLocked(id)
	if !r.mayFanLocked(h, now) {
		return false
	}
	h.pace.beganFan(now)
	r.fans.spent++
	return true
}

func (r *Reach) fan(ctx context.Context, id identity.NodeID, s nat.Strategy) {
	var err error
	if s.Approach == nat.FanOut {
		err = r.net.FanOut(ctx, id, s.Target, nat.FanSocketsMax)
	} else {
		var seed [32]byte
		r.random(seed[:])
		err = r.net.FanIn(ctx, id, nat.FanInPlan(s.Target, seed))
	}
	if err != nil && ctx.Err() == nil {
		r.log.Debug("many ports not tried", "peer", id, "err", err)
	}
}

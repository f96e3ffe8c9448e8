package underlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
)

const (
	// freshFor is how long after the last packet from there a path counts as working without asking.
	freshFor = 10 * time.Second
	// automaticInterval is the least time between two searches for a node that nobody but its packets asked for.
	automaticInterval = time.Second
	// waitersMax bounds the callers that wait for one node.
	waitersMax = 1024
	// hintsMax bounds the addresses of a node from elsewhere than its record.
	hintsMax = nat.PlanAddressesMax
	// AssistAfter is the head start of direct checks before help is asked for: a usual round trip between continents, so that who is reached directly
	// costs no relay a channel. Who names relays in its record needs them, and gets no such check in front.
	AssistAfter = 250 * time.Millisecond
)

var errTooManyChecks = errors.New("underlay: too many path checks under way")

// attempt is a search for a path to one node. It belongs to the owner.
type attempt struct {
	began      instant
	plan       nat.Plan
	next       int                     // step of the plan
	challenged map[netip.AddrPort]bool // addresses from which the node has challenged us and had its answer
	waiters    []chan error
	assistAt   instant          // when help is asked for
	assisted   bool             // it was
	pipeAt     instant          // when pipes are tried (again)
	pipeTo     []netip.AddrPort // where; nil: not yet chosen
	extra      int              // addresses that Try has added
}

// begin starts a search that checks nothing yet.
func (n *node) begin(now instant) {
	n.attempt = &attempt{began: now, pipeAt: now + pipeAfter, challenged: map[netip.AddrPort]bool{}}
	n.tried = map[netip.AddrPort]bool{}
}

// Connect finds a path to a member and returns once one is validated. A path from which something came in the last ten seconds is
// good enough; otherwise every address that is known is checked at once, for at most five seconds. It returns [ErrUnknownNode],
// [ErrNoCandidates], [ErrUnreachable], [ErrClosed] or the context's error.
func (s *Socket) Connect(ctx context.Context, id identity.NodeID) error {
	n := s.memberNode(id)
	if n == nil {
		return fmt.Errorf("underlay: connect to %s: %w", id.Short(), ErrUnknownNode)
	}
	if r := n.active.Load(); r != nil && s.now()-instant(r.source.received.Load()) < freshFor {
		return nil
	}
	if err := s.await(ctx, n, nil); err != nil {
		return fmt.Errorf("underlay: connect to %s: %w", id.Short(), err)
	}
	return nil
}

// await has the owner search for the node, at the addresses in extra too, and waits for the outcome.
func (s *Socket) await(ctx context.Context, n *node, extra []netip.AddrPort) error {
	outcome := make(chan error, 1)
	if err := s.command(func(o *owner) { o.connect(n, extra, outcome) }); err != nil {
		return err
	}
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return ErrClosed
	}
}

// connect starts a search for the node, or joins the one under way. With addrs, these are checked as well (without a search under
// way and without a waiter: only these).
func (o *owner) connect(n *node, addrs []netip.AddrPort, waiter chan error) {
	if !o.nodes.has(n) {
		answerWaiter(waiter, ErrUnknownNode)
		return
	}
	if waiter != nil || addrs == nil {
		addrs = append(addrs, o.candidates(n)...)
	}
	var fresh []netip.AddrPort
	for _, a := range addrs {
		if !slices.Contains(fresh, a) && (n.attempt == nil || !n.attempt.covers(a)) {
			fresh = append(fresh, a)
		}
	}
	if n.attempt == nil {
		if len(fresh) == 0 && (o.cfg.Assist == nil || n.member.Load() == nil) {
			answerWaiter(waiter, ErrNoCandidates)
			return
		}
		n.begin(o.now())
		n.attempt.assistAt = n.attempt.began
		if len(fresh) > 0 && !o.namesRelays(n) {
			n.attempt.assistAt += AssistAfter
		}
	}
	a := n.attempt
	if waiter != nil {
		if len(a.waiters) == waitersMax {
			answerWaiter(waiter, errTooManyChecks)
			return
		}
		a.waiters = append(a.waiters, waiter)
	}
	o.extend(n, fresh)
	o.reached(n) // by an answer to the search that the waiter has joined
	o.advance(n, o.now())
}

// namesRelays reports whether the member has said that it is reached through relays.
func (o *owner) namesRelays(n *node) bool {
	id := n.memberID()
	if id == nil {
		return false
	}
	e, ok := o.peers.Get(*id)
	return ok && e.HasRecord && len(e.Record.Relays) > 0
}

// considerAssist asks for help with the search, once, when its direct checks have had their head start.
func (o *owner) considerAssist(n *node, now instant) {
	a := n.attempt
	switch {
	case a.assisted:
	case now < a.assistAt:
		o.wakeFor(n, a.assistAt)
	default:
		a.assisted = true
		o.assist(n)
	}
}

// assist tells Config.Assist of a search for a member that has no working direct path.
func (o *owner) assist(n *node) {
	id := n.member.Load()
	if o.cfg.Assist == nil || id == nil || n.paths.worksDirectly() {
		return
	}
	select {
	case o.assists <- *id:
	default: // it will be searched for again
	}
}

// callAssist is the goroutine that calls Config.Assist.
func (s *Socket) callAssist() {
	for {
		select {
		case id := <-s.assists:
			s.cfg.Assist(id)
		case <-s.done:
			return
		}
	}
}

// extend adds addresses to the search. They are checked from now on, so the search begins anew in time; what was sent is not repeated.
func (o *owner) extend(n *node, fresh []netip.AddrPort) {
	a := n.attempt
	now := o.now()
	room := nat.PlanAddressesMax + a.extra - len(n.tried)
	fresh = fresh[:max(0, min(len(fresh), room))]
	offset := now - a.began
	rest := slices.Clone(a.plan[a.next:])
	for _, step := range nat.CheckPlan(fresh) {
		rest = append(rest, nat.Step{At: offset + step.At, To: step.To})
	}
	slices.SortStableFunc(rest, func(x, y nat.Step) int { return int(x.At - y.At) })
	a.plan, a.next = rest, 0
	for _, to := range fresh {
		n.tried[to] = true
	}
}

// covers reports whether the search has the address among those to check.
func (a *attempt) covers(addr netip.AddrPort) bool {
	return slices.ContainsFunc(a.plan, func(s nat.Step) bool { return s.To == addr })
}

// answerWaiter tells a waiter, if there is one, how its search ended.
func answerWaiter(w chan error, err error) {
	if w != nil {
		w <- err // capacity 1, one outcome
	}
}

// advance sends the checks of the search that are due and ends it when its time is up.
func (o *owner) advance(n *node, now instant) {
	a := n.attempt
	o.considerAssist(n, now)
	o.considerPipes(n, now)
	for a.next < len(a.plan) && a.began+a.plan[a.next].At <= now {
		to := a.plan[a.next].To
		a.next++
		p := n.paths.find(to)
		if p != nil && p.mutual && p.answered >= a.began {
			continue // both sides have what they need
		}
		err := o.check(n, to, true, nil)
		n.attempts.sent(to, err, now)
		if err != nil {
			o.log.Debug("path check not sent", "peer", n.name(), "addr", to, "err", err)
		}
	}
	end := a.began + nat.PlanLength
	if a.next < len(a.plan) {
		o.wakeFor(n, a.began+a.plan[a.next].At)
		return
	}
	if last := len(a.plan) - 1; last >= 0 {
		end = max(end, a.began+a.plan[last].At+nat.PlanLength-nat.PlanLastRepeat)
	}
	if now < end {
		o.wakeFor(n, end)
		return
	}
	o.end(n)
}

// end closes a search whose time is up. A path of which we do not know whether the other side has validated it is better than none.
func (o *owner) end(n *node) {
	for _, p := range n.paths.paths {
		if p.answered >= n.attempt.began {
			o.finish(n, nil)
			return
		}
	}
	// None of the paths has answered the search's checks either. One that was idle is not known to be silent, as nothing was owed on it; were it
	// still taken to work, no search would ask for help, and the node stay out of reach for as long as nothing else speaks to it.
	for i := range n.paths.paths {
		if p := &n.paths.paths[i]; p.missed < silentAfter {
			p.missed, p.silent, p.probed = silentAfter, n.attempt.began, max(p.probed, n.attempt.began)
		}
	}
	o.finish(n, ErrUnreachable)
}

// reached tells the waiters if there is a path now that both sides have validated. The search goes on for the other addresses.
func (o *owner) reached(n *node) {
	if p := n.paths.find(n.paths.active); p != nil && p.mutual {
		n.confirmed.Store(true)
		n.unpark()
	}
	a := n.attempt
	if a == nil {
		return
	}
	for _, p := range n.paths.paths {
		if p.mutual && p.answered >= a.began {
			for _, w := range a.waiters {
				answerWaiter(w, nil)
			}
			a.waiters = nil
			return
		}
	}
}

// finish ends the search with an outcome for those that still wait.
func (o *owner) finish(n *node, err error) {
	if n.attempt == nil {
		return
	}
	for _, w := range n.attempt.waiters {
		answerWaiter(w, err)
	}
	n.attempt = nil
}

// candidates are the addresses at which the node may be, the likeliest first: those with a path, those it announces, hints.
func (o *owner) candidates(n *node) []netip.AddrPort {
	var out []netip.AddrPort
	add := func(a netip.AddrPort) {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		if o.mayTry(a) && !slices.Contains(out, a) && len(out) < nat.PlanAddressesMax {
			out = append(out, a)
		}
	}
	for _, p := range n.paths.paths {
		if o.links.get(p.addr) != nil {
			out = append(out, p.addr) // mayTry is for what others tell us
			continue
		}
		add(p.addr)
	}
	if id := n.memberID(); id != nil {
		if e, ok := o.peers.Get(*id); ok && e.HasRecord {
			for _, ep := range e.Record.Endpoints {
				add(ep.Addr)
			}
		}
	}
	for _, a := range n.hints {
		add(a)
	}
	return out
}

// Hint adds addresses at which a member may be, from the address book or a token. The newest are kept. Hints for a node that is not
// (yet) a member are dropped: with no key to check, use [Socket.Contact].
func (s *Socket) Hint(id identity.NodeID, addrs []netip.AddrPort) {
	n := s.memberNode(id)
	if n == nil {
		return
	}
	addrs = slices.Clone(addrs[:min(len(addrs), hintsMax)])
	_ = s.command(func(o *owner) { // a closed socket needs no hints
		for _, a := range n.hints {
			if !slices.Contains(addrs, a) && len(addrs) < hintsMax {
				addrs = append(addrs, a)
			}
		}
		n.hints = addrs
		if n.attempt != nil {
			o.tryNew(n)
		}
	})
}

// learnKey asks whoever sits at an address, of UDP or of a link, for its key, and returns its node.
func (s *Socket) learnKey(ctx context.Context, to netip.AddrPort) (*node, error) {
	plan := nat.CheckPlan([]netip.AddrPort{to})
	reply := make(chan answer, len(plan)) // one for each request
	began := s.now()
	var sendErr error
	for i := 0; ; i++ {
		until := began + nat.PlanLength
		if i < len(plan) {
			sendErr = s.request(transaction{addr: to, reply: reply}, func(id nat.TransactionID) []byte {
				return nat.CheckRequest{Transaction: id, Sender: s.public, Opening: true}.Encode()
			})
		}
		if i+1 < len(plan) {
			until = began + plan[i+1].At
		}
		timer := time.NewTimer(until - s.now())
		select {
		case a := <-reply:
			timer.Stop()
			return a.node, nil
		case <-timer.C:
			if i+1 >= len(plan) {
				return nil, errors.Join(ErrUnreachable, sendErr)
			}
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(ctx.Err(), sendErr)
		case <-s.done:
			timer.Stop()
			return nil, ErrClosed
		}
	}
}

// Probe sends one keyed check over the active path of a member and returns the round trip. Without a path it looks for one first.
// Errors: as Connect's; [ErrUnreachable] if no answer comes within a second.
func (s *Socket) Probe(ctx context.Context, id identity.NodeID) (time.Duration, error) {
	n := s.memberNode(id)
	if n == nil {
		return 0, fmt.Errorf("underlay: probe %s: %w", id.Short(), ErrUnknownNode)
	}
	r := n.active.Load()
	if r == nil {
		if err := s.Connect(ctx, id); err != nil {
			return 0, err
		}
		if r = n.active.Load(); r == nil {
			return 0, fmt.Errorf("underlay: probe %s: %w", id.Short(), ErrNoPath)
		}
	}
	reply := make(chan answer, 1)
	if err := s.check(n, r.source.addr, true, reply); err != nil {
		return 0, fmt.Errorf("underlay: probe %s at %s: %w", id.Short(), r.source.addr, err)
	}
	timer := time.NewTimer(probeTimeoutMax)
	defer timer.Stop()
	select {
	case a := <-reply:
		return a.rtt, nil
	case <-timer.C:
		return 0, fmt.Errorf("underlay: probe %s at %s: %w", id.Short(), r.source.addr, ErrUnreachable)
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.done:
		return 0, ErrClosed
	}
}

// MappedBy asks a STUN server, or a node, at which address it sees us (RFC 8489 §2). It sends up to six requests in five seconds.
func (s *Socket) MappedBy(ctx context.Context, server netip.AddrPort) (mapped netip.AddrPort, rtt time.Duration, err error) {
	server = netip.AddrPortFrom(server.Addr().Unmap(), server.Port())
	if isLinkAddr(server.Addr()) {
		return netip.AddrPort{}, 0, fmt.Errorf("underlay: ask %s for our address: %w", server, ErrNoCandidates)
	}
	plan := nat.CheckPlan([]netip.AddrPort{server})
	reply := make(chan answer, len(plan))
	began := s.now()
	for i := range plan {
		// In turn without padding, which a server outside the mesh may refuse, and with, without which a node does not answer.
		encode := nat.PlainRequest
		if i%2 == 1 {
			encode = nat.PaddedRequest
		}
		if err := s.request(transaction{addr: server, plain: true, reply: reply}, encode); err != nil {
			return netip.AddrPort{}, 0, fmt.Errorf("underlay: ask %s for our address: %w", server, err)
		}
		until := began + nat.PlanLength
		if i+1 < len(plan) {
			until = began + plan[i+1].At
		}
		timer := time.NewTimer(until - s.now())
		select {
		case a := <-reply:
			timer.Stop()
			return a.mapped, a.rtt, nil
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return netip.AddrPort{}, 0, ctx.Err()
		case <-s.done:
			timer.Stop()
			return netip.AddrPort{}, 0, ErrClosed
		}
	}
	return netip.AddrPort{}, 0, fmt.Errorf("underlay: ask %s for our address: %w", server, ErrUnreachable)
}

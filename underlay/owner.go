package underlay

import (
	"errors"
	"net/netip"
	"time"
)

// owner is the goroutine that owns every node's paths and searches. It feeds the pure core ([pathSet], [nat.CheckPlan]) and carries
// out what that decides.
type owner struct {
	*Socket
	newKeysTotal bucket
	// Of challenges to sources without a path.
	strangeChallenges, keyedChallenges bucket
	list, woken                        []*node // scratch of all and of scan
	queue                              dueQueue
	swept                              instant
	reconciling                        instant // the earliest that the peer table is looked at again
	timer                              *time.Timer
	due                                instant // when the timer fires
	pending                            []*node // to be checked everywhere, since the network changed
}

// Intervals of the owner's chores.
const (
	sweepInterval = 5 * time.Second
	localInterval = 15 * time.Second
	// reconcileTurn is the least time between two looks at the peer table, for each member, and reconcileMax that of any mesh: a look takes a microsecond
	// for each, and a mesh of hundreds that forms changes all the time. Who is cut off does not wait for it (Forget).
	reconcileTurn = 500 * time.Microsecond
	reconcileMax  = 250 * time.Millisecond
)

// run ends when the socket closes.
func (o *owner) run() {
	o.newKeysTotal.tokens = newKeysTotal.burst
	o.strangeChallenges.tokens, o.keyedChallenges.tokens = strangeChallenges.burst, keyedChallenges.burst
	changed, cancel := o.peers.Watch()
	defer cancel()
	local := time.NewTicker(localInterval)
	defer local.Stop()
	changes := o.cfg.Changes
	o.timer = time.NewTimer(sweepInterval)
	defer o.timer.Stop()
	o.reconcile()
	for {
		table := changed
		if o.now() < o.reconciling {
			table = nil
		}
		// Validated sources' requests go first: a flood from strangers must not look like a dead path.
		select {
		case p := <-o.checks:
			o.handleRequest(p)
			continue
		default:
		}
		select {
		case p := <-o.checks:
			o.handleRequest(p)
		case a := <-o.answers:
			o.handleAnswer(a)
		case p := <-o.strange:
			o.handleRequest(p)
		case f := <-o.commands:
			f(o)
		case <-table:
			o.reconcile()
		case <-local.C:
			if o.refreshLocal() {
				o.networkChanged()
			}
		case _, ok := <-changes:
			if !ok {
				changes = nil
				continue
			}
			o.refreshLocal()
			o.networkChanged()
		case <-o.kick:
			o.scan()
		case <-o.timer.C:
			o.due = 0
			o.scan()
		case <-o.done:
			o.failAll()
			return
		}
	}
}

// all returns every node. The slice is valid until the next call.
func (o *owner) all() []*node {
	o.list = o.nodes.appendAll(o.list[:0])
	return o.list
}

// scan steps every node that is due or was stirred; now and then, all that are awake.
func (o *owner) scan() {
	o.dropRemovedLinks()
	now := o.now()
	o.recheckPending(now)
	o.woken = o.stirred.take(o.woken[:0])
	for _, n := range o.woken {
		o.stepKnown(n, now)
	}
	for n := o.queue.next(now); n != nil; n = o.queue.next(now) {
		o.queue.drop(n)
		o.stepKnown(n, now)
	}
	if now-o.swept >= sweepInterval {
		o.swept = now
		o.sweep(now)
	}
	o.wakeAt(now + sweepInterval)
	if len(o.queue) > 0 {
		o.wakeAt(o.queue[0].due)
	}
}

// stepKnown steps a node, unless it was removed meanwhile.
func (o *owner) stepKnown(n *node, now instant) {
	if o.nodes.has(n) {
		o.step(n, now)
	}
}

// sweep forgets what has had its time, and looks at nodes that nothing has stirred: what only comes from a node wakes nobody.
func (o *owner) sweep(now instant) {
	for _, n := range o.all() {
		switch {
		case n.member.Load() == nil && n.expired(now):
			o.removeStranger(n)
		case n.awake(now):
			o.step(n, now)
		}
	}
	o.transactions.sweep(now)
	o.forgetIdleChannels(now)
}

// wakeAt sets the timer, unless it fires earlier.
func (o *owner) wakeAt(at instant) {
	if o.due != 0 && o.due <= at {
		return
	}
	o.due = at
	o.timer.Reset(max(at-o.now(), 0))
}

// wakeFor makes the node due, unless it is earlier.
func (o *owner) wakeFor(n *node, at instant) {
	o.queue.at(n, at)
	o.wakeAt(at)
}

// step carries one node forward: its search, then its paths.
func (o *owner) step(n *node, now instant) {
	o.queue.drop(n)
	if n.wantsPath.Load() && (n.automatic == 0 || now-n.automatic >= automaticInterval) {
		n.wantsPath.Store(false)
		n.automatic = now
		o.connect(n, nil, nil)
	}
	if n.attempt != nil {
		o.advance(n, now)
	}
	o.gather(n)
	o.carryOut(n, o.refusals(n, now))
	acts, next := n.paths.step(now)
	o.carryOut(n, acts)
	if next != 0 {
		o.wakeFor(n, next)
	}
}

// gather brings the core what the packet path has noted.
func (o *owner) gather(n *node) {
	p := &n.paths
	n.gatherUse()
	p.owed, p.unanswered = orNever(n.owed.Load()), orNever(n.unanswered.Load())
	for i := range p.paths {
		if src := o.sources.get(p.paths[i].addr); src != nil && src.node == n {
			p.paths[i].heard = max(p.paths[i].heard, instant(src.received.Load()))
			p.paths[i].evidence.now = src.sent.load()
		}
	}
}

// gatherUse brings the core when the node was last used.
func (n *node) gatherUse() {
	n.paths.sent, n.paths.used = orNever(n.sent.Load()), orNever(n.used.Load())
}

// awake reports whether the node is in use, searched for or kept.
func (n *node) awake(now instant) bool {
	n.gatherUse()
	return n.attempt != nil || !n.paths.asleep(now)
}

// orNever turns the zero of the atomics into the core's "never".
func orNever(i int64) instant {
	if i == 0 {
		return -1
	}
	return instant(i)
}

// carryOut does what the core decided.
func (o *owner) carryOut(n *node, acts []action) {
	for _, a := range acts {
		switch a.kind {
		case actProbe, actReport, actSize, actRefresh, actPing:
			o.sendOver(n, a)
		case actTrial:
			o.startTrial(n, a.addr)
		case actLossy:
			o.log.Warn("path carries checks but loses data", "peer", n.name(), "addr", a.addr)
			o.publish(n)
		case actPublish:
			o.publish(n)
		case actSwitch:
			o.switchTo(n, a.addr)
		case actDrop:
			o.sources.remove(a.addr, n)
		case actRecheck:
			o.connect(n, nil, nil)
		}
	}
}

// handleAnswer takes a verified answer in.
func (o *owner) handleAnswer(a answer) {
	n := a.node
	if !o.nodes.has(n) {
		o.sources.remove(a.addr, n)
		n.active.Store(nil)
		return
	}
	class := pathUDP
	if link := linkOf(a.endpoint); link != nil {
		if class = link.class(); link.gone.Load() {
			o.sources.remove(a.addr, n)
			return
		}
	}
	o.sources.put(a.addr, n, a.at)
	o.gather(n)
	acts := n.paths.answer(a.addr, class, a.rtt, a.at)
	n.attempts.answered(a.addr, a.rtt, a.at)
	if a.report != nil {
		acts = append(acts, n.paths.report(a.addr, a.sent, counts{a.report.Packets, a.report.Large}, a.asked, a.at)...)
	}
	if p := n.paths.find(a.addr); p != nil && a.size > 0 {
		p.mtu.arrived(a.size-wireGuardOverhead, a.at)
	}
	if p := n.paths.find(a.addr); p != nil {
		// Not what it was before: a node that has forgotten us says so, and asks again. That may have overtaken this answer.
		p.mutual = a.validated || p.asked >= a.at-a.rtt || n.attempt != nil && n.attempt.challenged[a.addr]
		if a.addr == n.paths.active {
			n.confirmed.Store(p.mutual)
		}
	}
	if id := n.member.Load(); id != nil && a.mapped.IsValid() && linkOf(a.endpoint) == nil {
		o.observed.note(a.mapped, *id, a.at)
	}
	o.carryOut(n, acts)
	if r := n.active.Load(); r != nil && r.source.addr == a.addr {
		// The answer's endpoint knows which local address to send from.
		n.active.CompareAndSwap(r, answeredRoute(a.endpoint, o.sources.put(a.addr, n, a.at)))
	}
	o.publish(n)
	if id := n.member.Load(); id != nil && a.addr == n.paths.active && o.cfg.Measured != nil {
		o.cfg.Measured(*id, a.rtt)
	}
	o.reached(n)
	o.step(n, o.now())
}

// switchTo makes addr the active path of the node; invalid: it has none any more.
func (o *owner) switchTo(n *node, addr netip.AddrPort) {
	old := n.active.Load()
	n.owed.Store(0)
	if !addr.IsValid() {
		n.active.Store(nil)
		n.confirmed.Store(false)
		o.publish(n)
		o.log.Info("path lost", "peer", n.name(), "addr", addrOfRoute(old))
		if !n.paths.asleep(o.now()) {
			o.assist(n) // at once: a search that is under way began when there was a path, and asked for no help
		}
		return
	}
	e, err := o.parseEndpoint(addr)
	if errors.Is(err, errNoLink) {
		return // it was removed this moment: dropRemovedLinks is about to choose another
	}
	if err != nil {
		o.log.Error("a validated address does not parse", "peer", n.name(), "addr", addr, "err", err)
		return
	}
	n.active.Store(newRoute(e, o.sources.put(addr, n, o.now())))
	o.publish(n)
	if was := addrOfRoute(old); was.IsValid() && was != addr {
		o.log.Info("path changed", "peer", n.name(), "addr", addr, "was", was, "rtt", n.paths.find(addr).rtt)
	} else {
		o.log.Info("path found", "peer", n.name(), "addr", addr, "rtt", n.paths.find(addr).rtt)
	}
}

func addrOfRoute(r *route) netip.AddrPort {
	if r == nil {
		return netip.AddrPort{}
	}
	return r.source.addr
}

// name is how logs call the node.
func (n *node) name() string {
	if id := n.member.Load(); id != nil {
		return id.Short()
	}
	return "stranger " + n.key.String()[:8]
}

// publish makes the node's path visible, and signals the watchers if it is another.
func (o *owner) publish(n *node) {
	info := &PathInfo{Way: Way{Kind: PathNone}}
	if id := n.member.Load(); id != nil {
		info.ID = *id
	}
	p := &n.paths
	for _, q := range p.paths {
		if q.addr != p.active {
			info.Standby = append(info.Standby, o.way(q.addr, q.rtt))
			continue
		}
		info.Way, info.MTU, info.Since = o.way(q.addr, q.rtt), q.mtu.size(), o.when(p.since)
		info.Fragments, info.Lossy = q.mtu.narrow(), q.evidence.lossy
	}
	n.info.Store(info)
	n.narrow.Store(info.Fragments)
	if key := (pathKey{p.active, info.Kind, info.MTU, info.Fragments, info.Lossy}); key != n.publicized {
		n.publicized = key
		o.watchers.notify()
	}
}

// dropPaths forgets how to reach the node; whoever waits for it gets err.
func (o *owner) dropPaths(n *node, err error) {
	for _, p := range n.paths.paths {
		o.sources.remove(p.addr, n)
	}
	kept := n.paths.kept
	n.paths = newPathSet(o.patientWith(n.key))
	n.paths.kept = kept && n.member.Load() != nil
	n.trial.Store(nil)
	n.hints = nil
	n.active.Store(nil)
	n.confirmed.Store(false)
	n.parked.Store(nil)
	o.relay.endAll(n)
	o.finish(n, err)
	o.publish(n)
}

// reconcile follows the peer table: the revoked lose their paths, strangers that were admitted become members, and searches get the
// addresses that have just become known.
func (o *owner) reconcile() {
	members := o.peers.All()
	o.reconciling = o.now() + min(instant(len(members))*instant(reconcileTurn), instant(reconcileMax))
	o.wakeAt(o.reconciling)
	for _, e := range members {
		if !e.Revoked {
			continue
		}
		if _, again := o.peers.ByKey(e.Member.Public.WireGuard); again {
			continue // another member holds the key
		}
		o.revoke(e.Member.Public.WireGuard)
	}
	now := o.now()
	for _, n := range o.all() {
		if n.memberID() != nil && (n.attempt != nil || !n.paths.asleep(now)) {
			o.tryNew(n)
		}
	}
}

// tryNew checks the addresses of the node that have not been tried yet. A node that was found keeps being asked at its new ones, as
// a better path may be among them.
func (o *owner) tryNew(n *node) {
	var fresh []netip.AddrPort
	for _, a := range o.candidates(n) {
		if n.paths.find(a) == nil && !n.tried[a] {
			fresh = append(fresh, a)
		}
	}
	if len(fresh) > 0 {
		o.connect(n, fresh, nil)
	}
}

// failAll ends every search when the socket closes.
func (o *owner) failAll() {
	for _, n := range o.all() {
		o.finish(n, ErrClosed)
	}
}

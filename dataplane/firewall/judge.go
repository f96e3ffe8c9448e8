package firewall

// judgement decides on one packet, with the lock of its peer's table held.
type judgement struct {
	firewall *Firewall
	book     *book
	peer     *peer
	inbound  bool
	now      uint32
}

func (j *judgement) direction() int {
	if j.inbound {
		return 1
	}
	return 0
}

// ports are the packet's, ours first.
func (j *judgement) ports(h *header) (local, remote uint16) {
	if j.inbound {
		return h.dport, h.sport
	}
	return h.sport, h.dport
}

// key is the flow that a packet belongs to. Echoes of both sides may have the same identifier: who asks tells them apart.
func (j *judgement) key(h *header) flowKey {
	local, remote := j.ports(h)
	k := makeKey(h.protocol, h.src.Is6(), local, remote)
	if (h.kind == icmpRequest && j.inbound) || (h.kind == icmpReply && !j.inbound) {
		k |= echoInbound
	}
	return k
}

func (j *judgement) judge(h *header) reason {
	switch {
	case h.part == later:
		if j.peer.table.follows(j.direction(), h, j.now) || j.book.watching {
			return passes
		}
		return strayFragment
	case h.kind == icmpError:
		if j.related(h) || j.book.watching {
			return passes
		}
		return unrelated
	}
	why := j.decide(h)
	if why == passes && h.part == first {
		j.peer.table.passedFirst(j.direction(), h, j.now)
	}
	return why
}

// decide finds the packet's flow, or asks the rules whether it may open one.
func (j *judgement) decide(h *header) reason {
	k := j.key(h)
	if f, ok := j.flow(k); ok {
		onward := f.inbound == j.inbound
		if onward || !h.opens() {
			j.advance(k, f, h, onward)
			return passes
		}
	}
	// A pure SYN against the direction of a flow is a new connection over the same ports, and no answer.
	allowed := j.peer.services(j.inbound).Allows(h.protocol, h.dport)
	switch {
	case allowed && h.mayOpen():
		j.enter(k, h, j.inbound, false)
		return passes
	case allowed && h.protocol == protocolTCP && h.flags&flagRST != 0:
		return passes // ends what we do not know of; opens nothing
	case j.now < j.book.loose && h.answers() && j.peer.services(!j.inbound).Allows(h.protocol, h.sport):
		j.enter(k, h, !j.inbound, true)
		return passes
	case j.book.watching:
		return passes
	}
	return noRule
}

// flow returns a live flow that the book in force allows.
func (j *judgement) flow(k flowKey) (flow, bool) {
	t := j.peer.table
	f, ok := t.flows[k]
	if !ok {
		return f, false
	}
	stale := f.book != j.book.number && !j.peer.services(f.inbound).Allows(k.protocol(), k.port(f.inbound))
	if stale || f.expired(j.now) {
		t.removeLocked(k, &j.firewall.sizes)
		return f, false
	}
	return f, true
}

// advance notes a packet of a flow. The table is written only when something changed, at most once a second for a steady flow.
func (j *judgement) advance(k flowKey, f flow, h *header, onward bool) {
	was := f
	f.seen, f.book = j.now, j.book.number
	f.replied = f.replied || !onward
	if h.protocol == protocolTCP {
		f.follow(h.flags, onward)
	}
	if f != was {
		j.peer.table.flows[k] = f
	}
}

// follow brings the state of a TCP connection up to date.
func (f *flow) follow(flags uint8, onward bool) {
	switch {
	case flags&flagRST != 0:
		f.state = tcpClosing
		return
	case flags&(flagSYN|flagACK) == flagSYN && onward && f.state == tcpClosing: // the ports are used again
		f.state, f.fins, f.replied = tcpOpening, 0, false
		return
	case flags&flagFIN != 0 && onward:
		f.fins |= 1
	case flags&flagFIN != 0:
		f.fins |= 2
	}
	switch {
	case f.fins == 3:
		f.state = tcpClosing
	case f.state == tcpOpening && !onward:
		f.state = tcpEstablished
	}
}

// opens tells whether a packet asks for something new, whatever else there is between its ports.
func (h *header) opens() bool {
	return (h.protocol == protocolTCP && h.flags&(flagSYN|flagACK) == flagSYN) || h.kind == icmpRequest
}

// mayOpen tells whether a packet may be the first of a flow. A segment without SYN may: the flow can be older than this firewall.
func (h *header) mayOpen() bool {
	switch h.protocol {
	case protocolTCP:
		return h.flags&flagRST == 0 && h.flags&(flagSYN|flagACK) != flagSYN|flagACK
	case protocolICMP4, protocolICMP6:
		return h.kind != icmpReply
	}
	return true
}

// answers tells whether a packet is surely from the middle of a connection.
func (h *header) answers() bool {
	return h.protocol == protocolTCP && h.flags&(flagSYN|flagRST|flagACK) == flagACK
}

// enter remembers a flow.
func (j *judgement) enter(k flowKey, h *header, inbound, answered bool) {
	t := j.peer.table
	if t.gone {
		return
	}
	f := flow{seen: j.now, book: j.book.number, inbound: inbound, replied: answered, state: otherFlow, guessed: j.book.watching && !h.opens()}
	switch h.protocol {
	case protocolTCP:
		f.state = tcpOpening
		if !h.opens() {
			f.state = tcpEstablished // its opening was not seen
		}
	case protocolUDP:
		f.state = udpFlow
	case protocolICMP4, protocolICMP6:
		f.state = icmpFlow
	}
	if _, known := t.flows[k]; !known && !j.room() {
		return // it passes all the same; only its answers depend on the rules then
	}
	t.flows[k] = f
}

// room counts one more flow, after making place for it.
func (j *judgement) room() bool {
	t, s := j.peer.table, &j.firewall.sizes
	if j.now-t.swept > sweepInterval {
		t.sweepLocked(j.now, s)
	}
	if len(t.flows) >= peerFlowsMax && !t.evictLocked(j.now, s) {
		return false
	}
	if s.flows.Load() >= flowsMax {
		victim := t
		if len(t.flows) < reservedFlows {
			victim = j.largest()
		}
		if victim != t {
			if !victim.mu.TryLock() { // we hold a table: waiting for another could be for ever
				return false
			}
			defer victim.mu.Unlock()
		}
		if !victim.evictLocked(j.now, s) {
			return false
		}
	}
	s.flows.Add(1)
	return true
}

// largest returns the table with most flows. A peer comes here for its first reservedFlows only.
func (j *judgement) largest() *table {
	best, most := j.peer.table, int64(len(j.peer.table.flows))
	for _, p := range j.book.peers {
		if n := p.table.size(); p.table != j.peer.table && n > most {
			best, most = p.table, n
		}
	}
	return best
}

// size is how many flows a table holds; 0 while it is in use.
func (t *table) size() int64 {
	if !t.mu.TryLock() {
		return 0
	}
	defer t.mu.Unlock()
	return int64(len(t.flows))
}

// related tells whether an ICMP error quotes a packet of a flow, in the other direction.
func (j *judgement) related(h *header) bool {
	var q header
	if !q.parse(h.quote, true) || q.part == later || q.kind == icmpError || q.src != h.dst || q.dst != h.src {
		return false
	}
	quoted := judgement{firewall: j.firewall, book: j.book, peer: j.peer, inbound: !j.inbound, now: j.now}
	_, ok := quoted.flow(quoted.key(&q))
	return ok
}

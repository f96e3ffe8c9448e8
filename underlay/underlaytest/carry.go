package underlaytest

import (
	"net/netip"
	"time"
)

// carryLocked takes a packet on from where it is, until it has to wait, is lost or has arrived.
func (n *Network) carryLocked(p *packet) {
	for p.next != ended {
		over, why := n.hopLocked(p)
		if why != "" {
			n.loseLocked(p, why)
			return
		}
		if over != nil && !n.crossLocked(p, over) {
			return
		}
	}
}

// hopLocked takes a packet one step on. It returns the link to cross next, if any, or why the packet was lost.
func (n *Network) hopLocked(p *packet) (over *link, why Reason) {
	switch p.next {
	case resending:
		n.againLocked(p)
		return nil, waits
	case leaving:
		p.next = routing
		return p.link, ""
	case routing:
		box := p.realm.exitLocked(p.to.Addr())
		if box == nil {
			p.next = traversing
			return nil, ""
		}
		if p.boxes++; p.boxes > hopsMax {
			return nil, Hops
		}
		if why := box.outLocked(p); why != "" {
			return nil, why
		}
		p.realm, p.region, p.lan = box.outside, box.region, box.outside.lan
		return box.up, ""
	case traversing:
		p.next = crossing
		return nil, n.hookLocked(p)
	case crossing:
		p.next = entering
		return n.wayLocked(p), ""
	case entering:
		s := p.realm.stations[p.to.Addr()]
		if s == nil {
			return nil, NoHost
		}
		return s.enterLocked(p), ""
	case filtering:
		if p.boxes++; p.boxes > hopsMax {
			return nil, Hops
		}
		p.next = entering
		why := p.box.inLocked(p)
		p.realm = &p.box.inside
		return nil, why
	}
	p.next = ended
	return nil, n.arriveLocked(p)
}

// exitLocked returns the NAT by which one gets to an address that is not in the realm; nil: it is here, or nowhere.
func (r *realm) exitLocked(to netip.Addr) *NAT {
	if r.router == nil || r.stations[to] != nil {
		return nil
	}
	return r.router
}

// crossLocked takes a packet over a link. It returns false if that takes time, or the packet is lost.
func (n *Network) crossLocked(p *packet, over *link) bool {
	c := over.cross(n.nowLocked(), p)
	if c.why != "" {
		n.loseLocked(p, c.why)
		return false
	}
	if c.twice && p.segment == nil { // TCP would pass over it
		again := *p
		n.laterLocked(c.delay, &again)
	}
	if c.delay > 0 {
		n.laterLocked(c.delay, p)
		return false
	}
	return true
}

// hookLocked calls the hooks, without the lock.
func (n *Network) hookLocked(p *packet) Reason {
	h := n.hooks
	udp := p.segment == nil
	asked := udp || h.Segments
	see, drop, refuse, latency := asked && h.See != nil, asked && h.Drop != nil, !udp && h.Refuse != nil && p.segment.kind == synSegment, h.Latency != nil
	if !see && !drop && !refuse && !latency {
		return ""
	}
	n.mu.Unlock()
	defer n.mu.Lock()
	if see {
		h.See(p.from, p.to, p.data)
	}
	if drop && h.Drop(p.from, p.to, p.data) {
		return ByHook
	}
	if refuse && h.Refuse(p.from, p.to) {
		return Unanswered
	}
	if latency {
		if d := h.Latency(p.from, p.to); d > 0 {
			n.mu.Lock()
			n.laterLocked(d, p)
			n.mu.Unlock()
			return waits
		}
	}
	return ""
}

// loseLocked ends a packet.
func (n *Network) loseLocked(p *packet, why Reason) {
	if why == waits {
		return
	}
	p.next = ended
	if n.stats.Lost == nil {
		n.stats.Lost = map[Reason]uint64{}
	}
	n.stats.Lost[why]++
	n.showLocked(p, why)
	if p.segment != nil {
		p.segment.lostLocked(n, p, why)
	}
}

// laterLocked carries a packet on after d. Packets of the same instant go on in the order in which they were sent.
func (n *Network) laterLocked(d time.Duration, p *packet) {
	n.atLocked(n.nowLocked()+d, p)
}

func (n *Network) atLocked(at time.Duration, p *packet) {
	n.sequence++
	n.events.push(event{at: at, seq: n.sequence, packet: p})
	if n.events[0].packet == p {
		n.wakeLocked()
	}
}

// wakeLocked sets the one timer to the first event.
func (n *Network) wakeLocked() {
	d := n.events[0].at - n.nowLocked()
	if n.timer == nil {
		n.timer = time.AfterFunc(d, n.run)
		return
	}
	n.timer.Reset(d)
}

// run carries on what is due.
func (n *Network) run() {
	n.happening.Lock()
	defer n.happening.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.nowLocked()
	for len(n.events) > 0 && n.events[0].at <= now {
		n.carryLocked(n.events.pop().packet)
	}
	if len(n.events) > 0 {
		n.wakeLocked()
	}
}

// sendLocked starts a packet at a host's interface.
func (n *Network) sendLocked(i *Interface, p *packet) {
	p.sent, p.src, p.link, p.lan, p.realm, p.region = n.nowLocked(), i.host, i.up, i.lan, i.realm, i.host.region
	p.next, p.boxes = leaving, 0
	n.stats.Sent++
	n.showLocked(p, "")
	h := i.host
	switch {
	case h.paused && h.holding && len(h.held) < heldMax:
		h.held = append(h.held, p)
	case h.paused:
		n.loseLocked(p, HostDown)
	case !h.firewall.passesOutLocked(p, p.sent):
		n.loseLocked(p, Firewalled)
	case p.segment != nil:
		n.laterLocked(0, p) // not now: hooks want the lock, and the caller may hold something that does not let go of it
	default:
		n.carryLocked(p)
	}
}

// arriveLocked hands a packet to the host that it was sent to.
func (n *Network) arriveLocked(p *packet) Reason {
	i := p.dst
	h := i.host
	switch {
	case h.off:
		return HostDown
	case p.realm.stations[p.to.Addr()] != i:
		return NoHost // it has moved meanwhile
	case n.cutsLocked(p, h):
		return Partitioned
	case h.paused && h.holding && len(h.held) < heldMax:
		p.next = arriving
		h.held = append(h.held, p)
		return waits
	case h.paused:
		return HostDown
	case !h.firewall.passesInLocked(p, n.nowLocked()):
		return Firewalled
	}
	why := h.takeLocked(p)
	if why == "" {
		n.stats.Delivered++
		n.showLocked(p, "")
	}
	return why
}

// Deliver puts a packet before whoever has the address, with any source: what an attacker can do. No link or hook has a say. The network
// keeps b.
func (n *Network) Deliver(from, to netip.AddrPort, b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.carryLocked(&packet{sent: n.nowLocked(), realm: &n.outside, from: from, to: to, data: b, next: entering})
}

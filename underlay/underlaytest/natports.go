package underlaytest

import (
	"fmt"
	"net/netip"
	"time"
)

func natName(number int) string { return fmt.Sprintf("nat %d", number) }

// portsMin: outer ports are taken from here on (RFC 4787 §4.2, REQ-3).
const portsMin = 1024

// outerLocked picks the outer address and port of a new mapping.
func (t *NAT) outerLocked(f natFlow) netip.AddrPort {
	addr := t.poolLocked(f.from.Addr())
	taken := func(port uint16) bool {
		return len(t.byOuter[outerPort{f.protocol, netip.AddrPortFrom(addr, port)}]) > 0
	}
	port := f.from.Port()
	keeps := !t.cfg.Sequential && !t.cfg.RandomPorts && (t.cfg.Mapping == EndpointIndependent || f.protocol == TCP)
	if keeps && port >= portsMin && (t.cfg.Overload || !taken(port)) {
		return netip.AddrPortFrom(addr, port)
	}
	for {
		pick := uint16(portsMin + t.rand.IntN(1<<16-portsMin))
		if t.cfg.Sequential {
			pick = t.next
			if t.next++; t.next < portsMin {
				t.next = portsMin
			}
		}
		if !taken(pick) && (!t.cfg.Parity || pick%2 == port%2) {
			return netip.AddrPortFrom(addr, pick)
		}
	}
}

// poolLocked picks the outer address.
func (t *NAT) poolLocked(inner netip.Addr) netip.Addr {
	if len(t.cfg.Pool) == 0 {
		return t.cfg.External
	}
	if a, ok := t.pairs[inner]; ok && !t.cfg.Arbitrary {
		return a
	}
	a := t.cfg.External
	if k := t.rand.IntN(len(t.cfg.Pool) + 1); k > 0 {
		a = t.cfg.Pool[k-1]
	}
	t.pairs[inner] = a
	return a
}

// Forward opens a port of the outer side for an inner address and port, as an owner does on the router's web page. lifetime 0: for ever.
// It returns false if the port is another's.
func (t *NAT) Forward(protocol Protocol, port uint16, inner netip.AddrPort, lifetime time.Duration) bool {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	return t.forwardLocked(natFlow{protocol, flow{from: inner}}, port, lifetime) != nil
}

// forwardLocked makes or renews a static mapping; nil: the port is taken.
func (t *NAT) forwardLocked(f natFlow, port uint16, lifetime time.Duration) *mapping {
	now := t.network.nowLocked()
	expires := time.Duration(0)
	if lifetime > 0 {
		expires = now + lifetime
	}
	at := netip.AddrPortFrom(t.cfg.External, port)
	if m := t.static[f]; m != nil {
		if m.outer == at && !t.expired(m, 0, now) {
			m.expires = expires
			return m
		}
		t.removeLocked(m)
	}
	o := outerPort{f.protocol, at}
	for _, m := range t.byOuter[o] {
		if m.flow.from != f.from && !t.expired(m, m.last, now) {
			return nil
		}
	}
	for _, m := range t.byOuter[o] {
		t.removeLocked(m)
	}
	m := &mapping{flow: f, outer: at, sent: map[netip.AddrPort]time.Duration{}, static: true, expires: expires}
	t.static[f], t.byOuter[o] = m, append(t.byOuter[o], m)
	return m
}

package underlaytest

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// Dependence is what a NAT's mapping or filtering depends on (RFC 4787 §4.1 and §5).
type Dependence uint8

// The three kinds.
const (
	EndpointIndependent Dependence = iota
	AddressDependent
	AddressAndPortDependent
)

// NATConfig says how a NAT behaves. The zero value is the friendliest there is ("full cone"); Mapping: EndpointIndependent with
// Filtering: AddressAndPortDependent is the usual home router, both AddressAndPortDependent the hard ("symmetric") NAT.
type NATConfig struct {
	// External is its address on the outer side.
	External netip.Addr
	// Pool are more of them. Each inner address gets one (paired), unless Arbitrary: then each mapping does (RFC 4787 §4.1).
	Pool      []netip.Addr
	Arbitrary bool
	// Mapping says which packets of one inner address and port leave from one outer port; Filtering whom what arrives at that port
	// must come from, among those that were sent to.
	Mapping, Filtering Dependence
	// Hairpin: packets from inside to an outer port come back in.
	Hairpin bool
	// Lifetime is how long a mapping lasts without a packet going out, with InboundRefresh or coming in; 0: for ever (RFC 4787 §4.3).
	Lifetime       time.Duration
	InboundRefresh bool
	// DropUDP loses everything but TCP, DropTCP everything but UDP.
	DropUDP, DropTCP bool
	// Sequential takes outer ports in order, from 30000 on; otherwise the inner port is kept where it is free and mappings do not depend on
	// the destination, and else a random one is drawn from Seed. RandomPorts never keeps the inner port, Overload keeps it even if it is another
	// host's too, Parity takes an even port for an even one and an odd for an odd (RFC 4787 §4.2).
	Sequential, RandomPorts, Overload, Parity bool
	Seed                                      uint64
	// IPv6: global IPv6 addresses of the hosts behind it are routed, behind a firewall that lets in what answers, as Filtering and Lifetime say;
	// IPv6Open: without one. Otherwise there is no IPv6 across it.
	IPv6, IPv6Open bool
}

// NAT is a router that translates addresses, with a stateful firewall for IPv6. It has inner networks of its own: two NATs may have
// hosts of the same address.
type NAT struct {
	network *Network
	outside *realm
	inside  realm
	number  int

	// Guarded by network.mu.
	region   *Region
	up, down *link // of its outer side
	cfg      NATConfig
	rand     *rand.Rand
	next     uint16
	byFlow   map[natFlow]*mapping
	byOuter  map[outerPort][]*mapping // more than one only with Overload
	static   map[natFlow]*mapping     // ports that were asked for, by inner address and port
	pairs    map[netip.Addr]netip.Addr
}

type flow struct{ from, to netip.AddrPort }

// natFlow is what has one outer port: an inner address and port, and as much of the destination as the mapping depends on.
type natFlow struct {
	protocol Protocol
	flow
}

// outerPort is an address and port on the outer side.
type outerPort struct {
	protocol Protocol
	addr     netip.AddrPort
}

type mapping struct {
	flow    natFlow
	outer   netip.AddrPort
	sent    map[netip.AddrPort]time.Duration // where to, when last
	last    time.Duration
	static  bool
	expires time.Duration // of a static one; 0: never
}

// NAT adds a NAT to the internet.
func (n *Network) NAT(cfg NATConfig) *NAT { return n.nat(&n.outside, nil, cfg) }

// NAT adds a NAT to the LAN.
func (l *LAN) NAT(cfg NATConfig) *NAT { return l.network.nat(l.realm, nil, cfg) }

// NAT adds a NAT behind this one (carrier-grade NAT); cfg.External is an address in its inner network.
func (t *NAT) NAT(cfg NATConfig) *NAT { return t.network.nat(&t.inside, t, cfg) }

// Host adds a machine behind the NAT. All of them are in one LAN.
func (t *NAT) Host(addrs ...netip.Addr) *Host { return t.network.host(&t.inside, t.inside.lan, addrs) }

func (t *NAT) spot() (*realm, *LAN) { return &t.inside, t.inside.lan }

func (n *Network) nat(outside *realm, behind *NAT, cfg NATConfig) *NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts++
	t := &NAT{network: n, outside: outside, number: n.hosts, cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0)), next: 30000}
	if behind != nil {
		t.region = behind.region
	}
	t.inside.router = t
	t.inside.lan = &LAN{network: n, realm: &t.inside}
	t.clearLocked()
	outside.occupyLocked(t, append([]netip.Addr{cfg.External}, cfg.Pool...)...)
	return t
}

func (t *NAT) clearLocked() {
	t.byFlow, t.byOuter, t.static = map[natFlow]*mapping{}, map[outerPort][]*mapping{}, map[natFlow]*mapping{}
	t.pairs = map[netip.Addr]netip.Addr{}
}

// LAN is the network behind the NAT.
func (t *NAT) LAN() *LAN { return t.inside.lan }

// SetRegion says in which region the NAT is.
func (t *NAT) SetRegion(r *Region) {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	t.region = r
}

// SetLink sets what happens to packets on the NAT's outer side, on their way out and in.
func (t *NAT) SetLink(up, down Link) {
	n := t.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if t.up == nil {
		t.up, t.down = newLink(up, n.seed, natName(t.number)+" up"), newLink(down, n.seed, natName(t.number)+" down")
		return
	}
	t.up.set(up)
	t.down.set(down)
}

// Reboot forgets all mappings, those that were asked for too; the next packets get others.
func (t *NAT) Reboot() {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	t.clearLocked()
}

// Renumber gives the NAT another outer address, as providers do at night; its mappings are lost.
func (t *NAT) Renumber(external netip.Addr) {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	t.outside.vacateLocked(t, t.cfg.External)
	t.cfg.External = external
	t.outside.occupyLocked(t, external)
	t.clearLocked()
}

// Set changes how the NAT behaves from now on; its addresses stay.
func (t *NAT) Set(cfg NATConfig) {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	cfg.External, cfg.Pool = t.cfg.External, t.cfg.Pool
	t.cfg = cfg
}

// Mappings returns how many outer ports of UDP are in use.
func (t *NAT) Mappings() (k int) {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	for o, all := range t.byOuter {
		if o.protocol == UDP {
			k += len(all)
		}
	}
	return k
}

// External returns the outer address.
func (t *NAT) External() netip.Addr {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	return t.cfg.External
}

func (t *NAT) placeLocked() (*Region, *LAN) { return t.region, nil }

func (t *NAT) enterLocked(p *packet) *link {
	p.box, p.next = t, filtering
	return t.down
}

func (t *NAT) dropsLocked(p *packet) bool {
	return t.cfg.DropUDP && p.segment == nil || t.cfg.DropTCP && p.segment != nil
}

// ownsLocked reports whether an address is the NAT's outer side.
func (t *NAT) ownsLocked(a netip.Addr) bool {
	if a == t.cfg.External {
		return true
	}
	for _, b := range t.cfg.Pool {
		if a == b {
			return true
		}
	}
	return false
}

// outLocked translates the source of a packet on its way out. It returns why the packet is lost.
func (t *NAT) outLocked(p *packet) Reason {
	switch {
	case t.dropsLocked(p):
		return Firewalled
	case t.ownsLocked(p.to.Addr()) && !t.cfg.Hairpin:
		return Translation
	case p.from.Addr().Is6() && !t.cfg.IPv6 && !t.cfg.IPv6Open:
		return NoRoute
	}
	now := t.network.nowLocked()
	m := t.mappingLocked(p, now)
	if m == nil {
		return Translation
	}
	m.last, m.sent[p.to] = now, now
	if p.from.Addr().Is4() {
		p.from = m.outer
	}
	return ""
}

// mappingLocked finds or makes the mapping of a packet on its way out. For IPv6, which is not translated, it is the firewall's memory.
func (t *NAT) mappingLocked(p *packet, now time.Duration) *mapping {
	f := natFlow{p.protocol(), flow{from: p.from}}
	if m := t.static[f]; m != nil && !t.expired(m, m.last, now) {
		return m
	}
	six := p.from.Addr().Is6()
	switch {
	case six || p.segment != nil || t.cfg.Mapping == AddressAndPortDependent:
		f.to = p.to
	case t.cfg.Mapping == AddressDependent:
		f.to = netip.AddrPortFrom(p.to.Addr(), 0)
	}
	m := t.byFlow[f]
	if m != nil && !t.expired(m, m.last, now) {
		return m
	}
	if m != nil {
		t.removeLocked(m)
	}
	if p.segment != nil && p.segment.kind != synSegment && !six {
		return nil // what it was is forgotten
	}
	m = &mapping{flow: f, outer: p.from, sent: map[netip.AddrPort]time.Duration{}}
	if !six {
		m.outer = t.outerLocked(f)
	}
	o := outerPort{f.protocol, m.outer}
	t.byFlow[f], t.byOuter[o] = m, append(t.byOuter[o], m)
	return m
}

func (t *NAT) removeLocked(m *mapping) {
	o := outerPort{m.flow.protocol, m.outer}
	if m.static {
		delete(t.static, m.flow)
	} else {
		delete(t.byFlow, m.flow)
	}
	var rest []*mapping
	for _, x := range t.byOuter[o] {
		if x != m {
			rest = append(rest, x)
		}
	}
	if t.byOuter[o] = rest; rest == nil {
		delete(t.byOuter, o)
	}
}

// expired reports whether a mapping, or its permission for one destination, that was last used at a time is over.
func (t *NAT) expired(m *mapping, at, now time.Duration) bool {
	if m.static {
		return m.expires > 0 && now > m.expires
	}
	return t.cfg.Lifetime > 0 && m.flow.protocol == UDP && now-at > t.cfg.Lifetime
}

// inLocked translates the destination of a packet on its way in, if it may pass. It returns why the packet is lost.
func (t *NAT) inLocked(p *packet) Reason {
	if t.dropsLocked(p) {
		return Firewalled
	}
	if t.cfg.IPv6Open && !t.ownsLocked(p.to.Addr()) {
		return ""
	}
	now := t.network.nowLocked()
	all := t.byOuter[outerPort{p.protocol(), p.to}]
	for i := len(all) - 1; i >= 0; i-- {
		m := all[i]
		if t.expired(m, m.last, now) || !t.passes(m, p, now) {
			continue
		}
		if t.cfg.InboundRefresh {
			m.last = now
		}
		p.to = m.flow.from
		return ""
	}
	return Translation
}

// passes is the filter.
func (t *NAT) passes(m *mapping, p *packet, now time.Duration) bool {
	switch {
	case m.static:
		return true
	case p.segment != nil: // nobody opens a connection inward; and a mapping is for one destination
		_, ok := m.sent[p.from]
		return ok && p.segment.kind != synSegment
	case t.cfg.Filtering == EndpointIndependent:
		return true
	case t.cfg.Filtering == AddressAndPortDependent:
		at, ok := m.sent[p.from]
		return ok && (!t.expired(m, at, now) || t.cfg.InboundRefresh)
	}
	for to, at := range m.sent {
		if to.Addr() == p.from.Addr() && (!t.expired(m, at, now) || t.cfg.InboundRefresh) {
			return true
		}
	}
	return false
}

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
	// Mapping says which packets of one inner address and port leave from one outer port; Filtering whom what arrives at that port
	// must come from, among those that were sent to.
	Mapping, Filtering Dependence
	// Hairpin: packets from inside to an outer port come back in.
	Hairpin bool
	// Lifetime is how long a mapping lasts without a packet going out; 0: for ever.
	Lifetime time.Duration
	// DropUDP loses everything but TCP.
	DropUDP bool
	// Sequential takes outer ports in order, from 30000 on; otherwise the inner port is kept where it is free and mappings do not depend on
	// the destination, and else a random one is drawn from Seed.
	Sequential bool
	Seed       uint64
}

// NAT is a router that translates addresses. It has one outer address, and inner networks of its own: two NATs may have hosts of the
// same address.
type NAT struct {
	network *Network
	outside *realm
	inside  realm

	// Guarded by network.mu.
	cfg    NATConfig
	rand   *rand.Rand
	next   uint16
	byFlow map[flow]*mapping
	byPort map[uint16]*mapping
}

// flow is what has one outer port: an inner address and port, and as much of the destination as the mapping depends on.
type flow struct{ inner, to netip.AddrPort }

type mapping struct {
	flow flow
	port uint16
	sent map[netip.AddrPort]time.Time // where to, when last
	last time.Time
}

// NAT adds a NAT to the internet.
func (n *Network) NAT(cfg NATConfig) *NAT { return n.nat(&n.outside, cfg) }

// NAT adds a NAT behind this one (carrier-grade NAT); cfg.External is an address in its inner network.
func (t *NAT) NAT(cfg NATConfig) *NAT { return t.network.nat(&t.inside, cfg) }

// Host adds a machine behind the NAT.
func (t *NAT) Host(addrs ...netip.Addr) *Host { return t.network.host(&t.inside, addrs) }

func (n *Network) nat(outside *realm, cfg NATConfig) *NAT {
	t := &NAT{network: n, outside: outside, cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0)), next: 30000}
	t.inside.router = t
	t.clear()
	n.mu.Lock()
	defer n.mu.Unlock()
	outside.placeLocked(t, cfg.External)
	return t
}

func (t *NAT) clear() { t.byFlow, t.byPort = map[flow]*mapping{}, map[uint16]*mapping{} }

// Reboot forgets all mappings; the next packets get others.
func (t *NAT) Reboot() {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	t.clear()
}

// Set changes how the NAT behaves from now on; its address stays.
func (t *NAT) Set(cfg NATConfig) {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	cfg.External = t.cfg.External
	t.cfg = cfg
}

// Mappings returns how many outer ports are in use.
func (t *NAT) Mappings() int {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	return len(t.byPort)
}

// outLocked translates the source of a packet on its way out.
func (t *NAT) outLocked(from, to netip.AddrPort, tcp bool) (netip.AddrPort, bool) {
	if tcp { // streams keep their state themselves, so any port will do
		return netip.AddrPortFrom(t.cfg.External, from.Port()), to.Addr() != t.cfg.External
	}
	if t.cfg.DropUDP || to.Addr() == t.cfg.External && !t.cfg.Hairpin {
		return netip.AddrPort{}, false
	}
	now := time.Now()
	f := flow{inner: from}
	switch t.cfg.Mapping {
	case AddressDependent:
		f.to = netip.AddrPortFrom(to.Addr(), 0)
	case AddressAndPortDependent:
		f.to = to
	}
	m := t.byFlow[f]
	if m == nil || t.expired(m.last, now) {
		if m != nil {
			delete(t.byPort, m.port)
		}
		m = &mapping{flow: f, port: t.portLocked(f), sent: map[netip.AddrPort]time.Time{}}
		t.byFlow[f], t.byPort[m.port] = m, m
	}
	m.last, m.sent[to] = now, now
	return netip.AddrPortFrom(t.cfg.External, m.port), true
}

func (t *NAT) expired(at, now time.Time) bool {
	return t.cfg.Lifetime > 0 && now.Sub(at) > t.cfg.Lifetime
}

// portLocked picks the outer port of a new mapping.
func (t *NAT) portLocked(f flow) uint16 {
	port := f.inner.Port()
	if t.cfg.Sequential || t.cfg.Mapping != EndpointIndependent {
		port = 0
	}
	for port < 1024 || t.byPort[port] != nil {
		if port = uint16(1024 + t.rand.IntN(1<<16-1024)); t.cfg.Sequential {
			port = t.next
			t.next++
		}
	}
	return port
}

// arrive takes a packet that came to the outer address, and passes it on if it may.
func (t *NAT) arrive(from, to netip.AddrPort, b []byte) {
	t.network.mu.Lock()
	m := t.byPort[to.Port()]
	now := time.Now()
	ok := m != nil && !t.cfg.DropUDP && !t.expired(m.last, now) && t.passesLocked(m, from, now)
	t.network.mu.Unlock()
	if ok {
		t.network.deliver(&t.inside, from, m.flow.inner, b)
	}
}

// passesLocked is the filter.
func (t *NAT) passesLocked(m *mapping, from netip.AddrPort, now time.Time) bool {
	if t.cfg.Filtering == EndpointIndependent {
		return true
	}
	for to, at := range m.sent {
		if to == from || t.cfg.Filtering == AddressDependent && to.Addr() == from.Addr() {
			if !t.expired(at, now) {
				return true
			}
		}
	}
	return false
}

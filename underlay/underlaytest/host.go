package underlaytest

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

const (
	// firstPort is where ports are picked from when 0 is asked for.
	firstPort = 40000
	// heldMax is the packets that are kept for a paused host, as many as a socket holds.
	heldMax = queueSize
	// firewallMemory is how long a stateful firewall lets answers in after a packet went out, as Linux does by default
	// (nf_conntrack_udp_timeout_stream).
	firewallMemory = 2 * time.Minute
)

// Host is a machine. A program that runs on it is a [Process]; the host itself is the conn.Bind of one that is always there.
type Host struct {
	network *Network
	number  int
	main    *Process // constant

	// Guarded by network.mu.
	region     *Region
	interfaces []*Interface
	sockets    map[uint16]*socket
	listeners  map[netip.AddrPort]*listener
	ports      uint16 // TCP ports given out
	processes  []*Process
	off        bool
	paused     bool
	holding    bool
	held       []*packet
	firewall   firewall
}

var _ conn.Bind = (*Host)(nil)

// Interface is one connection of a host to a network.
type Interface struct {
	host *Host
	// Guarded by network.mu.
	number   int
	realm    *realm
	lan      *LAN // nil: the open internet
	addrs    []netip.Addr
	up, down *link // from and to the host; nil: perfect
	unplug   bool
}

// Place is where a host can be plugged in: [Network], [LAN] and [NAT] are.
type Place interface{ spot() (*realm, *LAN) }

func (n *Network) spot() (*realm, *LAN) { return &n.outside, nil }
func (l *LAN) spot() (*realm, *LAN)     { return l.realm, l }

// Attach plugs the host in at one more place.
func (h *Host) Attach(at Place, addrs ...netip.Addr) *Interface {
	r, l := at.spot()
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	return h.attachLocked(r, l, addrs)
}

func (h *Host) attachLocked(r *realm, l *LAN, addrs []netip.Addr) *Interface {
	i := &Interface{host: h, number: len(h.interfaces) + 1}
	h.interfaces = append(h.interfaces, i)
	i.plugLocked(r, l, addrs)
	return i
}

func (i *Interface) plugLocked(r *realm, l *LAN, addrs []netip.Addr) {
	i.unplugLocked()
	i.realm, i.lan, i.addrs, i.unplug = r, l, addrs, false
	r.occupyLocked(i, addrs...)
	if l != nil {
		l.members = append(l.members, i)
	}
}

func (i *Interface) unplugLocked() {
	if i.realm == nil || i.unplug {
		return
	}
	i.realm.vacateLocked(i, i.addrs...)
	if i.lan != nil {
		i.lan.members = slices.DeleteFunc(i.lan.members, func(m *Interface) bool { return m == i })
	}
	i.unplug = true
}

// Move plugs the interface in elsewhere, with other addresses.
func (i *Interface) Move(at Place, addrs ...netip.Addr) {
	r, l := at.spot()
	i.host.network.mu.Lock()
	defer i.host.network.mu.Unlock()
	i.plugLocked(r, l, addrs)
}

// Unplug pulls the cable, until Plug: the host has the interface's addresses no more.
func (i *Interface) Unplug() {
	i.host.network.mu.Lock()
	defer i.host.network.mu.Unlock()
	i.unplugLocked()
}

// Plug puts it back in where it was.
func (i *Interface) Plug() {
	i.host.network.mu.Lock()
	defer i.host.network.mu.Unlock()
	i.plugLocked(i.realm, i.lan, i.addrs)
}

// SetLink sets what happens to packets from the host, and to it.
func (i *Interface) SetLink(up, down Link) {
	n := i.host.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if i.up == nil {
		name := fmt.Sprintf("host %d interface %d", i.host.number, i.number)
		i.up, i.down = newLink(up, n.seed, name+" up"), newLink(down, n.seed, name+" down")
		return
	}
	i.up.set(up)
	i.down.set(down)
}

func (i *Interface) enterLocked(p *packet) *link {
	p.dst, p.next = i, arriving
	return i.down
}

func (i *Interface) placeLocked() (*Region, *LAN) { return i.host.region, i.lan }

// Interfaces returns the host's interfaces in the order in which they were attached; one that was made with the host is the first.
func (h *Host) Interfaces() []*Interface {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	return slices.Clone(h.interfaces)
}

// SetLink sets the link of the host's first interface.
func (h *Host) SetLink(up, down Link) { h.Interfaces()[0].SetLink(up, down) }

// SetRegion says in which region the host is. One behind a NAT is where the NAT is.
func (h *Host) SetRegion(r *Region) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.region = r
}

// Addresses returns the host's addresses; underlay takes them for the machine's.
func (h *Host) Addresses() []netip.Addr {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	var out []netip.Addr
	for _, i := range h.interfaces {
		if !i.unplug {
			out = append(out, i.addrs...)
		}
	}
	return out
}

// Move gives the host's first interface other addresses where it is, as when a provider renumbers.
func (h *Host) Move(addrs ...netip.Addr) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	i := h.interfaces[0]
	i.plugLocked(i.realm, i.lan, addrs)
}

// MoveTo plugs the host's first interface in elsewhere, as a laptop that changes networks.
func (h *Host) MoveTo(at Place, addrs ...netip.Addr) { h.Interfaces()[0].Move(at, addrs...) }

// Crash cuts the power: all sockets of all processes are dead, nobody is told, and nothing is answered until [Host.Restart]. What dead
// processes still do with their sockets fails with net.ErrClosed.
func (h *Host) Crash() {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.off = true
	for _, p := range append([]*Process{h.main}, h.processes...) {
		p.endLocked(false)
	}
	h.processes, h.held = nil, nil
	h.firewall.sent = nil
}

// Restart switches the host on again, with the addresses that it had. Programs begin anew, each with a [Host.Process].
func (h *Host) Restart() {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.off, h.paused = false, false
	h.main.dead = false
}

// Pause stops the host's traffic in both directions, as a machine that sleeps; with hold up to 4096 packets are kept for [Host.Resume], as for a
// process that was stopped or a virtual machine that is being moved. Timers of what runs on it go on: it notices a network that is silent.
func (h *Host) Pause(hold bool) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.paused, h.holding = true, hold
}

// Resume ends a pause. What was held goes on, in its order.
func (h *Host) Resume() {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.paused = false
	held := h.held
	h.held = nil
	for _, p := range held {
		h.network.carryLocked(p)
	}
}

// Firewall is a packet filter on the host itself.
type Firewall struct {
	// DropUDP and DropTCP lose everything of that protocol, in both directions.
	DropUDP, DropTCP bool
	// Stateful lets in what answers: UDP from an address and port that was sent to in the last two minutes, and no TCP connections.
	Stateful bool
}

type firewall struct {
	Firewall
	sent map[flow]time.Duration
}

// SetFirewall sets the host's packet filter.
func (h *Host) SetFirewall(f Firewall) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.firewall = firewall{Firewall: f}
}

func (f *firewall) drops(p *packet) bool {
	return f.DropUDP && p.segment == nil || f.DropTCP && p.segment != nil
}

func (f *firewall) passesOutLocked(p *packet, now time.Duration) bool {
	if f.Stateful && p.segment == nil {
		if f.sent == nil {
			f.sent = map[flow]time.Duration{}
		}
		f.sent[flow{p.from, p.to}] = now
	}
	return !f.drops(p)
}

func (f *firewall) passesInLocked(p *packet, now time.Duration) bool {
	switch {
	case f.drops(p):
		return false
	case !f.Stateful:
		return true
	case p.segment != nil:
		return p.segment.kind != synSegment
	}
	at, ok := f.sent[flow{p.to, p.from}]
	return ok && now-at <= firewallMemory
}

// sourceLocked is the interface and address that the host sends from: the one asked for; else of the network that the destination is in; else
// the first of its family.
func (h *Host) sourceLocked(to, src netip.Addr) (out *Interface, addr netip.Addr) {
	for _, i := range h.interfaces {
		if i.unplug {
			continue
		}
		for _, a := range i.addrs {
			if src.IsValid() && a == src {
				return i, a
			}
			if src.IsValid() || a.Is4() != to.Is4() {
				continue
			}
			if out == nil || i.lan != nil && i.realm.stations[to] != nil && out.realm != i.realm {
				out, addr = i, a
			}
		}
	}
	return out, addr
}

// takeLocked gives a packet to the process that has the port.
func (h *Host) takeLocked(p *packet) Reason {
	if p.segment != nil {
		return h.network.segmentLocked(h, p)
	}
	s := h.sockets[p.to.Port()]
	if s == nil {
		return NoSocket
	}
	if !s.put(datagram{p.from, p.to.Addr(), p.data}) {
		return SocketFull
	}
	return ""
}

package underlaytest

import (
	"net/netip"
	"time"
)

// Protocol is UDP or TCP.
type Protocol uint8

// The protocols, by their numbers of IANA.
const (
	UDP Protocol = 17
	TCP Protocol = 6
)

// Reason says why a packet was lost.
type Reason string

// The reasons.
const (
	Loss        Reason = "loss"           // a link lost it
	QueueFull   Reason = "queue"          // a link's queue had no room
	TooLarge    Reason = "too-large"      // a link's MTU
	Partitioned Reason = "partition"      // see Network.Cut
	ByHook      Reason = "hook"           // Hooks.Drop
	Translation Reason = "nat"            // a NAT had no mapping, or its filter said no
	Firewalled  Reason = "firewall"       // a firewall
	NoHost      Reason = "no-host"        // nobody has the address
	NoSocket    Reason = "no-socket"      // nobody listens on the port
	SocketFull  Reason = "socket-full"    // the receiver is too slow
	HostDown    Reason = "host-down"      // switched off, or paused
	NoRoute     Reason = "no-route"       // no way out of a network, as IPv6 behind a NAT without
	Hops        Reason = "too-many-hops"  // a loop of NATs
	Unanswered  Reason = "not-answered"   // Hooks.Refuse
	Broken      Reason = "no-such-stream" // TCP: of a connection that is no more

	waits Reason = "waits" // not lost: it goes on later
)

// hop is where a packet is next.
type hop uint8

const (
	leaving    hop = iota // on the sender's link
	resending             // a segment that was lost, before its host
	routing               // in a network, before it is known whether it has to leave it
	traversing            // in the network where its destination is: the hooks
	crossing              // the way between regions
	entering              // before whoever has the address
	filtering             // past a NAT's link
	arriving              // past a host's link
	ended
)

// hopsMax bounds the NATs on a packet's way, against loops of hairpins.
const hopsMax = 8

// packet is one packet of UDP, or a segment of TCP, on its way.
type packet struct {
	sent     time.Duration
	src      *Host // nil: made up
	link     *link // of the sender; nil: none
	lan      *LAN
	realm    *realm
	region   *Region // where it enters the internet
	from, to netip.AddrPort
	box      *NAT       // that it enters
	dst      *Interface // that it arrives at
	data     []byte
	segment  *segment // of TCP
	next     hop
	boxes    uint8 // NATs passed
	fragment bool  // may be fragmented
}

func (p *packet) protocol() Protocol {
	if p.segment != nil {
		return TCP
	}
	return UDP
}

// size is that on the wire, with headers, and the number of fragments; 0: it does not fit.
func (p *packet) size(mtu int) (bytes, fragments int) {
	header := ip4Header
	if p.to.Addr().Is6() {
		header = ip6Header
	}
	if p.segment != nil {
		return len(p.data) + header + tcpHeader, 1 // TCP finds its way round MTUs
	}
	bytes = len(p.data) + header + udpHeader
	if mtu == 0 || bytes <= mtu {
		return bytes, 1
	}
	if !p.fragment {
		return bytes, 0
	}
	if p.to.Addr().Is6() {
		if mtu < ip6MTU {
			return bytes, 0
		}
		mtu = ip6MTU
	}
	room := (mtu - header) &^ 7
	if room <= 0 {
		return bytes, 0
	}
	fragments = (bytes - header + room - 1) / room
	return bytes + (fragments-1)*header, fragments
}

package underlaytest

import (
	"net/netip"
	"slices"
	"time"
)

// Sight is what a [Tap] sees: a packet that is sent, arrives or is lost.
type Sight struct {
	At time.Time
	// Sent: it leaves its host, with the addresses that it has there. Otherwise it has arrived, with those that it has at the receiver, or is
	// Lost, with those that it had last.
	Sent bool
	Lost Reason // empty: not lost
	// Source is the host that sent it, nil if the packet was made up; Target who receives it, nil unless it has arrived.
	Source, Target *Host
	Protocol       Protocol
	From, To       netip.AddrPort
	// Data is the payload; of TCP that of one segment, empty for one that opens, ends or refuses a connection. It is valid during the call only.
	Data []byte
}

// Tap is someone who sees packets.
type Tap struct {
	network *Network
	hosts   map[*Host]bool // nil: all
	see     func(Sight)
}

// Tap has see called for every packet that one of the hosts sends or is sent, without hosts for every packet there is. It is called in the
// order in which things happen, with the network's lock held: it must return soon, and must not call anything of the network.
func (n *Network) Tap(see func(Sight), hosts ...*Host) *Tap {
	t := &Tap{network: n, see: see}
	if len(hosts) > 0 {
		t.hosts = hostSet(hosts)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.taps = append(n.taps, t)
	return t
}

// Close ends it.
func (t *Tap) Close() {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	t.network.taps = slices.DeleteFunc(slices.Clone(t.network.taps), func(o *Tap) bool { return o == t })
}

// showLocked tells the taps of a packet.
func (n *Network) showLocked(p *packet, why Reason) {
	if len(n.taps) == 0 {
		return
	}
	s := Sight{At: time.Now(), Sent: p.next == leaving && why == "", Lost: why, Source: p.src, Protocol: p.protocol(), From: p.from, To: p.to, Data: p.data}
	if p.dst != nil {
		s.Target = p.dst.host
	}
	for _, t := range n.taps {
		if t.hosts == nil || t.hosts[s.Source] || s.Target != nil && t.hosts[s.Target] {
			t.see(s)
		}
	}
}

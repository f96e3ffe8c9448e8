package reach

import (
	"github.com/phantommesh/phantommesh/peer"
)

// evidence is what speaks for this node being reachable from outside.
type evidence struct {
	NAT         peer.NAT
	Advertised  bool // the user says that an address leads here
	PortMapped  bool // a router granted a port, and others see its address too: there is no second NAT behind it
	Unsolicited int  // members that reached us without our having sent them anything first
	// Families of which this node has an address, and whether some member has none of the other family.
	OurV4, OurV6   bool
	OnlyV4, OnlyV6 bool
}

// reachable reports whether others get to this node without its doing.
func (e evidence) reachable() bool {
	return e.NAT == peer.NATNone || e.Advertised || e.PortMapped || e.Unsolicited > 0 && e.NAT != peer.NATHard
}

// offersRelay reports whether this node offers to relay for others.
func (e evidence) offersRelay(noRelay bool) bool { return !noRelay && e.reachable() }

// needsRelays reports whether this node needs relays at hand: some members may not get to it otherwise.
func (e evidence) needsRelays() bool {
	return !e.reachable() || e.OnlyV4 && !e.OurV4 || e.OnlyV6 && !e.OurV6
}

// familiesOf says of which families the addresses are.
func familiesOf(endpoints []peer.Endpoint) (v4, v6 bool) {
	for _, e := range endpoints {
		v4, v6 = v4 || e.Addr.Addr().Is4(), v6 || e.Addr.Addr().Is6()
	}
	return v4, v6
}

package coordinator

import (
	"cmp"
	"net/netip"
	"time"
)

// usable tells whether addr can be a node's: inside the prefix, neither its network nor its broadcast address.
func usable(prefix netip.Prefix, addr netip.Addr) bool {
	return prefix.Contains(addr) && addr != prefix.Addr() && addr != broadcast(prefix)
}

func broadcast(prefix netip.Prefix) netip.Addr {
	b := prefix.Addr().As4()
	for bit := prefix.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

// free tells whether addr may be leased at that time.
func (l *Ledger) free(addr netip.Addr, at time.Time) bool {
	held, ok := l.leases[addr]
	return !ok || (!held.free.IsZero() && !at.Before(held.free))
}

// nextLease returns the lowest free address. Linear in the number of leases (at most maxMembers).
func (l *Ledger) nextLease(at time.Time) (netip.Addr, error) {
	prefix := l.state.Mesh.IPv4
	last := broadcast(prefix)
	for addr := prefix.Addr().Next(); addr.Less(last); addr = addr.Next() {
		if l.free(addr, at) {
			return addr, nil
		}
	}
	return netip.Addr{}, refuse(RefusedFull, "no address is free in %s; addresses of members that left are free again a day later", prefix)
}

func cmpString(a, b string) int { return cmp.Compare(a, b) }

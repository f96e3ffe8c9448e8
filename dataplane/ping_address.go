package dataplane

import (
	"net"
	"net/netip"
)

// pingTarget is a destination in the form that the kind of socket wants.
func pingTarget(dst netip.Addr, raw bool) net.Addr {
	if raw {
		return &net.IPAddr{IP: dst.AsSlice()}
	}
	return &net.UDPAddr{IP: dst.AsSlice()}
}

func addressOf(a net.Addr) netip.Addr {
	var ip net.IP
	switch a := a.(type) {
	case *net.IPAddr:
		ip = a.IP
	case *net.UDPAddr:
		ip = a.IP
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

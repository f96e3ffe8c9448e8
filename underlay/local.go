package underlay

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.zx2c4.com/wireguard/conn"
)

// listenSet turns Listen into a set; nil if every address is meant.
func listenSet(addrs []netip.Addr) map[netip.Addr]bool {
	var set map[netip.Addr]bool
	for _, a := range addrs {
		if set == nil {
			set = map[netip.Addr]bool{}
		}
		set[a.Unmap().WithZone("")] = true
	}
	if set[netip.IPv4Unspecified()] && set[netip.IPv6Unspecified()] {
		return nil
	}
	return set
}

// listens reports whether a packet arrived on an address that Listen names. The sockets are bound to the wildcard address, so this
// is what keeps the port closed elsewhere. Where the system does not tell (no PKTINFO), every address is taken.
func (s *Socket) listens(ep conn.Endpoint) bool {
	dst := ep.SrcIP().Unmap()
	return !dst.IsValid() || s.listensOn(dst.WithZone(""))
}

func (s *Socket) listensOn(a netip.Addr) bool {
	if s.listen == nil || s.listen[a] {
		return true
	}
	return a.Is4() && s.listen[netip.IPv4Unspecified()] || a.Is6() && s.listen[netip.IPv6Unspecified()]
}

// mayTry reports whether an address that was told us can be another node's: not our own, not the overlay's, not that of a link, of a
// family that we listen on.
func (s *Socket) mayTry(a netip.AddrPort) bool {
	ip := a.Addr()
	if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || a.Port() == 0 || isLinkAddr(ip) {
		return false
	}
	if s.cfg.Exclude != nil && s.cfg.Exclude(ip) {
		return false
	}
	if a.Port() == s.port && (slices.Contains(*s.local.Load(), ip) || ip.IsLoopback() && (ip == loopback4 || ip.Is6())) {
		return false
	}
	if s.listen == nil {
		return true
	}
	for l := range s.listen {
		if l.Is4() == ip.Is4() {
			return true
		}
	}
	return false
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// refreshLocal reads the machine's addresses anew and reports whether they have changed. If they cannot be read, the old ones stay.
func (s *Socket) refreshLocal() bool {
	list := s.cfg.Interfaces
	if own, ok := s.bind.(interface{ Addresses() []netip.Addr }); list == nil && ok {
		list = func() ([]netip.Addr, error) { return own.Addresses(), nil }
	}
	if list == nil {
		list = s.systemAddresses
	}
	found, err := list()
	if err != nil {
		s.log.Warn("local addresses not read", "err", err)
	}
	var out []netip.Addr
	for _, a := range found {
		a = a.Unmap()
		if s.mayOffer(a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	old := s.local.Load()
	if old != nil && (err != nil || slices.Equal(*old, out)) {
		return false
	}
	s.local.Store(&out)
	return true
}

// mayOffer reports whether others may be told of a local address.
func (s *Socket) mayOffer(a netip.Addr) bool {
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast(): // link-local needs a zone that only we know
		return false
	case s.cfg.Exclude != nil && s.cfg.Exclude(a):
		return false
	case a.IsLoopback():
		return s.listen[a] // only if named
	}
	return s.listensOn(a)
}

// fullMTU is the MTU of an interface over which what fits an Ethernet does. Interfaces with less are mostly other VPNs' and tunnels': over one of
// those every full-size packet of ours would be refused, while small checks pass and may even be the fastest.
const fullMTU = 1500

// systemAddresses lists the addresses of the interfaces that are up: those of full MTU that are no tunnels, or all, if there is no other way out of this machine or
// Listen names what it wants.
func (s *Socket) systemAddresses() ([]netip.Addr, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("underlay: list interfaces: %w", err)
	}
	var wide, narrow []netip.Addr
	for _, i := range ifaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		if i.MTU < fullMTU || isTunnel(i) {
			narrow = append(narrow, addressesOf(i)...)
		} else {
			wide = append(wide, addressesOf(i)...)
		}
	}
	return chooseWide(wide, narrow, s.listen != nil), nil
}

// isTunnel recognises the device of a node of another mesh on this host: over that the meshes would run through each other. A line to a provider that is
// point to point has 1500 bytes at most.
func isTunnel(i net.Interface) bool { return i.Flags&net.FlagPointToPoint != 0 && i.MTU > fullMTU }

// chooseWide leaves the addresses of narrow interfaces out where it can.
func chooseWide(wide, narrow []netip.Addr, named bool) []netip.Addr {
	reaches := func(a netip.Addr) bool { return !a.IsLoopback() && !a.IsLinkLocalUnicast() }
	if !named && slices.ContainsFunc(wide, reaches) {
		return wide
	}
	return append(wide, narrow...)
}

func addressesOf(i net.Interface) (out []netip.Addr) {
	addrs, err := i.Addrs()
	if err != nil {
		return nil // the interface went away meanwhile
	}
	for _, a := range addrs {
		if p, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(p.IP); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out
}

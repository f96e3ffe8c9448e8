package portmap

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// DefaultGateway finds the router of the IPv4 default route with the lowest metric, and our address towards it. Routes over interfaces that
// ignore names, our own tunnel's, do not count; nil ignores none. It returns [ErrNoGateway] if there is none.
func DefaultGateway(ignore func(name string) bool) (Gateway, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return Gateway{}, fmt.Errorf("portmap: routes: %w", err)
	}
	var best *netlink.Route
	for i, r := range routes {
		ones := 0
		if r.Dst != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		if ones != 0 || r.Type != unix.RTN_UNICAST || r.Gw == nil || best != nil && best.Priority <= r.Priority {
			continue
		}
		if ignore != nil {
			if link, err := netlink.LinkByIndex(r.LinkIndex); err != nil || ignore(link.Attrs().Name) {
				continue
			}
		}
		best = &routes[i]
	}
	if best == nil {
		return Gateway{}, ErrNoGateway
	}
	way, err := netlink.RouteGet(best.Gw)
	if err != nil || len(way) == 0 {
		return Gateway{}, fmt.Errorf("%w: no way to %s", ErrNoGateway, best.Gw)
	}
	addr, ok := netip.AddrFromSlice(best.Gw)
	local, ok2 := netip.AddrFromSlice(way[0].Src)
	if !ok || !ok2 {
		return Gateway{}, ErrNoGateway
	}
	return Gateway{Addr: addr.Unmap(), Local: local.Unmap()}, nil
}

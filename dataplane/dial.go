package dataplane

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Dial connects to an overlay address through the mesh; addr is "host:port", the host an overlay address, a node's name or its ID.
// network is "tcp" or "udp". Destinations outside the mesh are refused with ErrOffOverlay.
func (p *Plane) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("dial %s: the port must be a number up to 65535", addr)
	}
	to, err := p.resolve(host)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	ctx, cancel := p.within(ctx)
	defer cancel()
	if err := p.ready(ctx, to); err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return p.host.inner.DialContext(ctx, network, netip.AddrPortFrom(to, uint16(port)))
}

// resolve turns a host into an overlay address that a member has, IPv4 first.
func (p *Plane) resolve(host string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		if a.Zone() != "" || !p.overlay.contains(a) {
			return netip.Addr{}, ErrOffOverlay
		}
		return a, nil
	}
	var found []netip.Addr
	if p.cfg.Resolve != nil {
		found = p.cfg.Resolve(host)
	} else {
		found = p.resolveMember(host)
	}
	for _, v4 := range []bool{true, false} {
		for _, a := range found {
			if a.Is4() == v4 && p.overlay.contains(a) && p.hasFamily(v4) {
				return a, nil
			}
		}
	}
	return netip.Addr{}, ErrNotMember
}

func (p *Plane) hasFamily(v4 bool) bool {
	if v4 {
		return p.self4.IsValid()
	}
	return p.self6.IsValid()
}

// resolveMember finds the one member that goes by the name.
func (p *Plane) resolveMember(name string) []netip.Addr {
	entries := p.cfg.Peers.Resolve(name)
	if len(entries) != 1 || entries[0].Revoked {
		return nil
	}
	return entries[0].Member.Addresses()
}

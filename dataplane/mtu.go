package dataplane

import (
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// The MTU of a tunnel follows the path under it. [Config].PathMTU knows the path; here is what follows from it:
//
//  1. The interface is told (pathRouter): a Linux TUN carries MaxMTU and leads every host to packets of at most MinMTU, until a route of
//     the member's own says better. TCP follows its route while it runs, down and up.
//  2. What is too large all the same, because it was on its way or because the interface has no routes, goes no further than hostSide: it
//     is answered with ICMP (RFC 1191, RFC 8201), or cut in two or more if it is IPv4 and allows that (RFC 791 §3.2).
//
// When the MTU shrinks the route comes first, else the answers to what is too large would be entered into the old route and outlive it
// there. All of it is done by the conductor.

// pathRouter is an Interface that keeps the host's packets to a member within an MTU.
type pathRouter interface {
	// RoutePath limits packets to the addresses of a member to mtu bytes; zero is back to what holds for all.
	RoutePath(to []netip.Addr, mtu int) error
}

// tunnelMTU returns the largest packet that is sent into a tunnel whose path carries limit bytes, zero for one that is not known.
//
// The device pads packets to a multiple of 16 bytes, but not beyond the MTU (whitepaper §5.4.6). It knows one MTU for all peers, and is
// told DefaultMTU: so packets up to that of the usual path are not padded beyond it, and the others' MTU is made such that padding fits.
func tunnelMTU(limit, interfaceMTU int) int {
	if limit == 0 {
		return MinMTU
	}
	limit = min(max(limit, MinMTU), interfaceMTU)
	whole, rest := limit/DefaultMTU*DefaultMTU, limit%DefaultMTU
	return max(whole+rest&^(device.PaddingMultiple-1), MinMTU)
}

// deviceMTU is what the device pads by.
func (p *Plane) deviceMTU() (int, error) {
	mtu, err := p.cfg.Network.MTU()
	if p.cfg.PathMTU != nil {
		mtu = min(mtu, DefaultMTU)
	}
	return mtu, err
}

// followPaths brings the MTU of every tunnel with a peer up to date.
func (p *Plane) followPaths(tunnels func(func(*tunnel))) {
	if p.cfg.PathMTU == nil {
		return
	}
	most, err := p.cfg.Network.MTU()
	if err != nil {
		return // the interface is going away
	}
	tunnels(func(t *tunnel) {
		if t.peer != nil {
			p.followPath(t, most)
		}
	})
}

// followPath brings a tunnel's MTU up to date.
func (p *Plane) followPath(t *tunnel, most int) {
	mtu, before := tunnelMTU(p.cfg.PathMTU(t.id), most), int(t.mtu.Load())
	if mtu == before && t.routed {
		return
	}
	if mtu > before {
		t.mtu.Store(int32(mtu))
	}
	if r, ok := p.cfg.Network.(pathRouter); ok {
		if err := r.RoutePath(t.addresses, mtu); err != nil {
			p.log.Debug("no route for the path's MTU", "peer", t.id.Short(), "mtu", mtu, "err", err)
		}
	}
	t.routed = true
	t.mtu.Store(int32(mtu))
	p.log.Debug("tunnel MTU", "peer", t.id.Short(), "mtu", mtu)
}

// leavePath undoes followPath.
func (p *Plane) leavePath(t *tunnel) {
	if !t.routed {
		return
	}
	t.routed = false
	if r, ok := p.cfg.Network.(pathRouter); ok {
		if err := r.RoutePath(t.addresses, 0); err != nil {
			p.log.Debug("route not removed", "peer", t.id.Short(), "err", err)
		}
	}
}

// tooLarge takes care of a packet that is larger than its tunnel's MTU.
func (p *Plane) tooLarge(packet []byte, mtu int) {
	if parts := fragment(packet, mtu); parts != nil {
		for _, part := range parts {
			p.host.resume(part)
		}
		return
	}
	p.drops.tooLarge.Add(1)
	if p.ctx.Err() != nil || !p.oversize.AllowN(time.Now(), 1) {
		return
	}
	if answer, ok := tooBig(packet, mtu); ok {
		_, _ = p.host.inner.Write([][]byte{answer}, headroom)
	}
}

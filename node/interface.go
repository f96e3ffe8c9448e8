package node

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/underlay"
)

// InterfaceSpec is what the host's side of the tunnels shall be.
type InterfaceSpec struct {
	// TUN is a device name, config.Userspace, or empty: a device where there is the right to one, else userspace.
	TUN       string
	Addresses []netip.Prefix // this node's, with the length of the mesh's range
	Routes    []netip.Prefix // the mesh's ranges
	MTU       int            // 0: the default
}

// openInterface makes it. userspace tells which kind it became; degraded holds the error for which a wanted device was not made.
func (n *Node) openInterface(spec InterfaceSpec) (i dataplane.Interface, userspace bool, degraded error, err error) {
	if n.cfg.OpenInterface != nil {
		i, err = n.cfg.OpenInterface(spec)
		return i, spec.TUN == config.Userspace, nil, err
	}
	if spec.TUN == config.Userspace {
		i, err = dataplane.OpenUserspace(spec.Addresses, spec.MTU)
		return i, true, nil, err
	}
	i, err = dataplane.OpenTUN(spec.TUN, spec.Addresses, spec.Routes, spec.MTU)
	if err == nil {
		return i, false, nil, nil
	}
	// Who named a device wants it or nothing. Nobody did: without the right to one, the mesh is still reachable through the proxies.
	if spec.TUN != "" || !errors.Is(err, dataplane.ErrNoPermission) && !errors.Is(err, dataplane.ErrNoTUN) {
		return nil, false, nil, err
	}
	degraded = err
	i, err = dataplane.OpenUserspace(spec.Addresses, spec.MTU)
	return i, true, degraded, err
}

// overlayRange is the IPv4 range of a mesh that this machine founds: that of the settings. Where nobody has chosen one and routes of this machine
// lead to the usual one, as those of another mesh do, it is the first of the next ones that is free.
func (n *Node) overlayRange() (netip.Prefix, error) {
	s := n.cfg.Settings
	if n.cfg.OpenInterface != nil || s.TUN == config.Userspace {
		return s.IPv4, nil
	}
	device, used := dataplane.RangeInUse(s.IPv4)
	if !used {
		return s.IPv4, nil
	}
	usual := config.Defaults().IPv4
	if s.IPv4 != usual {
		return s.IPv4, localapi.Fail(localapi.Failed, "cannot found a mesh", fmt.Errorf("a route to %s leads to the interface %s", s.IPv4, device),
			"choose another range with --ipv4")
	}
	for b, next := usual.Addr().As4(), 1; next <= rangesMax; next++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{b[0], b[1] + byte(next), 0, 0}), usual.Bits())
		if _, used := dataplane.RangeInUse(p); !used {
			n.log.Info("the usual range is in use on this machine; taking another", "range", p, "usual", usual, "interface", device)
			return p, nil
		}
	}
	return s.IPv4, localapi.Fail(localapi.Failed, "cannot found a mesh", fmt.Errorf("a route to %s leads to the interface %s, and others to those beside it", usual, device),
		"choose another range with --ipv4")
}

// rangesMax is how many ranges beside the usual one are tried: more than a host has meshes.
const rangesMax = 32

// pathMTU returns how much the path to a member carries, in bytes of the tunnel; zero while there is none.
func (n *Node) pathMTU(id identity.NodeID) int {
	path, ok := n.socket.Path(id)
	if !ok || path.Kind == underlay.PathNone {
		return 0
	}
	return path.MTU
}

// tryInterface finds out whether the device that the settings name can be made, so that a node that waits for a mesh says so at its start and not
// when it has used up its invitation.
func (n *Node) tryInterface() error {
	name := n.cfg.Settings.TUN
	if n.cfg.OpenInterface != nil || name == "" || name == config.Userspace || n.Joined() {
		return nil
	}
	i, err := dataplane.OpenTUN(name, nil, nil, n.cfg.Settings.MTU)
	if err != nil {
		return err
	}
	return i.Close()
}

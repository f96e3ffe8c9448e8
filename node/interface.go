package node

import (
	"errors"
	"net/netip"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/internal/config"
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
	name := spec.TUN
	if name == "" {
		name = dataplane.DefaultName
	}
	i, err = dataplane.OpenTUN(name, spec.Addresses, spec.Routes, spec.MTU)
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

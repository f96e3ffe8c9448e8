package node

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/discovery"
)

// openLAN begins to listen for beacons, unless the settings forbid it. A machine where it cannot is no worse off than with --no-lan.
func (n *Node) openLAN() {
	if n.cfg.Settings.NoLAN || n.cfg.Bind != nil && n.cfg.Multicast == nil {
		return
	}
	lan, err := discovery.OpenLAN(discovery.LANConfig{Exclude: n.isOverlay, Listen: n.cfg.Settings.Listen, Changes: n.lanChanged,
		Multicast: n.cfg.Multicast, Rand: n.cfg.Rand, Log: n.log})
	if err != nil {
		n.log.Warn("no beacons on the LAN", "err", err)
		return
	}
	n.lan = lan
}

// onLink reports whether an address is in one of the networks that this machine is plugged into.
func (n *Node) onLink(a netip.Addr) bool { return n.lan != nil && a.IsValid() && n.lan.OnLink(a) }

// announceMesh tells the LAN which mesh this node is in.
func (n *Node) announceMesh(m *membership) {
	if n.lan == nil {
		return
	}
	mesh := m.group.State().Mesh
	if err := n.lan.Announce(discovery.Beacon{Mesh: mesh.Name, Fingerprint: mesh.ID.Short(), Port: n.socket.Port()}); err != nil {
		n.log.Warn("no beacon on the LAN", "err", err)
	}
}

// announceStage tells the LAN that this node looks for a mesh.
func (n *Node) announceStage(s discovery.Stage) {
	if err := n.lan.Announce(discovery.Beacon{Stage: s, Port: n.socket.Port()}); err != nil {
		n.log.Warn("no beacon on the LAN", "err", err)
	}
}

// foundMesh is a mesh to be asked: one of the LAN, as beacons say, or whichever is at the hosts that --bootstrap names.
type foundMesh struct {
	name, fingerprint string
	addrs             []netip.AddrPort
	hosts             []string
}

// String says where it is asked.
func (f foundMesh) String() string {
	at := slices.Clone(f.hosts)
	for _, a := range f.addrs {
		at = append(at, a.String())
	}
	return strings.Join(at, ", ")
}

// meshesOf puts the members of each mesh together. wanted is a name or a fingerprint; empty: any.
func meshesOf(neighbours []discovery.Neighbour, wanted string) []foundMesh {
	var out []foundMesh
	for _, x := range neighbours {
		if x.Stage != discovery.StageMember || len(x.Addrs) == 0 || wanted != "" && wanted != x.Mesh && wanted != x.Fingerprint {
			continue
		}
		i := slices.IndexFunc(out, func(f foundMesh) bool { return f.fingerprint == x.Fingerprint && f.name == x.Mesh })
		if i < 0 {
			out, i = append(out, foundMesh{name: x.Mesh, fingerprint: x.Fingerprint}), len(out)
		}
		for _, a := range x.Addrs {
			if len(out[i].addrs) < discovery.TargetsMax && !slices.Contains(out[i].addrs, a) {
				out[i].addrs = append(out[i].addrs, a)
			}
		}
	}
	slices.SortFunc(out, func(a, b foundMesh) int {
		if a.name != b.name {
			if a.name < b.name {
				return -1
			}
			return 1
		}
		if a.fingerprint < b.fingerprint {
			return -1
		}
		return 1
	})
	return out
}

// rival reports whether a neighbour is about to found a mesh that this machine, which looks for one too, should wait for: of two that look, the
// lower label founds; who has begun to found goes on in any case.
func rival(neighbours []discovery.Neighbour, own string) bool {
	return slices.ContainsFunc(neighbours, func(x discovery.Neighbour) bool {
		return x.Stage == discovery.StageFounding || x.Stage == discovery.StageSeeking && x.Label < own
	})
}

// lanMembers are the addresses of the LAN at which members of a mesh say they are.
func (n *Node) lanMembers(mesh identity.MeshID) []netip.AddrPort {
	if n.lan == nil {
		return nil
	}
	var out []netip.AddrPort
	for _, f := range meshesOf(n.lan.Neighbours(), mesh.Short()) {
		out = append(out, f.addrs...)
	}
	return out[:min(len(out), lanMembersMax)]
}

// lanJoinWait is how long the LAN is searched for members of a token's mesh; the token's own addresses are tried meanwhile.
const lanJoinWait = 500 * time.Millisecond

// lanIntroductions are the members of a token's mesh in the LAN, beside those that the token names.
func (n *Node) lanIntroductions(ctx context.Context, mesh identity.MeshID, known []introduction) (out []introduction) {
	if n.lan == nil {
		return nil
	}
	n.lan.Search(ctx, lanJoinWait, lanJoinWait, nil)
	for _, a := range n.lanMembers(mesh) {
		if !slices.ContainsFunc(known, func(i introduction) bool { return i.addr == a }) {
			out = append(out, introduction{addr: a, from: fromLAN})
		}
	}
	return out
}

package e2e

import (
	"net/netip"
	"testing"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// The founder is gone for good and everybody else has another address: nothing that a token or an address book holds is true any more. A new
// machine needs the address of one member, whichever it is, and a member that was away hears the others' beacons.
func TestAMeshThatHasMovedIsFoundByNewMachinesAndByWhoWasAway(t *testing.T) {
	t.Parallel()
	need(t)
	l := lab.New(t)
	hosts := l.AddHosts("n", 6)
	var nodes []*mesh.Node
	for _, h := range hosts[:5] {
		nodes = append(nodes, onLAN(t, l, h))
	}
	founder, away, rest := nodes[0], nodes[4], nodes[1:4]
	founder.Found("lab")
	token := founder.Invite("--uses", "10").Token // names the founder alone
	for _, n := range nodes[1:] {
		n.Join(token)
	}
	mesh.Voters(t, founder, 5, settled) // three of five are left
	away.Must("down")
	founder.Kill()
	for _, n := range rest {
		n.Kill()
		n.Host.Renumber()
	}
	for _, n := range rest {
		n.Start()
	}
	mesh.Leader(t, rest[0], rest)

	late := mesh.Start(t, l, hosts[5], "--bootstrap", netip.AddrPortFrom(rest[2].Host.IPv4, 51820).String()) // no LAN
	late.Join(token)
	away.Start()
	away.Online(settled)
	for _, n := range []*mesh.Node{rest[0], rest[1], rest[2], late} {
		for _, from := range []*mesh.Node{late, away} {
			if from == n {
				continue
			}
			if err := from.Host.Ping(n.Addresses()[0], settled); err != nil {
				t.Fatalf("%s to %s: %v", from.Name, n.Name, err)
			}
		}
	}
}

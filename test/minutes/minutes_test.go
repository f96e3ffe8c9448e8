package minutes

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

const (
	// settled bounds what the mesh does by itself when it has time.
	settled = 60 * time.Second
	// pauseMax is the longest a tunnel may pause for something it is not an end of.
	pauseMax = time.Second
)

// need skips unless a mesh of real nodes can be built here.
func need(t *testing.T) {
	t.Helper()
	lab.Need(t, "ping", lab.TUN)
}

func TestKeysRotateWithoutAPause(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than one epoch of 120 s")
	}
	t.Parallel()
	need(t)
	_, nodes := mesh.Grow(t, 2)
	to := netip.AddrPortFrom(nodes[1].Addresses()[0], nodes[1].Echo())
	epoch := func() uint64 {
		peers := nodes[0].Status().Peers
		if len(peers) != 1 {
			t.Fatalf("want one peer: %+v", peers)
		}
		return peers[0].Tunnel.PSKEpoch
	}
	stream := nodes[0].Steady(to)
	before := epoch()
	err := lab.Eventually(150*time.Second, func() error {
		if now := epoch(); now <= before {
			return fmt.Errorf("the PSK's epoch still is %d", now)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := stream.Stop(pauseMax); err != nil {
		t.Errorf("over a rotation: %v", err)
	}
}

// A person names the region of one machine while it runs. The others of the place, which were told none, follow after their minute, and the
// stream between two of them goes on.
func TestMachinesBesideOneWhoseRegionIsNamedFollowIt(t *testing.T) {
	t.Parallel()
	need(t)
	_, nodes := mesh.Grow(t, 3)
	mesh.Everybody(t, settled, nodes...)
	if r := nodes[2].Must("get", "region"); strings.TrimSpace(r.Stdout) != "default" {
		t.Fatalf("before anybody has named one: %v", r)
	}
	stream := nodes[0].Steady(netip.AddrPortFrom(nodes[2].Addresses()[0], nodes[2].Echo()))
	if r := nodes[1].Must("set", "region=attic"); !strings.Contains(r.Stdout, "attic") {
		t.Fatalf("set says %q", r.Stdout)
	}
	for _, n := range nodes {
		if err := lab.Eventually(3*settled, func() error {
			if r := n.Must("get", "region"); strings.TrimSpace(r.Stdout) != "attic" {
				return fmt.Errorf("%s is in %s: %s", n.Name, r.Stdout, n.Must("get").Stdout)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Stop(5 * time.Second); err != nil { // as slow as a busy machine may be; a tunnel that is made anew breaks the stream or waits longer
		t.Error(err)
	}
	if r := nodes[0].Must("status"); !strings.Contains(r.Stdout, "attic  (chosen)") {
		t.Errorf("status does not say that it has chosen: %s", r.Stdout)
	}
	if r := nodes[1].Must("status"); strings.Contains(r.Stdout, "(chosen)") {
		t.Errorf("status of the one that was told says that it has chosen: %s", r.Stdout)
	}
}

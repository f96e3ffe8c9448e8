package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

const (
	// settled bounds what the mesh does by itself when it has time: growing votes, healing.
	settled = 60 * time.Second
	// pauseMax is the longest a tunnel may pause for something it is not an end of.
	pauseMax = time.Second
)

// need skips unless a mesh of real nodes can be built here.
func need(t *testing.T, tools ...string) {
	t.Helper()
	lab.Need(t, append([]string{"ping", lab.TUN}, tools...)...)
}

func TestFiveHostsTalkOverBothFamilies(t *testing.T) {
	t.Parallel()
	need(t)
	_, nodes := mesh.Grow(t, 5)
	mesh.Everybody(t, settled, nodes...)
	for _, to := range nodes {
		echo := to.Echo()
		for _, from := range nodes {
			if from == to {
				continue
			}
			if err := mesh.Reach(from, to, echo); err != nil {
				t.Error(err)
			}
		}
	}
	for _, n := range nodes {
		for _, p := range n.Status().Peers {
			if p.Tunnel.State != "up" || !p.Tunnel.PostQuantum || p.Path.Kind != "direct" {
				t.Errorf("%s has no direct post-quantum tunnel to %s: %+v", n.Name, p.Name, p)
			}
		}
	}
}

func TestKillingAnyNodeLeavesTheOthersTalkingAndItComesBackByItself(t *testing.T) {
	need(t)
	_, nodes := mesh.Grow(t, 5)
	mesh.Everybody(t, settled, nodes...)
	mesh.Voters(t, nodes[0], 5, settled)
	echoes := make([]uint16, len(nodes))
	for i, n := range nodes {
		echoes[i] = n.Echo()
	}
	leader := mesh.Leader(t, nodes[0], nodes)
	// The leader of the moment first, then everybody, the founder among them.
	for round, victim := range append([]*mesh.Node{leader}, nodes...) {
		t.Logf("round %d: kill -9 of %s", round, victim.Name)
		var others []*mesh.Node
		var streams []*mesh.Steady
		for _, n := range nodes {
			if n != victim {
				others = append(others, n)
			}
		}
		for i, from := range others {
			to := others[(i+1)%len(others)]
			for j, n := range nodes {
				if n == to {
					streams = append(streams, from.Steady(netip.AddrPortFrom(to.Addresses()[i%2], echoes[j])))
				}
			}
		}
		victim.Kill()
		newLeader := mesh.Leader(t, others[0], others) // decisions go on
		newLeader.Must("invite", "--json")
		victim.Start() // no token
		victim.Online(settled)
		mesh.Everybody(t, settled, nodes...)
		for j, n := range nodes {
			if n == victim {
				if err := mesh.Reach(others[0], victim, echoes[j]); err != nil {
					t.Errorf("after its restart: %v", err)
				}
			}
		}
		for _, s := range streams {
			if err := s.Stop(pauseMax); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestAMeshThatLostPowerComesBackWithoutTokens(t *testing.T) {
	t.Parallel()
	need(t)
	_, nodes := mesh.Grow(t, 5)
	mesh.Everybody(t, settled, nodes...)
	before := nodes[0].Addresses()
	for _, n := range nodes {
		n.Kill()
	}
	// The last to join comes first, so no particular peer is there to lean on.
	for i := len(nodes) - 1; i >= 0; i-- {
		nodes[i].Start()
	}
	for _, n := range nodes {
		n.Online(settled)
	}
	mesh.Everybody(t, settled, nodes...)
	mesh.Leader(t, nodes[4], nodes)
	if after := nodes[0].Addresses(); after[0] != before[0] || after[1] != before[1] {
		t.Errorf("addresses changed from %v to %v", before, after)
	}
	echo := nodes[0].Echo()
	for _, n := range nodes[1:] {
		if err := mesh.Reach(n, nodes[0], echo); err != nil {
			t.Error(err)
		}
	}
}

func TestTwoHalvesOfAPartitionHealByThemselves(t *testing.T) {
	t.Parallel()
	need(t)
	l, nodes := mesh.Grow(t, 5)
	mesh.Everybody(t, settled, nodes...)
	halves := [][]*mesh.Node{nodes[:2], nodes[2:]}
	hosts := l.Hosts()
	l.Partition(hosts[:2], hosts[2:])
	for i, half := range halves {
		for _, n := range half {
			err := lab.Eventually(settled, func() error {
				alive := 0
				for _, p := range n.Status().Peers {
					if p.State == "alive" {
						alive++
					}
				}
				if alive != len(half)-1 {
					return fmt.Errorf("%s in half %d sees %d others alive, want %d", n.Name, i, alive, len(half)-1)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := mesh.Reach(half[0], half[1], half[1].Echo()); err != nil {
			t.Errorf("within a half: %v", err)
		}
	}
	l.Heal()
	mesh.Everybody(t, settled, nodes...)
	if err := mesh.Reach(nodes[0], nodes[4], nodes[4].Echo()); err != nil {
		t.Errorf("across the healed partition: %v", err)
	}
	if err := mesh.Reach(nodes[3], nodes[1], nodes[1].Echo()); err != nil {
		t.Errorf("across the healed partition: %v", err)
	}
	mesh.Leader(t, nodes[0], nodes)
}

func TestNothingCrossesTheWireInClear(t *testing.T) {
	t.Parallel()
	need(t, "tcpdump")
	l := lab.New(t)
	a, b := mesh.Start(t, l, l.Host("a")), mesh.Start(t, l, l.Host("nameofthejoiner"))
	capture := l.Capture("")
	a.Found("nameofthemesh")
	token := a.Invite().Token
	b.Join(token)
	marker := bytes.Repeat([]byte("phantom-plaintext-marker "), 400)
	echo := b.Echo()
	for _, addr := range b.Addresses() {
		if err := a.Say(netip.AddrPortFrom(addr, echo), marker); err != nil {
			t.Error(err)
		}
		// 70696e676d61726b is "pingmark".
		if out, err := a.Host.Run("ping", "-n", "-c", "3", "-i", "0.2", "-p", "70696e676d61726b", addr.String()); err != nil {
			t.Error(out, err)
		}
	}
	// The same outside the mesh, or the capture's silence would prove nothing.
	bait := []byte("this-goes-in-clear")
	if err := a.Say(netip.AddrPortFrom(b.Host.IPv4, echo), bait); err != nil {
		t.Fatal(err)
	}
	if err := capture.Await(bait, settled); err != nil {
		t.Fatal(err)
	}
	seen := capture.Stop()
	for _, secret := range []string{"phantom-plaintext", "pingmark", "nameofthejoiner", "nameofthemesh", token, token[3:40]} {
		if bytes.Contains(seen, []byte(secret)) {
			t.Errorf("the wire shows %q", secret)
		}
	}
}

func TestTheFirstPacketToANodeThatCameBackArrives(t *testing.T) {
	need(t)
	_, nodes := mesh.Grow(t, 3)
	mesh.Everybody(t, settled, nodes...)
	here, there := nodes[1], nodes[2]
	here.Must("ping", there.Name, "-c", "1")
	there.Must("down")
	there.Process.Wait(settled)
	there.Start()
	there.Online(settled)
	here.Must("ping", there.Name, "-c", "1")
}

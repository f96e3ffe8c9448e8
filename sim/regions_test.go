package sim

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/underlay"
)

// meshOf makes a mesh with n machines in each of the regions, which are 100 ms apart.
func meshOf(w *World, n int, change func(*config.Settings), regions ...string) ([]*Host, error) {
	ctx := context.Background()
	for i, a := range regions {
		w.SetRoute(a, a, Quality{Latency: 2 * time.Millisecond})
		for _, b := range regions[:i] {
			w.SetRoute(a, b, Quality{Latency: 50 * time.Millisecond})
		}
	}
	for i := range n * len(regions) {
		at := Placement{Name: fmt.Sprintf("n%d", i+1), Region: regions[i%len(regions)], Addrs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, byte(2 + i>>7), byte(i%128 + 1)})}, Settings: change}
		h := w.AddHost(at)
		if err := h.Start(); err != nil {
			return nil, err
		}
		entry := localapi.Entry{New: "lab"}
		if i > 0 {
			invite, err := w.hosts[0].Node().Invite(ctx, localapi.InviteRequest{})
			if err != nil {
				return nil, err
			}
			entry = localapi.Entry{Token: invite.Token}
		}
		if err := h.Enter(ctx, entry); err != nil {
			return nil, err
		}
	}
	return w.hosts, nil
}

// A member moves to another region. Traffic over its tunnels, to its old region and to others, does not notice.
func TestAMemberThatMovesToAnotherRegionLosesNoTunnel(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	err := Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		hosts, err := meshOf(w, 3, nil, "home", "east")
		if err != nil {
			return err
		}
		mover, old, other := hosts[4], hosts[2], hosts[3] // of the home, of the home, of the east
		both := func() bool {
			_, a := w.Ping(mover, old, time.Second)
			_, b := w.Ping(mover, other, time.Second)
			return a == nil && b == nil
		}
		if ok, err := w.Await(30*time.Second, time.Second, both); !ok {
			return fmt.Errorf("no tunnels: %w", err)
		}
		moved := make(chan error, 1)
		parts, ok := mover.Node().Parts()
		if !ok {
			return fmt.Errorf("the node is in no mesh")
		}
		go func() { moved <- parts.Group.MoveRegion(context.Background(), "east") }()
		for i := range 400 { // 40 s: past the time after which it leaves its old pool
			for _, to := range []*Host{old, other} {
				if _, err := w.Ping(mover, to, 500*time.Millisecond); err != nil {
					t.Errorf("echo %d to %s is lost", i, to.Name())
				}
			}
			if err := w.Sleep(100 * time.Millisecond); err != nil {
				return err
			}
		}
		if err := <-moved; err != nil {
			return err
		}
		for _, h := range hosts {
			status, err := h.Node().Status(context.Background())
			if err != nil {
				return err
			}
			for _, p := range status.Peers {
				if p.State != "alive" || p.Name == mover.Name() && p.Region != "east" {
					t.Errorf("%s shows %s of %s as %s", h.Name(), p.Name, p.Region, p.State)
				}
			}
		}
		for _, p := range parts.Gossip.Pools() {
			if s := p.Scope(); s != "east" && s != "*" {
				t.Errorf("it is still in the pool %s", s)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// How long the first packet to a member of another region takes. Without the hash table, which in so small a mesh has met everybody.
func TestFirstContactWithAMemberOfAnotherRegionIsQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	err := Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		hosts, err := meshOf(w, 4, func(s *config.Settings) { s.NoDHT = true }, "home", "east", "west")
		if err != nil {
			return err
		}
		if err := w.Sleep(3 * time.Minute); err != nil {
			return err
		}
		var took []time.Duration
		for i, a := range hosts {
			for j, b := range hosts {
				if i%3 == j%3 {
					continue
				}
				parts, ok := a.Node().Parts()
				to, ok2 := b.Node().Parts()
				if !ok || !ok2 {
					return fmt.Errorf("a node is in no mesh")
				}
				if p, known := parts.Socket.Path(to.Key.ID()); known && p.Kind != underlay.PathNone {
					continue // they have met
				}
				begun := time.Now()
				if _, err := w.Ping(a, b, 5*time.Second); err != nil {
					t.Errorf("%s does not reach %s: %v", a.Name(), b.Name(), err)
					continue
				}
				took = append(took, time.Since(begun))
			}
		}
		if len(took) == 0 {
			return fmt.Errorf("all have met")
		}
		slices.Sort(took)
		t.Logf("%d first contacts over 100 ms of round trip: median %s, at most %s", len(took), took[len(took)/2], took[len(took)-1])
		// A look-up over a new connection, a path, another connection, the exchange, the handshake and the echo: fifteen round trips.
		if worst := took[len(took)-1]; worst > 1500*time.Millisecond {
			t.Errorf("the longest took %s", worst)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/peer"
)

// far is how the regions of these tests are connected: 40 ms there and back, 0.6 ms within one.
func far(w *World, regions ...string) {
	for i, a := range regions {
		w.SetRoute(a, a, Quality{Latency: 250 * time.Microsecond, Jitter: 100 * time.Microsecond})
		for _, b := range regions[:i] {
			w.SetRoute(a, b, Quality{Latency: 19 * time.Millisecond, Jitter: 2 * time.Millisecond})
		}
	}
}

// settle adds a host that names its region or not, and brings it into the first one's mesh.
func settle(w *World, region string, named bool) (*Host, error) {
	n := len(w.hosts) + 1
	h := w.AddHost(Placement{Name: fmt.Sprintf("n%d", n), Region: region, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})},
		Settings: func(s *config.Settings) {
			if !named {
				s.Region = ""
			}
		}})
	if err := h.Start(); err != nil {
		return nil, err
	}
	entry := localapi.Entry{New: "lab"}
	if n > 1 {
		invite, err := w.hosts[0].Node().Invite(context.Background(), localapi.InviteRequest{})
		if err != nil {
			return nil, err
		}
		entry = localapi.Entry{Token: invite.Token}
	}
	return h, h.Enter(context.Background(), entry)
}

func regionOf(h *Host) (localapi.Self, error) {
	s, err := h.Node().Status(context.Background())
	if err != nil {
		return localapi.Self{}, err
	}
	return s.Self, nil
}

// astray are the hosts that are not of the region in which they stand.
func astray(hosts []*Host) (out []string) {
	for _, h := range hosts {
		if s, err := regionOf(h); err != nil || s.Region != h.Region() {
			out = append(out, fmt.Sprintf("%s of %s is in %s: %s", h.Name(), h.Region(), s.Region, s.RegionWhy))
		}
	}
	return out
}

func TestMachinesThatWereToldNoRegionFindTheirs(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time for eight nodes")
	}
	err := Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		far(w, "paris", "tokyo", "lima")
		// Who names tokyo and lima comes last: the others there were let in by machines of paris, and have to move.
		for _, x := range []struct {
			region string
			named  bool
		}{{"paris", true}, {"tokyo", false}, {"lima", false}, {"tokyo", false}, {"lima", false}, {"paris", false}, {"tokyo", true}, {"lima", true}} {
			if _, err := settle(w, x.region, x.named); err != nil {
				return err
			}
		}
		mover := w.hosts[4]
		if s, err := regionOf(mover); err != nil || s.Region != "paris" || s.RegionNamed {
			t.Errorf("n5, let in by one of paris, begins in %s, named %v, %v", s.Region, s.RegionNamed, err)
		}
		// What it speaks with others about goes on while it moves.
		lost := talk(w, mover, w.hosts[0])
		ok, err := w.Await(5*time.Minute, 5*time.Second, func() bool { return len(astray(w.hosts)) == 0 })
		if err != nil {
			return err
		}
		if !ok {
			t.Errorf("after %v: %s", w.Now(), strings.Join(astray(w.hosts), "; "))
		}
		t.Logf("everybody is in the right region after %v", w.Now())
		if n := lost(); n > 0 {
			t.Errorf("%d pings of n5 were lost while it moved", n)
		}
		if err := w.Sleep(15 * time.Minute); err != nil { // who has moved rests for ten
			return err
		}
		if a := astray(w.hosts); len(a) > 0 {
			t.Errorf("a quarter of an hour later: %s", strings.Join(a, "; "))
		}
		if n := moves(w); n != 4 {
			t.Errorf("%d moves, want those of n2 to n5", n)
		}
		mover.Travel("tokyo", netip.MustParseAddr("192.0.2.99"))
		if ok, err := w.Await(5*time.Minute, 5*time.Second, func() bool { return len(astray(w.hosts)) == 0 }); !ok {
			t.Errorf("n5 went to tokyo: %v, %v", astray(w.hosts), err)
		}
		if s, err := regionOf(w.hosts[0]); err != nil || s.Region != "paris" || !s.RegionNamed {
			t.Errorf("who was told that it is of paris is of %s, named %v, %v", s.Region, s.RegionNamed, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A member of a far region says to everybody that it stands where he does. Those who choose their region by who is near hear that and measure: nobody
// moves, and honest members are not misjudged because of it.
func TestNobodyMovesForAMemberThatLiesAboutWhereItIs(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time for six nodes")
	}
	err := Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		far(w, "paris", "tokyo")
		for _, x := range []struct {
			region string
			named  bool
		}{{"paris", true}, {"tokyo", true}, {"paris", false}, {"tokyo", true}, {"paris", false}, {"tokyo", false}} {
			if _, err := settle(w, x.region, x.named); err != nil {
				return err
			}
		}
		liar, honest, others := w.hosts[1], w.hosts[3], []*Host{w.hosts[0], w.hosts[2], w.hosts[4]}
		if ok, err := w.Await(5*time.Minute, 5*time.Second, func() bool { return len(astray(w.hosts)) == 0 && placed(others, liar, honest) }); !ok {
			return fmt.Errorf("before anybody lies: %v, %w", astray(w.hosts), err)
		}
		before := moves(w)
		bad := newTurncoat(w, liar, traitorLiar)
		w.Go(func(ctx context.Context) {
			for r := rand.New(rand.NewPCG(1, 1)); ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
				_ = bad.falsePlace(ctx, r)
			}
		})
		heard := map[string]int{}
		for range 4 * 12 {
			if err := w.Sleep(5 * time.Second); err != nil {
				return err
			}
			for _, h := range others {
				if estimate(h, liar) < 10*time.Millisecond {
					heard[h.Name()]++
				}
				if got := estimate(h, honest); got < 20*time.Millisecond || got > 60*time.Millisecond {
					t.Errorf("%v: to %s, %s seems to be %v away; it is 38 ms", w.Now(), h.Name(), honest.Name(), got)
				}
			}
		}
		t.Logf("how often each believed that it is near: %v", heard)
		if len(heard) != 3 {
			t.Error("the lie was not heard: this proves nothing")
		}
		if n := moves(w) - before; n > 0 || len(astray(w.hosts)) > 0 {
			t.Errorf("%d moves; %s", n, strings.Join(astray(w.hosts), "; "))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// placed reports whether some know where others are.
func placed(hosts []*Host, others ...*Host) bool {
	return !slices.ContainsFunc(hosts, func(h *Host) bool {
		return slices.ContainsFunc(others, func(o *Host) bool { return estimate(h, o) < 0 })
	})
}

// estimate is how far another seems to be by what a host was told of it and says itself; -1: it knows nothing.
func estimate(h, other *Host) time.Duration {
	parts, ok := h.Node().Parts()
	if !ok {
		return -1
	}
	e, _ := parts.Peers.Get(other.id)
	own, err := peer.ParseRecord(h.id, parts.Gossip.Record())
	if err != nil || !own.Placed || !e.Record.Placed {
		return -1
	}
	return own.Coordinate.RTT(e.Record.Coordinate)
}

// moves counts how often a machine has changed its region.
func moves(w *World) (n int) {
	for _, e := range w.Events(-1) {
		if strings.Contains(e.Text, "moved to another region") {
			n++
		}
	}
	return n
}

// talk has a host ping another through the tunnel four times a second, until the function that it returns is called and says how many were
// lost.
func talk(w *World, from, to *Host) (lost func() int) {
	ctx, stop := context.WithCancel(w.life)
	failed, ended := 0, make(chan struct{})
	w.Go(func(context.Context) {
		defer close(ended)
		for ctx.Err() == nil {
			if _, err := w.Ping(from, to, 2*time.Second); err != nil && ctx.Err() == nil {
				failed++
				w.Record(from.Name(), "lost", "%v", err)
			}
			time.Sleep(250 * time.Millisecond)
		}
	})
	return func() int {
		stop()
		<-ended
		return failed
	}
}

func TestAMeshInWhichNobodyNamedARegionHasOneUntilSomebodyDoes(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	err := Bubble(context.Background(), Config{Seed: 2, Dir: t.TempDir()}, func(w *World) error {
		far(w, "paris", "tokyo")
		for i := range 4 {
			if _, err := settle(w, []string{"paris", "tokyo"}[i%2], false); err != nil {
				return err
			}
		}
		if err := w.Sleep(10 * time.Minute); err != nil {
			return err
		}
		for _, h := range w.hosts {
			if s, err := regionOf(h); err != nil || s.Region != "default" {
				t.Errorf("%s is in region %s, %v", h.Name(), s.Region, err)
			}
		}
		list, err := w.hosts[1].Node().Set(context.Background(), localapi.SetRequest{Key: localapi.SettingRegion, Value: "tokyo"})
		if err != nil || list.Settings[0].Value != "tokyo" || list.Settings[0].Told != "tokyo" {
			return fmt.Errorf("after set region=tokyo: %+v, %w", list, err)
		}
		want := func(regions ...string) error {
			last := ""
			ok, err := w.Await(5*time.Minute, 5*time.Second, func() bool {
				last = ""
				for i, h := range w.hosts {
					if s, err := regionOf(h); err != nil || s.Region != regions[i] {
						last += fmt.Sprintf("%s is in %s, want %s (%s); ", h.Name(), s.Region, regions[i], s.RegionWhy)
					}
				}
				return last == ""
			})
			if err == nil && !ok {
				err = errors.New(last)
			}
			return err
		}
		if err := want("default", "tokyo", "default", "tokyo"); err != nil {
			return err
		}
		// It is kept, and told again after a restart.
		if err := w.hosts[1].Kill(); err != nil {
			return err
		}
		saved, err := config.ReadSaved(config.Settings{State: w.hosts[1].folder}.SavedFile())
		if err != nil || len(saved["region"].Words) != 1 || saved["region"].Words[0] != "tokyo" {
			t.Errorf("kept: %+v, %v", saved, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAMachineOnAJitteryLinkBetweenTwoRegionsStaysInOne(t *testing.T) {
	if testing.Short() {
		t.Skip("an hour of virtual time")
	}
	err := Bubble(context.Background(), Config{Seed: 3, Dir: t.TempDir()}, func(w *World) error {
		far(w, "paris", "tokyo")
		w.SetRoute("between", "paris", Quality{Latency: 10 * time.Millisecond, Jitter: 15 * time.Millisecond})
		w.SetRoute("between", "tokyo", Quality{Latency: 10 * time.Millisecond, Jitter: 15 * time.Millisecond})
		for _, x := range []struct {
			region string
			named  bool
		}{{"paris", true}, {"tokyo", true}, {"between", false}} {
			if _, err := settle(w, x.region, x.named); err != nil {
				return err
			}
		}
		for turn := range 3 {
			// One side is worse for a while, then the other.
			side := []string{"paris", "tokyo"}[turn%2]
			w.SetRoute("between", side, Quality{Latency: 14 * time.Millisecond, Jitter: 15 * time.Millisecond})
			if err := w.Sleep(20 * time.Minute); err != nil { // a better region need last for one
				return err
			}
			w.SetRoute("between", side, Quality{Latency: 10 * time.Millisecond, Jitter: 15 * time.Millisecond})
		}
		if n := moves(w); n > 0 {
			t.Errorf("it moved %d times", n)
		}
		if s, err := regionOf(w.hosts[2]); err != nil || !slices.Contains([]string{"paris", "tokyo"}, s.Region) {
			t.Errorf("it is in %s, %v", s.Region, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

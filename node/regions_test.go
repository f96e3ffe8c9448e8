package node_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/gossip/bulletin"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

func inRegion(region string) func(*config.Settings) {
	return func(s *config.Settings) { s.Region = region }
}

// regional starts a mesh with n machines in each of the regions, the founder in the first of them.
func (b *bubbleMesh) regional(n int, regions ...string) {
	b.t.Helper()
	first := b.start(0, 0, localapi.Entry{New: "lab"}, inRegion(regions[0]))
	for i := range n * len(regions) {
		if i > 0 {
			b.join(i, first, inRegion(regions[i%len(regions)]))
		}
	}
}

// within waits until what says that nothing is missing, and returns how long that took.
func (b *bubbleMesh) within(limit time.Duration, what func() string) time.Duration {
	b.t.Helper()
	begun := time.Now()
	for {
		missing := what()
		if missing == "" {
			return time.Since(begun)
		}
		if time.Since(begun) > limit {
			for i, log := range b.logs {
				said := log.String()
				b.t.Logf("n%d said last:\n%s", i, said[max(0, len(said)-6000):])
			}
			b.t.Fatalf("not after %s: %s", limit, missing)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// shows is what one node shows of another.
func (b *bubbleMesh) shows(i, j int) string { return b.look(i)(j) }

// look asks a node once what it shows of others.
func (b *bubbleMesh) look(i int) func(j int) string {
	status, err := b.running[i].node.Status(b.t.Context())
	return func(j int) string {
		if err != nil {
			return err.Error()
		}
		for _, p := range status.Peers {
			if p.Name == fmt.Sprintf("n%d", j) {
				return p.State
			}
		}
		return "not listed"
	}
}

// allShow says which of the running nodes do not show another as alive, or one of the others as what it should be.
func (b *bubbleMesh) allShow(others map[int]string) string {
	for i := range b.running {
		shows := b.look(i)
		for j := range b.running {
			if i != j && shows(j) != "alive" {
				return fmt.Sprintf("n%d shows n%d as %s", i, j, shows(j))
			}
		}
		for j, want := range others {
			if got := shows(j); got != want {
				return fmt.Sprintf("n%d shows n%d as %s, not %s", i, j, got, want)
			}
		}
	}
	return ""
}

// coordinator is who coordinates a region, by what node i knows; -1: nobody.
func (b *bubbleMesh) coordinator(i int, region string) int {
	list, err := b.running[i].node.Coordinators(b.t.Context())
	if err != nil {
		return -1
	}
	for _, r := range list.Regions {
		if r.Region == region && r.Name != "" {
			var n int
			if _, err := fmt.Sscanf(r.Name, "n%d", &n); err == nil {
				return n
			}
		}
	}
	return -1
}

func TestMembersOfAllRegionsAreSeenAliveDeadAndGone(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		b.regional(3, "home", "east", "west")
		t.Logf("all alive everywhere after %s", b.within(15*time.Second, func() string { return b.allShow(nil) }))
		b.within(10*time.Second, func() string {
			for _, region := range []string{"home", "east", "west"} {
				if b.coordinator(8, region) < 0 {
					return region + " has no coordinator"
				}
			}
			return ""
		})
		for i := range b.running {
			for j := range b.running {
				if i == j {
					continue
				}
				begun := time.Now()
				if ok, err := b.reaches(i, j); !ok {
					t.Errorf("n%d does not reach n%d: %v", i, j, err)
				} else if took := time.Since(begun); took > 500*time.Millisecond {
					t.Errorf("n%d reached n%d only after %s", i, j, took)
					log := b.logs[i].String()
					t.Log(log[max(0, len(log)-6000):])
				}
			}
		}
		time.Sleep(20 * time.Second)
		b.stop(7) // of the east
		t.Logf("one that stops is seen to leave after %s", b.within(10*time.Second, func() string { return b.allShow(map[int]string{7: "left"}) }))
		b.start(7, 0, localapi.Entry{}, inRegion("east"))
		t.Logf("and to return after %s", b.within(10*time.Second, func() string { return b.allShow(nil) }))
	})
}

// Regression: who gave its region away when it stopped was no candidate for half a minute, though it was back at once. A region restarted one by one had
// nobody to coordinate it then.
func TestARegionRestartedOneByOneAlwaysHasACoordinator(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time, and no code that others do not run")
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		b.regional(3, "home", "east")
		b.coordinated("home", "east")
		time.Sleep(10 * time.Second)
		for range 4 {
			goes := b.coordinator(0, "east")
			b.stop(goes)
			b.within(3*time.Second, func() string {
				if c := b.coordinator(0, "east"); c < 0 || c == goes {
					return fmt.Sprintf("n%d was told to stop, n%d coordinates", goes, c)
				}
				return ""
			})
			b.start(goes, 0, localapi.Entry{}, inRegion("east"))
			b.within(10*time.Second, func() string { return b.allShow(nil) })
		}
	})
}

// A region goes dark as a whole, and comes back.
func TestARegionThatIsCutOffIsDeadToTheOthersAndComesBack(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		var cut atomic.Bool
		east := func(a netip.AddrPort) bool { return (a.Addr().As4()[3]-1)%2 == 1 }
		b.network.Set(underlaytest.Hooks{
			Latency: func(_, _ netip.AddrPort) time.Duration { return 20 * time.Millisecond },
			Drop:    func(from, to netip.AddrPort, _ []byte) bool { return cut.Load() && east(from) != east(to) },
			Refuse:  func(from, to netip.AddrPort) bool { return cut.Load() && east(from) != east(to) },
		})
		b.regional(3, "home", "east")
		b.within(15*time.Second, func() string { return b.allShow(nil) })
		time.Sleep(time.Minute)
		cut.Store(true)
		half := func(i int) bool { return i%2 == 1 }
		t.Logf("each half has the other for dead after %s", b.within(2*time.Minute, func() string {
			for i := range b.running {
				shows := b.look(i)
				for j := range b.running {
					want := "alive"
					if half(i) != half(j) {
						want = "dead"
					}
					if got := shows(j); i != j && got != want {
						return fmt.Sprintf("n%d shows n%d as %s", i, j, got)
					}
				}
			}
			return ""
		}))
		time.Sleep(10 * time.Minute)
		cut.Store(false)
		t.Logf("whole again after %s", b.within(3*time.Minute, func() string { return b.allShow(nil) }))
	})
}

// Revocation crosses regions, also when the coordinator of one has just died: nobody else of that region votes.
func TestARevocationReachesEveryRegionWithinSeconds(t *testing.T) {
	for _, dies := range []bool{true, false} {
		if testing.Short() && !dies {
			continue
		}
		t.Run(fmt.Sprintf("a coordinator dies: %v", dies), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { revocationCrosses(t, dir, dies) })
		})
	}
}

func revocationCrosses(t *testing.T, dir string, dies bool) {
	b := newBubbleMesh(t, dir)
	defer b.stopAll()
	b.regional(5, "home")
	for i := range 4 {
		b.join(5+i, b.running[0].node, inRegion("east"))
	}
	b.within(20*time.Second, func() string { return b.allShow(nil) })
	time.Sleep(time.Minute)
	const victim = 4
	if dies {
		killed := b.killVoters("east", 5)
		if c := b.coordinator(0, "east"); !slices.Contains(killed, c) {
			b.kill(c)
		}
	}
	out := b.running[victim]
	delete(b.running, victim)
	if _, err := b.running[0].node.Revoke(t.Context(), localapi.RevokeRequest{Node: "n4"}); err != nil {
		t.Fatal(err)
	}
	t.Logf("everybody knows after %s", b.within(5*time.Second, func() string {
		for i := range b.running {
			if got := b.shows(i, victim); got != "not listed" {
				return fmt.Sprintf("n%d shows it as %s", i, got)
			}
		}
		return ""
	}))
	if err := <-out.ended; err == nil {
		t.Error("the revoked one does not say so")
	}
}

// voters are those that vote, by what the founder knows.
func (b *bubbleMesh) voters() (out []int) {
	b.t.Helper()
	list, err := b.running[0].node.Coordinators(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, v := range list.Voters {
		var n int
		if _, err := fmt.Sscanf(v.Name, "n%d", &n); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// killVoters kills the voters among the nodes from the first on, and returns who they were.
func (b *bubbleMesh) killVoters(region string, first int) (killed []int) {
	b.t.Helper()
	for _, n := range b.voters() {
		if n >= first {
			b.kill(n)
			killed = append(killed, n)
		}
	}
	b.t.Logf("%v of the %s are dead", killed, region)
	return killed
}

// Regression: while the group has no quorum nobody is elected in a dead coordinator's place, and who was not in the wide pool went on showing that
// coordinator as alive: it refused whoever spoke for the region instead. Three ways of hearing of it: a member of a region whose coordinator is alive,
// who speaks for a region from outside the wide pool, and a member of such a region.
func TestADeadCoordinatorOfAnotherRegionIsSeenDeadWithoutAQuorum(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time, and no code that others do not run")
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		b.regional(3, "home", "east", "west")
		b.coordinated("home", "east", "west")
		time.Sleep(30 * time.Second)
		voters := b.voters()
		var dead []int
		for _, region := range []string{"east", "west"} {
			c := b.coordinator(0, region)
			b.kill(c)
			dead = append(dead, c)
			for _, v := range voters {
				if v != c && v%3 == c%3 {
					b.kill(v)
					dead = append(dead, v)
				}
			}
		}
		t.Logf("of the voters %v are left %v", voters, slices.DeleteFunc(slices.Clone(voters), func(v int) bool { return slices.Contains(dead, v) }))
		all := func() string {
			others := map[int]string{}
			for _, i := range dead {
				others[i] = "dead"
			}
			return b.allShow(others)
		}
		t.Logf("all have %v for dead after %s", dead, b.within(2*time.Minute, all))
		for range 8 { // twice as long as who speaks from outside of the wide pool speaks again
			time.Sleep(8 * time.Second)
			if wrong := all(); wrong != "" {
				t.Fatal(wrong)
			}
		}
		for _, run := range b.dead {
			run.host.Resume()
		}
		for i, n := range dead {
			b.running[n] = b.dead[i]
		}
		b.dead = nil
		t.Logf("all alive again after %s", b.within(2*time.Minute, func() string { return b.allShow(nil) }))
	})
}

func TestASingleRegionHasNoWidePoolAndNoBulletins(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		b.regional(4, "home")
		time.Sleep(2 * time.Minute)
		for i, run := range b.running {
			var text strings.Builder
			if err := run.node.Metrics(t.Context(), &text); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"phantom_gossip_pools 1\n", `phantom_bulletins_total{result="taken"} 0` + "\n"} {
				if !strings.Contains(text.String(), want) {
					t.Errorf("n%d: not %q", i, want)
				}
			}
		}
		// The first machine of a second region makes it one of several.
		b.join(4, b.running[0].node, inRegion("east"))
		t.Logf("seen everywhere after %s", b.within(10*time.Second, func() string { return b.allShow(nil) }))
		b.within(10*time.Second, func() string {
			if b.coordinator(1, "east") != 4 {
				return "the east has no coordinator"
			}
			return ""
		})
		for _, i := range []int{1, 4} {
			for _, j := range []int{0, 2, 4} {
				if i == j {
					continue
				}
				if ok, err := b.reaches(i, j); !ok {
					t.Errorf("n%d does not reach n%d: %v", i, j, err)
				}
			}
		}
	})
}

// A member of a region that does not speak for it says that nobody of it, or of another, is alive: as a rumour, and to the leader.
func TestABulletinOfWhoDoesNotSpeakForTheRegionChangesNothing(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		b.regional(3, "home", "east")
		b.within(15*time.Second, func() string { return b.allShow(nil) })
		b.within(10*time.Second, func() string {
			if b.coordinator(0, "east") < 0 || b.coordinator(0, "home") < 0 {
				return "no coordinators"
			}
			return ""
		})
		time.Sleep(10 * time.Second)
		bad := 1
		if b.coordinator(0, "east") == bad {
			bad = 3
		}
		parts, ok := b.running[bad].node.Parts()
		if !ok {
			t.Fatal("in no mesh")
		}
		state := parts.Group.State()
		for _, region := range []string{"east", "home"} {
			members := state.MembersOf()[region]
			_, term, _ := state.RegionCoordinator(region)
			for _, term := range []uint64{term, term - 1, term + 1} {
				lie := bulletin.Bulletin{
					Mark:    bulletin.Mark{Region: region, Term: term, Number: uint64(time.Now().Add(time.Minute).UnixMilli())},
					Version: state.Version, Roll: bulletin.RollOf(members),
					Away: slices.Repeat([]bool{true}, len(members)), Left: make([]bool, len(members)),
				}
				raw, err := lie.Sign(state.Mesh.ID, parts.Key)
				if err != nil {
					t.Fatal(err)
				}
				if err := parts.Gossip.Rumour(2, raw); err != nil {
					t.Fatal(err)
				}
				leader := state.Coordinators.Leader
				if leader == parts.Key.ID() {
					continue
				}
				s, err := parts.Control.Open(t.Context(), leader, "bulletin")
				if err != nil {
					t.Fatal(err)
				}
				question := []any{1, region, raw, []any{}, []any{}, false}
				if err := wire.WriteMessage(s, question, 1<<16); err != nil {
					t.Fatal(err)
				}
				var answer struct {
					_         struct{} `cbor:",toarray"`
					Taken     bool
					Records   []any
					Bulletins [][]byte
				}
				if err := wire.ReadMessage(s, &answer, 1<<20); err == nil && answer.Taken {
					t.Errorf("a bulletin of %s in term %d was taken", region, term)
				}
				s.Close()
			}
		}
		for range 20 {
			time.Sleep(time.Second)
			if wrong := b.allShow(nil); wrong != "" {
				t.Fatal(wrong)
			}
		}
	})
}

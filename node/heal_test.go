package node_test

import (
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// Two halves of a mesh, in each of which one machine gets another address meanwhile.
func TestAMeshHealsHoweverLongItsHalvesWereApart(t *testing.T) {
	if testing.Short() {
		t.Skip("virtual days")
	}
	long := 10 * time.Minute
	if d, err := time.ParseDuration(os.Getenv("HEAL_AFTER")); err == nil {
		long = d
	}
	for _, apart := range []time.Duration{time.Minute, long} {
		t.Run(apart.String(), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { heals(t, dir, apart) })
		})
	}
}

func heals(t *testing.T, dir string, apart time.Duration) {
	b := newBubbleMesh(t, dir)
	defer b.stopAll()
	halves := [][]int{{0, 1}, {2, 3}}
	var cut atomic.Bool
	east := func(a netip.AddrPort) bool { return a.Addr().As4()[3] > 2 }
	drop := func(from, to netip.AddrPort) bool { return cut.Load() && east(from) != east(to) }
	b.network.Set(underlaytest.Hooks{
		Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond },
		Drop:    func(from, to netip.AddrPort, _ []byte) bool { return drop(from, to) },
		Refuse:  drop,
	})
	first := b.start(0, 0, localapi.Entry{New: "lab"}, nil)
	for i := range 3 {
		b.join(i+1, first, nil)
	}
	time.Sleep(2 * time.Minute)
	cut.Store(true)
	time.Sleep(apart / 2)
	for _, half := range halves {
		b.stop(half[1])
		b.start(half[1], 1, localapi.Entry{}, nil)
	}
	time.Sleep(apart / 2)
	for _, half := range halves {
		for i := range half {
			if ok, err := b.reaches(half[i], half[1-i]); !ok {
				t.Errorf("within a half n%d does not reach n%d: %v", half[i], half[1-i], err)
			}
		}
	}
	if ok, _ := b.reaches(halves[0][0], halves[1][0]); ok {
		t.Fatal("the cut is none")
	}
	cut.Store(false)
	healed := time.Now()
	const most = 2 * time.Minute // gossip's longest pause between two attempts, and half of it
	for {
		missing := b.missing()
		if missing == "" {
			break
		}
		if time.Since(healed) > most {
			t.Fatalf("not whole after %s: %s", most, missing)
		}
		time.Sleep(time.Second)
	}
	t.Logf("whole again after %s", time.Since(healed).Round(time.Second))
	if _, err := first.Invite(t.Context(), localapi.InviteRequest{}); err != nil {
		t.Errorf("no decisions: %v", err)
	}
}

// missing names a node that does not hold another for alive, or does not reach it.
func (b *bubbleMesh) missing() string {
	for i, run := range b.running {
		status, err := run.node.Status(b.t.Context())
		if err != nil {
			return err.Error()
		}
		alive := 0
		for _, p := range status.Peers {
			if p.State == "alive" {
				alive++
			}
		}
		if alive != len(b.running)-1 {
			return fmt.Sprintf("n%d knows %d alive", i, alive)
		}
	}
	for i := range b.running {
		for j := range b.running {
			if i == j {
				continue
			}
			if ok, err := b.reaches(i, j); !ok {
				return fmt.Sprintf("n%d does not reach n%d: %v", i, j, err)
			}
		}
	}
	return ""
}

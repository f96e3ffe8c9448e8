package sim

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// quietBudget is what a member without a vote may send for gossip and path checks while nobody uses the mesh, in bytes a day with IPv6 and
// UDP headers: measured 1.6 MB with 20 nodes. What goes over QUIC comes in a few large pieces, so that a short window says nothing of it.
const (
	quietBudget = 2_500_000
	headers     = 40 + 8
)

// idleClass is what a packet is counted as, by its first bytes as in underlay/classify.go.
func idleClass(b []byte) string {
	switch {
	case b[0]&0x40 != 0:
		return "control (QUIC)"
	case b[0] == 0x20:
		return "gossip"
	case len(b) >= 20 && b[0] < 2:
		return "path checks and STUN"
	}
	return "other"
}

// meter counts what hosts send, by class.
type meter struct {
	mu   sync.Mutex
	sent map[netip.Addr]map[string]int
}

func (m *meter) see(from, _ netip.AddrPort, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sent[from.Addr()] == nil {
		m.sent[from.Addr()] = map[string]int{}
	}
	m.sent[from.Addr()][idleClass(b)] += len(b) + headers
	m.sent[from.Addr()]["all"] += len(b) + headers
}

// IDLE_REGIONS=2 spreads them over regions, and shows those without a vote that coordinate one apart.
// IDLE_NODES=20 IDLE_MINUTES=120 go test ./sim -run TestAnIdleMemberIsQuiet -v prints the table of docs/performance.md.
func TestAnIdleMemberIsQuiet(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	// One of six has no vote. What a newcomer does once, gossip's news, is over after a minute, but for its store in the hash table after five.
	nodes, rest, window := 6, 90*time.Second, 3*time.Minute
	if n, err := strconv.Atoi(os.Getenv("IDLE_NODES")); err == nil {
		nodes = n
	}
	if n, err := strconv.Atoi(os.Getenv("IDLE_MINUTES")); err == nil {
		rest, window = 7*time.Minute, time.Duration(n)*time.Minute
	}
	var regions []string
	if n, err := strconv.Atoi(os.Getenv("IDLE_REGIONS")); err == nil {
		for i := range n {
			regions = append(regions, "region-"+strconv.Itoa(i))
		}
	}
	perDay := map[string][]float64{}
	err := Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		var hosts []*Host
		var err error
		if len(regions) > 1 {
			hosts, err = meshOf(w, nodes/len(regions), nil, regions...)
		} else {
			hosts, err = mesh(w, nodes)
		}
		if err != nil {
			return err
		}
		if err := w.Sleep(rest); err != nil {
			return err
		}
		var m meter
		m.sent = map[netip.Addr]map[string]int{}
		w.net.Set(underlaytest.Hooks{Drop: w.links.drop, Latency: w.links.latency, See: m.see, Refuse: w.links.refuse, Segments: true})
		if err := w.Sleep(window); err != nil {
			return err
		}
		status, err := hosts[0].Node().Status(context.Background())
		if err != nil {
			return err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, h := range hosts {
			if slices.Contains(status.Coordinators.Voters, h.ID()) {
				continue
			}
			bridge := ""
			for _, r := range status.Coordinators.Regions {
				if len(regions) > 1 && r.Coordinator == h.ID() {
					bridge = "coordinator: "
				}
			}
			for _, class := range []string{"all", "gossip", "control (QUIC)", "path checks and STUN", "other"} {
				perDay[bridge+class] = append(perDay[bridge+class], float64(m.sent[h.at.Addrs[0]][class])*float64(24*time.Hour/window))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(perDay["all"]) == 0 {
		t.Fatal("all nodes vote")
	}
	for i, gossip := range perDay["gossip"] {
		if quiet := gossip + perDay["path checks and STUN"][i]; quiet > quietBudget {
			t.Errorf("a member sends %.0f bytes a day for gossip and checks, at most %d are allowed", quiet, quietBudget)
		}
	}
	for class, l := range perDay {
		slices.Sort(l)
		t.Logf("| %s | %.2f (%.2f – %.2f) |", class, l[len(l)/2]/1e6, l[0]/1e6, l[len(l)-1]/1e6)
	}
}

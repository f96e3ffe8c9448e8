package gossip

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// REGION_FIGURES=1x5,1x50,10x50,1x500 go test -run TestFiguresOfRegions -timeout 2h -v ./gossip prints the table of docs/performance.md: so many
// regions of so many members, in memory and in virtual time.
func TestFiguresOfRegions(t *testing.T) {
	if os.Getenv("REGION_FIGURES") == "" {
		t.Skip("set REGION_FIGURES=REGIONSxMEMBERS,… to measure")
	}
	for _, layout := range strings.Split(os.Getenv("REGION_FIGURES"), ",") {
		a, b, _ := strings.Cut(layout, "x")
		regions, err := strconv.Atoi(a)
		members, err2 := strconv.Atoi(b)
		if err != nil || err2 != nil || regions < 1 || members < 2 {
			t.Fatalf("%q is not REGIONSxMEMBERS", layout)
		}
		testKey(t, regions*members-1)
		synctest.Test(t, func(t *testing.T) { figures(t, regions, members) })
	}
}

// widely are the members of the wide pool beside the coordinator of each region: as if all voters were of the first regions.
const widely = 4

func figures(t *testing.T, count, members int) {
	w := newWorld(t)
	hosts := w.hosts(count * members)
	state := &regions{of: map[identity.NodeID][]Scope{}}
	scope := func(i int) Scope { return Scope("region-" + strconv.Itoa(i%count)) }
	bridge := func(i int) bool { return count > 1 && i < count+widely }
	for i, h := range hosts {
		state.set(h.id, scope(i))
		if bridge(i) {
			state.set(h.id, scope(i), Wide)
		}
	}
	for i, h := range hosts {
		p := h.start(func(c *setup) {
			c.Scope, c.Admits = scope(i), state.admits(scope(i))
			c.Record.Region = string(scope(i))
		})
		if bridge(i) {
			if _, err := p.host.Open(Config{Scope: Wide, Admits: state.admits(Wide), Profile: WAN()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer func() {
		closeAll(hosts)
		time.Sleep(awarenessMax * WAN().ProbeInterval)
		synctest.Wait()
	}()
	time.Sleep(20 * time.Minute)
	idle := sent(hosts, time.Hour, bridge)
	// One member of the first region dies, and whoever speaks for the region says so to the others.
	victim := hosts[len(hosts)-count]
	victim.kill()
	eventually(t, 2*time.Minute, "dead in its region", func() bool {
		return hosts[0].pool.Load().roster.state(victim.id) == peer.Dead
	})
	if count > 1 {
		if err := hosts[0].pool.Load().host.Rumour(2, bytes.Repeat([]byte{1}, 180)); err != nil {
			t.Fatal(err)
		}
	}
	inside := func(i int) bool { return scope(i) == scope(0) }
	death := sent(hosts, 2*time.Minute, inside)
	t.Logf("| %d × %d | %s | %s | %s | %s |", count, members, kilobytes(idle[false]), kilobytes(idle[true]), kilobytes(death[true]), kilobytes(death[false]))
}

// sent lets time pass and returns what each host sent meanwhile, apart by class: packets with IPv6 and UDP headers, streams without what the
// control channel adds.
func sent(hosts []*host, d time.Duration, class func(int) bool) map[bool][]float64 {
	const headers = 40 + 8 + 1
	total := func(h *host) float64 {
		s := h.pool.Load().host.Stats()
		return float64(s.BytesSent + s.PacketsSent*headers + s.StreamBytesSent)
	}
	before := make([]float64, len(hosts))
	for i, h := range hosts {
		before[i] = total(h)
	}
	time.Sleep(d)
	out := map[bool][]float64{}
	for i, h := range hosts {
		if h.up.Load() {
			out[class(i)] = append(out[class(i)], total(h)-before[i])
		}
	}
	return out
}

// kilobytes is the median, and the range.
func kilobytes(l []float64) string {
	if len(l) == 0 {
		return "–"
	}
	slices.Sort(l)
	text := func(v float64) string { return strconv.FormatFloat(v/1000, 'f', 1, 64) }
	return text(l[len(l)/2]) + " (" + text(l[0]) + " – " + text(l[len(l)-1]) + ")"
}

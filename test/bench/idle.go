package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

const (
	// settle is how long a mesh is left alone before it counts as idle: its voters have grown and news has spread.
	settle = 20 * time.Second
	// watched is the time over which idle CPU and traffic are read. Push/pull comes every 30 s.
	watched = 60 * time.Second
)

// usage is what a node has used so far.
type usage struct {
	cpu            float64 // seconds
	sent, received float64 // bytes on the cable, with Ethernet headers
	packets        float64 // sent
}

// idle reads memory, CPU and traffic of the nodes of a five-node mesh that is left alone, before and after every pair has a tunnel.
func idle(t *session, _ options) {
	_, nodes := mesh.Grow(t, meshSize)
	mesh.Everybody(t, settled, nodes...)
	mesh.Voters(t, nodes[0], meshSize, settled)
	var rows [][]string
	rows = append(rows, idleRow(t, "no tunnel yet", nodes))
	for _, from := range nodes {
		for _, to := range nodes {
			if from != to {
				t.must(from.Host.Ping(to.Addresses()[0], settled))
			}
		}
	}
	rows = append(rows, idleRow(t, "tunnels to all four others", nodes))
	table("node of an idle five-node mesh|resident MiB|CPU ms per s|sent MB per h|packets sent per s", rows)
}

func idleRow(t *session, name string, nodes []*mesh.Node) []string {
	time.Sleep(settle) // what is measured is idleness
	before := make([]usage, len(nodes))
	for i, n := range nodes {
		before[i] = used(t, n)
	}
	begin := time.Now()
	time.Sleep(watched)
	var cpu, sent, packets []float64
	for i, n := range nodes {
		u := used(t, n)
		seconds := time.Since(begin).Seconds()
		cpu = append(cpu, (u.cpu-before[i].cpu)*1000/seconds)
		sent = append(sent, (u.sent-before[i].sent)/1e6*3600/seconds)
		packets = append(packets, (u.packets-before[i].packets)/seconds)
	}
	return []string{name, spread(residents(t, nodes), "%.1f"), spread(cpu, "%.1f"), spread(sent, "%.2f"), spread(packets, "%.1f")}
}

// used reads a node's CPU time and what its cable has carried.
func used(t *session, n *mesh.Node) usage {
	u := usage{cpu: cpuTime(t, n.Process.PID())}
	u.sent, u.received, u.packets = carried(t, n.Host)
	return u
}

// carried reads the host's counters of its cable (proc(5), /proc/net/dev).
func carried(t *session, h *lab.Host) (sent, received, packetsSent float64) {
	var b []byte
	t.must(h.Do(func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	}))
	_, rest, found := strings.Cut(string(b), "eth0:")
	if !found {
		t.Fatalf("%s: no eth0", h.Name)
	}
	fields := strings.Fields(rest)
	value := func(i int) float64 {
		v, err := strconv.ParseFloat(fields[i], 64)
		t.must(err)
		return v
	}
	return value(8), value(0), value(9)
}

// residents reads VmRSS of every node (proc(5), /proc/PID/status), in MiB.
func residents(t *session, nodes []*mesh.Node) []float64 {
	var all []float64
	for _, n := range nodes {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Process.PID()))
		t.must(err)
		_, rest, found := strings.Cut(string(b), "VmRSS:")
		if !found {
			t.Fatalf("%s: no VmRSS", n.Name)
		}
		kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		t.must(err)
		all = append(all, kib/1024)
	}
	return all
}

// exchangeCost is the first packet between nodes that know each other but have no tunnel: a key exchange over the control connection, a
// WireGuard handshake, and the ping itself; then a ping through the tunnel that is there, which is the packet alone.
func exchangeCost(t *session, o options) {
	_, nodes := mesh.Grow(t, meshSize)
	mesh.Everybody(t, settled, nodes...)
	mesh.Voters(t, nodes[0], meshSize, settled)
	time.Sleep(settle)
	first, second := &crossing{}, &crossing{}
	for i, from := range nodes {
		for _, to := range nodes[i+1:] { // ten pairs
			first.ping(t, from, to)
			second.ping(t, from, to)
		}
	}
	table("ping between two nodes, both directions together|ms|packets|bytes|CPU ms, both nodes", [][]string{
		first.row("the first: exchange, handshake, echo"), second.row("the next: echo"),
	})
}

// crossing collects what pings between pairs of nodes cost.
type crossing struct{ took, packets, bytes, cpu []float64 }

func (c *crossing) ping(t *session, from, to *mesh.Node) {
	addr := to.Addresses()[0]
	a, b := used(t, from), used(t, to)
	begin := time.Now()
	t.must(from.Host.PingOnce(addr))
	c.took = append(c.took, millis(time.Since(begin)))
	a2, b2 := used(t, from), used(t, to)
	c.packets = append(c.packets, a2.packets-a.packets+b2.packets-b.packets)
	c.bytes = append(c.bytes, a2.sent-a.sent+b2.sent-b.sent)
	c.cpu = append(c.cpu, (a2.cpu-a.cpu+b2.cpu-b.cpu)*1000)
}

func (c *crossing) row(name string) []string {
	return []string{name, spread(c.took, "%.1f"), spread(c.packets, "%.0f"), spread(c.bytes, "%.0f"), spread(c.cpu, "%.0f")}
}

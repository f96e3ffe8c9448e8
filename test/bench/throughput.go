package main

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

const (
	plainTUN  = "wg0"
	plainMTU  = "1420"
	plainPort = 51999 // not phantom's
	// clockTicks is USER_HZ, the unit of CPU times in /proc/PID/stat: 100 on every Linux
	// architecture Go runs on.
	clockTicks = 100
	ready      = 15 * time.Second
)

// tunnel is one of the two contestants.
type tunnel struct {
	name   string
	to     netip.Addr // the second host's overlay address
	pids   [2]int
	gbit   map[int][]float64 // parallel streams -> Gbit/s of each run
	cpu    map[int][]float64 // parallel streams -> CPU seconds of both processes per GB
	client *lab.Host
}

// throughput alternates runs through phantom and through wgplain.
func throughput(t *session, o options) {
	l := lab.New(t)
	hosts := l.AddHosts("n", 2)
	// Phantom must not find wgplain's addresses, take them for a way to the other host, and run inside the other tunnel.
	a := mesh.Start(t, l, hosts[0], "--listen", hosts[0].IPv4.String())
	b := mesh.Start(t, l, hosts[1], "--listen", hosts[1].IPv4.String())
	a.Found("lab")
	b.Join(a.Invite().Token)
	contestants := []*tunnel{
		{name: "phantom", to: b.Addresses()[0], pids: [2]int{a.Process.PID(), b.Process.PID()}},
		plain(t, l, a.Host, b.Host),
	}
	server := b.Host.Start("iperf3", "-s", "--forceflush")
	server.WaitOutput("listening", ready)
	for _, c := range contestants {
		c.client, c.gbit, c.cpu = a.Host, map[int][]float64{}, map[int][]float64{}
		t.must(a.Host.Ping(c.to, ready))
		c.iperf(t, 1, 1) // warm up: buffers, path MTU, turbo clock
		c.gbit, c.cpu = map[int][]float64{}, map[int][]float64{}
	}
	streams := []int{1, 4}
	for _, n := range streams {
		for i := range o.pairs {
			for j := range contestants { // who goes first alternates as well
				contestants[(i+j)%2].iperf(t, n, o.seconds)
			}
		}
	}
	var rows [][]string
	for _, n := range streams {
		p, w := contestants[0], contestants[1]
		for _, c := range contestants {
			ratio := ""
			if c == p {
				ratio = spread(ratios(p.gbit[n], w.gbit[n]), "%.2f")
			}
			rows = append(rows, []string{c.name, strconv.Itoa(n), spread(c.gbit[n], "%.2f"), ratio, spread(c.cpu[n], "%.2f")})
		}
	}
	table("tunnel|streams|Gbit/s|ratio to wgplain|CPU s per GB, both ends", rows)
}

// iperf is one run; it records the rate the receiver saw and the CPU time of both tunnel processes.
func (c *tunnel) iperf(t *session, streams, seconds int) {
	before := cpuTime(t, c.pids[0]) + cpuTime(t, c.pids[1])
	var out string
	t.must(lab.Eventually(ready, func() (err error) { // the server may still be busy closing the last run
		out, err = c.client.Run("iperf3", "-c", c.to.String(), "-t", strconv.Itoa(seconds), "-P", strconv.Itoa(streams), "-J")
		if err == nil && strings.Contains(out, `"the server is busy`) {
			err = errors.New("iperf3: the server is busy")
		}
		return err
	}))
	cpu := cpuTime(t, c.pids[0]) + cpuTime(t, c.pids[1]) - before
	var report struct {
		End struct {
			Received struct {
				Bytes float64
				Rate  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	t.must(json.Unmarshal([]byte(out), &report))
	if report.End.Received.Bytes == 0 {
		t.Fatalf("%s: iperf3 received nothing: %s", c.name, out)
	}
	c.gbit[streams] = append(c.gbit[streams], report.End.Received.Rate/1e9)
	c.cpu[streams] = append(c.cpu[streams], cpu/(report.End.Received.Bytes/1e9))
	fmt.Fprintf(os.Stderr, "%-8s %d streams: %.2f Gbit/s\n", c.name, streams, report.End.Received.Rate/1e9)
}

// plain sets up wgplain on both hosts with a static preshared key, as phantom's tunnels have one.
func plain(t *session, l *lab.Lab, hosts ...*lab.Host) *tunnel {
	binary := filepath.Join(l.Dir(), "wgplain")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", binary, "github.com/phantommesh/phantommesh/test/bench/wgplain").CombinedOutput(); err != nil {
		t.Fatalf("building wgplain: %v\n%s", err, out)
	}
	c := &tunnel{name: "wgplain"}
	var keys [2]*ecdh.PrivateKey
	var psk [32]byte
	rand.Read(psk[:])
	for i := range keys {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		t.must(err)
		keys[i] = key
	}
	for i, h := range hosts {
		address := netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)})
		theirs := netip.AddrFrom4([4]byte{10, 99, 0, byte(2 - i)})
		var config bytes.Buffer
		fmt.Fprintf(&config, "private_key=%s\nlisten_port=%d\npublic_key=%s\npreshared_key=%s\nendpoint=%s:%d\nallowed_ip=%s/32\n",
			hex.EncodeToString(keys[i].Bytes()), plainPort, hex.EncodeToString(keys[1-i].PublicKey().Bytes()),
			hex.EncodeToString(psk[:]), hosts[1-i].IPv4, plainPort, theirs)
		file := filepath.Join(l.Dir(), "wgplain-"+h.Name)
		t.must(os.WriteFile(file, config.Bytes(), 0o600))
		p := h.Start("sh", "-c", `exec "$0" "$1" "$2" <"$3"`, binary, plainTUN, plainMTU, file)
		p.WaitOutput("up", ready)
		for _, args := range [][]string{
			{"addr", "add", address.String() + "/24", "dev", plainTUN},
			{"link", "set", plainTUN, "up"},
		} {
			_, err := h.Run("ip", args...)
			t.must(err)
		}
		c.pids[i], c.to = p.PID(), address
	}
	return c
}

// cpuTime is user and system time of a process so far, in seconds (proc(5), /proc/PID/stat,
// fields 14 and 15).
func cpuTime(t *session, pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	t.must(err)
	_, rest, _ := strings.Cut(string(b), ") ") // the name may hold spaces
	fields := strings.Fields(rest)             // field 3 on
	var ticks float64
	for _, i := range []int{14 - 3, 15 - 3} {
		v, err := strconv.ParseFloat(fields[i], 64)
		t.must(err)
		ticks += v
	}
	return ticks / clockTicks
}

package main

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/phantommesh/phantommesh/test/mesh"
)

func TestATunnelSurvivesAHundredThousandJunkPacketsASecond(t *testing.T) {
	t.Parallel()
	a := newAttacked(t, "iperf3")
	from, to := a.hubs[0], a.hubs[1]
	to.Host.Start("iperf3", "-s", "--forceflush").WaitOutput("listening", settled)
	before := throughput(t, from, to)
	stream := from.Steady(a.echo)
	stop, ended := make(chan struct{}), make(chan int)
	c := a.ask(t)
	go func() { ended <- junk(c, underlayOf(to), 100_000, stop) }()
	begin := time.Now()
	during := throughput(t, from, to)
	close(stop)
	rate := float64(<-ended) / time.Since(begin).Seconds()
	if err := stream.Stop(settled); err != nil {
		t.Error(err)
	}
	t.Logf("%.0f junk packets a second: %.0f Mbit/s with, %.0f Mbit/s without, ratio %.2f; longest pause of a stream beside it %s",
		rate, during, before, during/before, stream.Pause())
	if during <= 0 {
		t.Error("the tunnel carried nothing")
	}
	if err := from.Talk(a.echo, 64<<10); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(to.Process.PID())); err != nil {
		t.Errorf("the node is gone: %v", err)
	}
}

// throughput is what iperf3 brings through the tunnel in three seconds, in Mbit/s; 0 if it fails.
func throughput(t *testing.T, from, to *mesh.Node) float64 {
	t.Helper()
	out, err := from.Host.Run("iperf3", "-c", to.Addresses()[0].String(), "-t", "3", "-f", "m")
	if err != nil {
		t.Error(err)
		return 0
	}
	for _, line := range strings.Split(out, "\n") {
		if words := strings.Fields(line); strings.HasSuffix(line, "receiver") && len(words) > 7 {
			v, _ := strconv.ParseFloat(words[6], 64)
			return v
		}
	}
	t.Errorf("iperf3 said %s", out)
	return 0
}

// junk sends packets of every class that the port knows, none of them good, at a rate until stopped, and returns how many.
func junk(c *net.UDPConn, to netip.AddrPort, perSecond int, stop chan struct{}) int {
	const batch = 50
	messages := make([]ipv4.Message, batch)
	begins := [][]byte{{1, 0, 0, 0}, {4, 0, 0, 0}, {0xc0, 0, 0, 0, 1}, {0x40}, {0x20}, {0x30}, {0, 1, 0, 80, 0x21, 0x12, 0xa4, 0x42}, {0x99}}
	for i := range messages {
		messages[i].Buffers = [][]byte{first(100, begins[i%len(begins)]...)}
		messages[i].Addr = net.UDPAddrFromAddrPort(to)
	}
	p, begin, sent := ipv4.NewPacketConn(c), time.Now(), 0
	for {
		select {
		case <-stop:
			return sent
		default:
		}
		due := int(time.Since(begin).Seconds() * float64(perSecond))
		if sent+batch > due {
			unix.Nanosleep(&unix.Timespec{Nsec: int64(batch) * 1e9 / int64(perSecond)}, nil) // the pace of the flood, not a wait
			continue
		}
		n, err := p.WriteBatch(messages, 0)
		if err != nil {
			return sent
		}
		sent += n
	}
}

package main

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

const (
	// memberMeshSize is the mesh of the promise on a member's idle traffic.
	memberMeshSize = 20
	// memberSettle is longer than settle: gossip calms down ten seconds after the last change, and members look once more then.
	memberSettle = 30 * time.Second
)

// classNames are what a cable carries, by the first byte of a datagram (docs/protocol.md).
var classNames = [...]string{"gossip", "control (QUIC)", "path checks and STUN", "WireGuard", "other"}

func classOf(frame []byte) int {
	other := len(classNames) - 1
	if len(frame) < 14+20+8 {
		return other
	}
	var payload int
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		payload = 14 + int(frame[14]&0x0f)*4 + 8
		if frame[14+9] != unix.IPPROTO_UDP {
			return other
		}
	case unix.ETH_P_IPV6:
		payload = 14 + 40 + 8
		if frame[14+6] != unix.IPPROTO_UDP {
			return other
		}
	default:
		return other
	}
	if len(frame) < payload+4 {
		return other
	}
	switch b := frame[payload:]; {
	case b[0] == 0x20:
		return 0
	case b[0]&0xc0 != 0:
		return 1
	case b[0] >= 1 && b[0] <= 4 && b[1] == 0 && b[2] == 0 && b[3] == 0:
		return 3
	}
	return 2
}

// cable counts what a host's cable carries, in bytes with Ethernet headers, by class.
type cable struct {
	fd             int
	sent, received [len(classNames)]atomic.Int64
	done           chan struct{}
}

func listen(t *session, h *lab.Host) *cable {
	c := &cable{done: make(chan struct{})}
	t.must(h.Do(func() (err error) {
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		return err
	}))
	t.must(unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	return c
}

// count counts until the end of the window.
func (c *cable) count(window time.Duration) {
	defer close(c.done)
	defer unix.Close(c.fd)
	buf := make([]byte, 64<<10)
	for end := time.Now().Add(window); time.Now().Before(end); {
		n, from, err := unix.Recvfrom(c.fd, buf, 0)
		if err != nil {
			continue // the time-out
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || link.Hatype != unix.ARPHRD_ETHER {
			continue
		}
		direction := &c.received
		if link.Pkttype == unix.PACKET_OUTGOING {
			direction = &c.sent
		}
		direction[classOf(buf[:n])].Add(int64(n))
	}
}

// member measures what a member that does not vote costs in a mesh that is left alone, by class.
func member(t *session, _ options) {
	_, nodes := mesh.Grow(t, memberMeshSize)
	mesh.Everybody(t, settled, nodes...)
	voters := mesh.Voters(t, nodes[0], meshSize, settled)
	time.Sleep(memberSettle)
	var cables []*cable
	for _, n := range nodes {
		if self := n.Status().Self; !slices.Contains(voters, self.ID) && !slices.Contains(voters, self.Name) {
			c := listen(t, n.Host)
			cables = append(cables, c)
			go c.count(watched)
		}
	}
	for _, c := range cables {
		<-c.done
	}
	perDay := 24 * float64(time.Hour) / float64(watched) / 1e6
	var rows [][]string
	for class := -1; class < len(classNames); class++ {
		var sent, received []float64
		for _, c := range cables {
			var out, in int64
			for i := range classNames {
				if class < 0 || i == class {
					out, in = out+c.sent[i].Load(), in+c.received[i].Load()
				}
			}
			sent, received = append(sent, float64(out)*perDay), append(received, float64(in)*perDay)
		}
		name := "all"
		if class >= 0 {
			name = classNames[class]
		}
		rows = append(rows, []string{name, spread(sent, "%.2f"), spread(received, "%.2f")})
	}
	table(strings.Join([]string{fmt.Sprintf("%d members that do not vote, mesh of %d", len(cables), memberMeshSize), "sent MB per day", "received MB per day"}, "|"), rows)
}

package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/node"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// keptPeers keeps WireGuard's peers reachable: their queues' finalizers must not run outside of the bubble.
var keptPeers struct {
	sync.Mutex
	all []*device.Peer
}

// Regression: whoever waited for its turn to ask for enrolment held up virtual time, and heard of the end of the attempt only once it had it.
func TestAWholeMeshRunsInVirtualTime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var network underlaytest.Network
		network.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond }})
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var nodes []*node.Node
		ended := make(chan error, 4)
		for i := range 4 {
			n := bubbleNode(t, network.Host(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})), filepath.Join(dir, fmt.Sprint(i)), i)
			go func() { ended <- n.Run(ctx) }()
			entry := localapi.Entry{New: "lab"}
			if i > 0 {
				invite, err := nodes[0].Invite(ctx, localapi.InviteRequest{})
				if err != nil {
					t.Fatal(err)
				}
				entry = localapi.Entry{Token: invite.Token}
			}
			if err := n.Enter(ctx, entry); err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, n)
		}
		time.Sleep(time.Minute)
		for i, n := range nodes {
			for j := range nodes {
				if i == j {
					continue
				}
				request := localapi.PingRequest{Node: fmt.Sprintf("n%d", j), Count: 1, Path: true}
				err := n.Ping(ctx, request, func(r localapi.PingReply) error {
					if r.Lost {
						t.Errorf("n%d does not reach n%d: %s", i, j, r.Error)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		}
		cancel()
		for range nodes {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute) // memberlist's probes end by themselves, after an interval stretched by its health
	})
}

func bubbleNode(t *testing.T, host *underlaytest.Host, state string, i int) *node.Node {
	t.Helper()
	return changedNode(t, host, state, i, slog.New(slog.DiscardHandler), nil)
}

// changedNode is a node with settings and a log of its own.
func changedNode(t *testing.T, host *underlaytest.Host, state string, i int, log *slog.Logger, change func(*config.Settings)) *node.Node {
	t.Helper()
	s := config.Defaults()
	s.State, s.Name = state, fmt.Sprintf("n%d", i)
	if change != nil {
		change(&s)
	}
	n, err := node.New(bubbleConfig(s, host, log))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// bubbleConfig is what a node in a bubble is made of.
func bubbleConfig(s config.Settings, host *underlaytest.Host, log *slog.Logger) node.Config {
	return node.Config{
		Settings: s, Bind: host, NoSync: true, Log: log,
		OpenInterface: func(spec node.InterfaceSpec) (dataplane.Interface, error) {
			return dataplane.OpenPipe(spec.Addresses, spec.MTU), nil
		},
		OnPeer: func(p *device.Peer) {
			keptPeers.Lock()
			defer keptPeers.Unlock()
			keptPeers.all = append(keptPeers.all, p)
		},
	}
}

// bubbleMesh is a mesh of which nodes stop and come back, at other places too. It belongs to the test's goroutine.
type bubbleMesh struct {
	t       *testing.T
	dir     string
	network underlaytest.Network
	running map[int]*bubbleRun
	logs    map[int]*bubbleLog
	dead    []*bubbleRun
}

// bubbleLog is what a node has logged, over all its runs.
type bubbleLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *bubbleLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *bubbleLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

type bubbleRun struct {
	node  *node.Node
	host  *underlaytest.Host
	stop  context.CancelFunc
	ended chan error
}

func newBubbleMesh(t *testing.T, dir string) *bubbleMesh {
	b := &bubbleMesh{t: t, dir: dir, running: map[int]*bubbleRun{}, logs: map[int]*bubbleLog{}}
	b.network.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond }})
	return b
}

// bubbleAddr is the address of node i at one of its places.
func bubbleAddr(i, place int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, byte(2 + place), byte(i + 1)})
}

// start runs node i at a place, from what it kept, and in the mesh that the entry leads to.
func (b *bubbleMesh) start(i, place int, e localapi.Entry, change func(*config.Settings)) *node.Node {
	b.t.Helper()
	return b.startAt(i, bubbleAddr(i, place), e, change)
}

// startAt is start at any address.
func (b *bubbleMesh) startAt(i int, addr netip.Addr, e localapi.Entry, change func(*config.Settings)) *node.Node {
	b.t.Helper()
	if b.logs[i] == nil {
		b.logs[i] = new(bubbleLog)
	}
	log := slog.New(slog.NewTextHandler(b.logs[i], &slog.HandlerOptions{Level: slog.LevelDebug}))
	host := b.network.Host(addr)
	n := changedNode(b.t, host, filepath.Join(b.dir, fmt.Sprint(i)), i, log, change)
	ctx, cancel := context.WithCancel(context.Background())
	run := &bubbleRun{node: n, host: host, stop: cancel, ended: make(chan error, 1)}
	b.running[i] = run
	go func() { run.ended <- n.Run(ctx) }()
	if err := n.Enter(b.t.Context(), e); err != nil {
		b.t.Fatalf("n%d: %v\n%s", i, err, b.logs[i])
	}
	return n
}

// join runs node i for the first time, invited by another.
func (b *bubbleMesh) join(i int, by *node.Node, change func(*config.Settings)) *node.Node {
	b.t.Helper()
	invite, err := by.Invite(b.t.Context(), localapi.InviteRequest{})
	if err != nil {
		b.t.Fatal(err)
	}
	return b.start(i, 0, localapi.Entry{Token: invite.Token}, change)
}

func (b *bubbleMesh) stop(i int) {
	b.t.Helper()
	b.running[i].stop()
	if err := <-b.running[i].ended; err != nil {
		b.t.Error(err)
	}
	delete(b.running, i)
}

// stopAll ends the mesh.
func (b *bubbleMesh) stopAll() {
	for i := range b.running {
		b.stop(i)
	}
	for _, run := range b.dead {
		run.stop()
		<-run.ended
	}
	time.Sleep(time.Minute) // memberlist's last probes end by themselves
}

// reaches reports whether node i gets an answer of node j through the overlay.
func (b *bubbleMesh) reaches(i, j int) (ok bool, why error) {
	why = b.running[i].node.Ping(b.t.Context(), localapi.PingRequest{Node: fmt.Sprintf("n%d", j), Count: 1, Path: true}, func(r localapi.PingReply) error {
		ok = !r.Lost
		return nil
	})
	return ok, why
}

// kill takes a node off the network without a word; it is ended with the mesh.
func (b *bubbleMesh) kill(i int) {
	b.t.Helper()
	b.running[i].host.Pause(false)
	b.dead = append(b.dead, b.running[i])
	delete(b.running, i)
}

// restart runs node i again, from what it kept, and returns how it ends; nobody waits until it is online.
func (b *bubbleMesh) restart(i int) chan error {
	b.t.Helper()
	host := b.network.Host(bubbleAddr(i, 0))
	n := changedNode(b.t, host, filepath.Join(b.dir, fmt.Sprint(i)), i, slog.New(slog.NewTextHandler(b.logs[i], nil)), nil)
	ctx, cancel := context.WithCancel(context.Background())
	run := &bubbleRun{node: n, host: host, stop: cancel, ended: make(chan error, 1)}
	b.dead = append(b.dead, run)
	go func() { run.ended <- n.Run(ctx) }()
	return run.ended
}

package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync/atomic"
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

// The founder is gone for good, the member that is sought has moved, and the one member that still knows where it went does not reach it any
// more, so that gossip has forgotten it. Who returns, itself with another address, finds it by the hash table and by nothing else: with --no-dht it does not.
func TestAMemberThatReturnsFindsWhoHasMovedByTheHashTable(t *testing.T) {
	if testing.Short() {
		t.Skip("an hour of virtual time")
	}
	for _, off := range []bool{false, true} {
		t.Run(fmt.Sprintf("off=%v", off), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { returns(t, dir, off) })
		})
	}
}

func returns(t *testing.T, dir string, off bool) {
	const founder, keeper, moved, back = 0, 1, 2, 3
	var network underlaytest.Network
	var apart atomic.Bool
	at := func(i, place int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(2 + place), byte(i + 1)}) }
	is := func(a netip.AddrPort, i int) bool { return a.Addr() == at(i, 0) || a.Addr() == at(i, 1) }
	cut := func(from, to netip.AddrPort) bool {
		return apart.Load() && (is(from, keeper) && is(to, moved) || is(from, moved) && is(to, keeper))
	}
	network.Set(underlaytest.Hooks{
		Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond },
		Drop:    func(from, to netip.AddrPort, _ []byte) bool { return cut(from, to) },
		Refuse:  cut,
	})
	stops, ended := map[int]context.CancelFunc{}, map[int]chan error{}
	start := func(i, place int) *node.Node {
		n := placedNode(t, network.Host(at(i, place)), filepath.Join(dir, fmt.Sprint(i)), i, off)
		ctx, cancel := context.WithCancel(context.Background())
		stops[i], ended[i] = cancel, make(chan error, 1)
		go func() { ended[i] <- n.Run(ctx) }()
		return n
	}
	stop := func(i int) {
		stops[i]()
		if err := <-ended[i]; err != nil {
			t.Error(err)
		}
		delete(stops, i)
	}
	first := start(founder, 0)
	if err := first.Enter(t.Context(), localapi.Entry{New: "lab"}); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{keeper, moved, back} {
		invite, err := first.Invite(t.Context(), localapi.InviteRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if err := start(i, 0).Enter(t.Context(), localapi.Entry{Token: invite.Token}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * time.Minute)
	stop(back)
	stop(moved)
	start(moved, 1)
	time.Sleep(10 * time.Minute) // it tells where it is now
	stop(founder)
	apart.Store(true)
	time.Sleep(30 * time.Minute)
	n := start(back, 1)
	time.Sleep(2 * time.Minute)
	reached := false
	err := n.Ping(t.Context(), localapi.PingRequest{Node: "n2", Count: 1, Path: true}, func(r localapi.PingReply) error {
		reached = !r.Lost
		return nil
	})
	if reached == off {
		t.Errorf("hash table off: %v, reached: %v (%v)", off, reached, err)
	}
	for i := range stops {
		stop(i)
	}
	time.Sleep(time.Minute) // memberlist's last probe ends by itself
}

func placedNode(t *testing.T, host *underlaytest.Host, state string, i int, noDHT bool) *node.Node {
	t.Helper()
	s := config.Defaults()
	s.State, s.Name, s.NoDHT = state, fmt.Sprintf("n%d", i), noDHT
	n, err := node.New(node.Config{
		Settings: s, Bind: host, NoSync: true, Log: slog.New(slog.DiscardHandler),
		OpenInterface: func(spec node.InterfaceSpec) (dataplane.Interface, error) {
			return dataplane.OpenPipe(spec.Addresses, spec.MTU), nil
		},
		OnPeer: func(p *device.Peer) {
			keptPeers.Lock()
			defer keptPeers.Unlock()
			keptPeers.all = append(keptPeers.all, p)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

package node_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/node"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// A mesh whose machines were all off for months: the coordinator renews itself, and a machine that was a plain member is taken in again with its
// own keys, under its name and address. One that was revoked before it could return is told so.
func TestMachinesThatWereOffForMonthsReturn(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var network underlaytest.Network
		network.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond }})
		start := func(i int, e localapi.Entry) (*node.Node, func() error) {
			ctx, cancel := context.WithCancel(context.Background())
			n := bubbleNode(t, network.Host(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})), filepath.Join(dir, fmt.Sprint(i)), i)
			ended := make(chan error, 1)
			go func() { ended <- n.Run(ctx) }()
			stop := func() error { cancel(); return <-ended }
			if !e.IsZero() {
				if err := n.Enter(ctx, e); err != nil {
					stop()
					t.Fatal(err)
				}
				return n, stop
			}
			select {
			case <-n.Ready():
			case err := <-ended:
				ended <- err
			}
			return n, stop
		}
		first, stopFirst := start(0, localapi.Entry{New: "lab"})
		invite, err := first.Invite(t.Context(), localapi.InviteRequest{Uses: 2})
		if err != nil {
			t.Fatal(err)
		}
		second, stopSecond := start(1, localapi.Entry{Token: invite.Token})
		before, _ := second.Status(t.Context())
		stopSecond() // before it could stand by
		_, stopThird := start(2, localapi.Entry{Token: invite.Token})
		stopThird()
		stopFirst()
		time.Sleep(100 * 24 * time.Hour)

		first, stopFirst = start(0, localapi.Entry{})
		second, stopSecond = start(1, localapi.Entry{})
		after, err := second.Status(t.Context())
		if err != nil || len(after.Self.Addresses) == 0 || after.Self.Addresses[0] != before.Self.Addresses[0] || after.Self.Name != before.Self.Name ||
			time.Until(*after.Self.Certificate.NotAfter) < 29*24*time.Hour {
			t.Errorf("it was %+v and is %+v: %v", before.Self, after.Self, err)
		}
		time.Sleep(10 * time.Second)
		err = second.Ping(t.Context(), localapi.PingRequest{Node: "n0", Count: 1, Path: true}, func(r localapi.PingReply) error {
			if r.Lost {
				t.Error("n1 does not reach n0:", r.Error)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		report, err := second.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Findings {
			if (f.Check == "certificate" || f.Check == "relays" || f.Check == "quorum") && !f.OK {
				t.Errorf("doctor finds %+v", f)
			}
		}
		if _, err := first.Revoke(t.Context(), localapi.RevokeRequest{Node: "n2", Reason: "sold"}); err != nil {
			t.Fatal(err)
		}
		_, stopThird = start(2, localapi.Entry{})
		if err := stopThird(); err == nil || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("a revoked machine hears %v", err)
		}
		stopSecond()
		stopFirst()
		time.Sleep(time.Minute) // memberlist's last probes end by themselves
	})
}

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/test/mesh"
)

const (
	// revokeLook is the time between two looks at a member whether its tunnel is closed, and so the error of the figure.
	revokeLook = 2 * time.Millisecond
	// revokePromise is what a revocation may take.
	revokePromise = 5 * time.Second
)

// revocation has machines join a mesh of five one after the other, each with a tunnel to all, and revokes them.
func revocation(t *session, o options) {
	l, nodes := mesh.Grow(t, meshSize)
	mesh.Everybody(t, settled, nodes...)
	token := nodes[0].Invite("--uses", strconv.Itoa(o.revokes)).Token
	var first, last, verb []float64
	for i := range o.revokes {
		host := l.Host(fmt.Sprintf("guest%d", i))
		t.step(func(t *session) {
			guest := mesh.New(t, l, host)
			t.must(guest.Do("join", append([]string{token}, guest.Flags...)...).Err())
			echo := guest.Echo()
			for _, n := range nodes {
				t.must(lab.Eventually(settled, func() error { return mesh.Reach(n, guest, echo) }))
			}
			id := guest.Status().Self.ID
			begin := time.Now()
			closed := make(chan time.Duration, len(nodes))
			for _, n := range nodes {
				go func() { closed <- tunnelCloses(n, id, begin) }()
			}
			t.must(nodes[i%len(nodes)].Do("revoke", id).Err())
			verb = append(verb, millis(time.Since(begin)))
			var shortest, longest time.Duration
			for range nodes {
				took := <-closed
				if shortest == 0 || took < shortest {
					shortest = took
				}
				longest = max(longest, took)
			}
			first, last = append(first, millis(shortest)), append(last, millis(longest))
			if longest >= revokePromise {
				t.Fatalf("a member still has a tunnel to %s, %v after it was revoked", guest.Name, longest)
			}
			guest.Do("down") // it has ended by itself, or is about to
		})
	}
	table("from starting `phantom revoke`, "+strconv.Itoa(o.revokes)+" times|ms", [][]string{
		{"to its end", spread(verb, "%.0f")},
		{"to the first member's tunnel closed", spread(first, "%.0f")},
		{"to the last member's tunnel closed", spread(last, "%.0f")},
	})
}

// tunnelCloses watches a member until it has no tunnel to a node, and returns when that was; at most twice the promise.
func tunnelCloses(n *mesh.Node, id string, begin time.Time) time.Duration {
	client := api.NewClient(filepath.Join(n.State, "phantom.sock"))
	for time.Since(begin) < 2*revokePromise {
		ctx, cancel := context.WithTimeout(context.Background(), revokePromise)
		s, err := client.Status(ctx)
		cancel()
		if err == nil && !hasTunnel(s, id) {
			break
		}
		time.Sleep(revokeLook)
	}
	return time.Since(begin)
}

func hasTunnel(s *api.Status, id string) bool {
	for _, p := range s.Peers {
		if p.ID == id {
			return p.Tunnel.State == localapi.TunnelUp
		}
	}
	return false
}

package sim

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

const (
	// revokePromise is how long a revocation may take to reach all members that can be reached.
	revokePromise = 5 * time.Second
	// revokeLook is the time between two looks, and so the error of the figures.
	revokeLook = 10 * time.Millisecond
)

// REVOKE_NODES=100 go test ./sim -run TestARevocationReachesAllMembers -v prints the row of docs/performance.md. Any two machines are a round trip of
// 40 ms apart.
func TestARevocationReachesAllMembers(t *testing.T) {
	if testing.Short() {
		t.Skip("whole nodes in virtual time")
	}
	nodes := 6
	if n, err := strconv.Atoi(os.Getenv("REVOKE_NODES")); err == nil {
		nodes = n
	}
	var took []time.Duration // until a member has dropped who was revoked
	tunnels := 0
	err := Bubble(context.Background(), Config{Seed: 1, Dir: t.TempDir()}, func(w *World) error {
		hosts, err := mesh(w, nodes)
		if err != nil {
			return err
		}
		gone, rest := hosts[nodes-1], hosts[:nodes-1]
		id := gone.ID()
		if ok, err := w.Await(time.Minute, time.Second, func() bool { return count(rest, id, known) == len(rest) }); !ok {
			return fmt.Errorf("%d of %d members know of the last one: %w", count(rest, id, known), len(rest), err)
		}
		for _, h := range rest {
			if _, err := w.Ping(h, gone, 5*time.Second); err != nil {
				return fmt.Errorf("%s does not reach %s: %w", h.name, gone.name, err)
			}
		}
		tunnels = count(rest, id, hasTunnel)
		begin := w.Now()
		if _, err := rest[1].Node().Revoke(context.Background(), localapi.RevokeRequest{Node: id}); err != nil {
			return err
		}
		left := slices.Clone(rest)
		_, err = w.Await(2*revokePromise, revokeLook, func() bool {
			left = slices.DeleteFunc(left, func(h *Host) bool {
				out := !peerOf(h, id, known)
				if out {
					took = append(took, w.Now()-begin)
				}
				return out
			})
			return len(left) == 0
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(took) < nodes-1 || took[len(took)-1] > revokePromise {
		t.Fatalf("%d of %d members dropped it, within %v", len(took), nodes-1, took)
	}
	t.Logf("| %d | %d | %v | %v |", nodes, tunnels, took[len(took)/2], took[len(took)-1])
}

func known(*localapi.Peer) bool       { return true }
func hasTunnel(p *localapi.Peer) bool { return p.Tunnel.State == localapi.TunnelUp }

func count(hosts []*Host, id string, is func(*localapi.Peer) bool) (n int) {
	for _, h := range hosts {
		if peerOf(h, id, is) {
			n++
		}
	}
	return n
}

// peerOf reports whether a node knows of another, and it is so.
func peerOf(h *Host, id string, is func(*localapi.Peer) bool) bool {
	s, err := h.Node().Status(context.Background())
	if err != nil {
		return false
	}
	i := slices.IndexFunc(s.Peers, func(p localapi.Peer) bool { return p.ID == id })
	return i >= 0 && is(&s.Peers[i])
}

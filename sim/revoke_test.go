package sim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

const (
	// revokePromise is how long a revocation may take to reach all members that can be reached.
	revokePromise = 5 * time.Second
	// revokeLook is the time between two looks, and so the error of the figures.
	revokeLook = 10 * time.Millisecond
	// revokePings is how many make a tunnel to the one machine at the same time.
	revokePings = 16
	// revokeTries is how often it is tried: who has come back seconds ago may not know yet where a member of another region is.
	revokeTries = 6
)

// REVOKE_NODES=100 go test ./sim -run TestARevocationReachesAllMembers -v prints the row of docs/performance.md. The members have come back within seconds of
// each other and made a tunnel each to one of them, which is revoked then: large meshes do not all know yet by then who else is there.
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
		p := &play{world: w, scenario: formedScenario(nodes), topology: newTopology(), load: newLoad(), recorder: recorder{stride: 1}}
		p.lay()
		begun := wallSeconds()
		hosts := w.hosts
		if err := hosts[0].Start(); err != nil {
			return err
		}
		if err := hosts[0].Enter(context.Background(), localapi.Entry{New: "sim"}); err != nil {
			return err
		}
		if err := p.startReturning(hosts[1:]); err != nil {
			return err
		}
		if ok, err := w.Await(time.Minute, time.Second, func() bool { return !slices.ContainsFunc(hosts, offline) }); !ok {
			return fmt.Errorf("a minute after their start not all are in the mesh: %w", err)
		}
		t.Logf("all are in the mesh at %v, %.0f s of wall time", w.Now(), wallSeconds()-begun)
		gone, rest := hosts[nodes-1], hosts[:nodes-1]
		id := gone.ID()
		for some := range slices.Chunk(rest, revokePings) {
			if err := reachAll(w, some, gone); err != nil {
				return err
			}
		}
		t.Logf("tunnels at %v, %.0f s of wall time", w.Now(), wallSeconds()-begun)
		tunnels = count(rest, id, hasTunnel)
		begin := w.Now()
		if _, err := rest[1].Node().Revoke(context.Background(), localapi.RevokeRequest{Node: id}); err != nil {
			return err
		}
		left := slices.Clone(rest)
		_, err := w.Await(2*revokePromise, revokeLook, func() bool {
			left = slices.DeleteFunc(left, func(h *Host) bool {
				out := expelled(h, gone.Node().ID())
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

// offline reports whether a node is not in its mesh (yet).
func offline(h *Host) bool {
	_, ok := h.Node().Parts()
	return !ok
}

// expelled reports whether a node takes another for a member no more. Its tunnel is closed in the same breath.
func expelled(h *Host, gone identity.NodeID) bool {
	parts, ok := h.Node().Parts()
	if !ok {
		return false
	}
	e, ok := parts.Peers.Get(gone)
	return ok && e.Revoked
}

// reachAll has each of some reach another, all at once, and those that did not once more.
func reachAll(w *World, some []*Host, to *Host) error {
	var errs []error
	for range revokeTries {
		failed := make(chan error, len(some))
		var mu sync.Mutex
		var again []*Host
		for _, h := range some {
			go func() {
				_, err := w.Ping(h, to, 5*time.Second)
				if err != nil {
					err = fmt.Errorf("%s does not reach %s: %w", h.name, to.name, err)
					mu.Lock()
					again = append(again, h)
					mu.Unlock()
				}
				failed <- err
			}()
		}
		errs = nil
		for range some {
			errs = append(errs, <-failed)
		}
		if some = again; len(some) == 0 {
			return nil
		}
	}
	return errors.Join(errs...)
}

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

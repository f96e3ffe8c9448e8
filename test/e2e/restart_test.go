package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// All nodes are restarted in good order, one after the other, as an upgrade does it: who is not restarted sees nothing of it, what was decided in
// between is kept, and the log of decisions is whole at everybody, the member without a vote included.
func TestARollingRestartOfAllNodesUnderTraffic(t *testing.T) {
	need(t)
	_, nodes := mesh.Grow(t, 6)
	mesh.Everybody(t, settled, nodes...)
	mesh.Voters(t, nodes[0], 5, settled)
	echoes := make([]uint16, len(nodes))
	for i, n := range nodes {
		echoes[i] = n.Echo()
	}
	var invited []string
	for i, n := range nodes {
		var streams []*mesh.Steady
		others := slices.Delete(slices.Clone(nodes), i, i+1)
		for j, from := range others {
			k := (j + 1) % len(others)
			to := others[k]
			streams = append(streams, from.Steady(netip.AddrPortFrom(to.Addresses()[j%2], echoes[slices.Index(nodes, to)])))
		}
		n.Must("down")
		if code := n.Process.Wait(10 * time.Second); code != 0 {
			t.Errorf("%s ended with code %d", n.Name, code)
		}
		invited = append(invited, others[0].Invite().ID) // nobody waits for another leader: it has handed over
		n.Start()
		n.Online(settled)
		mesh.Everybody(t, settled, nodes...)
		for _, s := range streams {
			if err := s.Stop(pauseMax); err != nil {
				t.Errorf("while %s was restarted: %v", n.Name, err)
			}
		}
	}
	var list struct{ Invitations []struct{ ID string } }
	nodes[0].Get(&list, "invitations")
	for _, id := range invited {
		if !slices.ContainsFunc(list.Invitations, func(i struct{ ID string }) bool { return i.ID == id }) {
			t.Errorf("invitation %s is lost", id)
		}
	}
	for _, n := range nodes {
		// Who went down gave its vote away, and the group grows again for some seconds after the last has come back.
		err := lab.Eventually(settled, func() error {
			var log struct {
				Verified  bool
				Witnesses []struct{ Says string }
			}
			n.Get(&log, "audit", "--verify")
			if !log.Verified || len(log.Witnesses) < 3 {
				return fmt.Errorf("%s: the log of decisions is verified: %v, by %v", n.Name, log.Verified, log.Witnesses)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

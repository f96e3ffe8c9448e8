package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

func TestDecisionsOnMembersReachEverybodyAndAreInTheAuditLog(t *testing.T) {
	t.Parallel()
	need(t)
	_, nodes := mesh.Grow(t, 4)
	mesh.Voters(t, nodes[0], 3, settled)
	nodes[3].Must("tag", nodes[1].Name, "server", "backup")
	nodes[1].Must("rename", nodes[2].Name, "attic")
	for _, n := range nodes {
		err := lab.Eventually(settled, func() error {
			var l struct {
				Members []struct {
					Name string
					Tags []string
				}
			}
			n.Get(&l, "members")
			tagged, renamed := false, false
			for _, m := range l.Members {
				tagged = tagged || m.Name == nodes[1].Name && slices.Equal(m.Tags, []string{"backup", "server"})
				renamed = renamed || m.Name == "attic"
			}
			if !tagged || !renamed {
				return fmt.Errorf("%s knows of %+v", n.Name, l.Members)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		err = lab.Eventually(settled, func() error { // a coordinator may be an entry ahead for a moment
			var a struct {
				Verified  bool
				Entries   []struct{ Action, Subject string }
				Witnesses []struct{ Name, Says string }
			}
			n.Get(&a, "audit", "--verify")
			agree := 0
			for _, w := range a.Witnesses {
				if w.Says == "agrees" {
					agree++
				}
			}
			if !a.Verified || agree != 3 || len(a.Entries) < 5 {
				return fmt.Errorf("%s: verified %t, %d entries, witnesses %+v", n.Name, a.Verified, len(a.Entries), a.Witnesses)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

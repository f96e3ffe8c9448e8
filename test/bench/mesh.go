package main

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

const (
	// settled bounds waiting for votes to grow or for everybody to be alive.
	settled = 60 * time.Second
	// meshSize is the mesh of the promises on idleness and failover.
	meshSize = 5
)

// join measures machines that have the binary and a token and nothing else.
func join(t *session, o options) {
	l, nodes := mesh.Grow(t, 3)
	token := nodes[0].Invite("--uses", strconv.Itoa(o.joins)).Token
	to := nodes[0].Addresses()[0]
	var verb, total []float64
	for i := range o.joins {
		host := l.Host(fmt.Sprintf("fresh%d", i))
		t.step(func(t *session) {
			n := mesh.New(t, l, host)
			begin := time.Now()
			t.must(n.Do("join", append([]string{token}, n.Flags...)...).Err())
			verb = append(verb, millis(time.Since(begin)))
			t.must(host.Ping(to, settled))
			total = append(total, millis(time.Since(begin)))
			t.must(n.Do("down").Err())
		})
	}
	table("from starting `phantom join` on a fresh machine|ms", [][]string{
		{"to its end", spread(verb, "%.0f")},
		{"to the first ping reply", spread(total, "%.0f")},
	})
}

// failover kills the leader, again and again, of a mesh that grew its voters by itself.
func failover(t *session, o options) {
	_, nodes := mesh.Grow(t, meshSize)
	mesh.Everybody(t, settled, nodes...)
	var elected, decided []float64
	for range o.kills {
		mesh.Voters(t, nodes[0], meshSize, settled)
		leader := mesh.Leader(t, nodes[0], nodes)
		old := leader.Status().Self.ID
		other := nodes[(slices.Index(nodes, leader)+1)%len(nodes)]
		begin := time.Now()
		leader.Kill()
		t.must(lab.Eventually(settled, func() error {
			c := other.Status().Coordinators
			if c.Quorum && c.Leader != "" && c.Leader != old {
				return nil
			}
			return fmt.Errorf("no new leader: %+v", c)
		}))
		elected = append(elected, millis(time.Since(begin)))
		t.must(lab.Eventually(settled, func() error { return other.Do("invite", "--json").Err() }))
		decided = append(decided, millis(time.Since(begin)))
		leader.Start()
		mesh.Everybody(t, settled, nodes...)
	}
	table("from kill -9 of the leader|ms", [][]string{
		{"to another leader", spread(elected, "%.0f")},
		{"to the next decision (an invitation) taken", spread(decided, "%.0f")},
	})
}

// succession kills the coordinator of a region, again and again; when it leads as well, both must be replaced.
func succession(t *session, o options) {
	_, nodes := mesh.Grow(t, meshSize)
	mesh.Everybody(t, settled, nodes...)
	var alone, leading []float64
	for range o.kills {
		mesh.Voters(t, nodes[0], meshSize, settled)
		leader := mesh.Leader(t, nodes[0], nodes)
		i := slices.IndexFunc(nodes, func(n *mesh.Node) bool { return n.Status().Self.ID == coordinatorOf(nodes[0]) })
		dead, other := nodes[i], nodes[(i+1)%len(nodes)]
		old := dead.Status().Self.ID
		begin := time.Now()
		dead.Kill()
		t.must(lab.Eventually(settled, func() error {
			if id := coordinatorOf(other); id == "" || id == old {
				return fmt.Errorf("no new coordinator: %+v", other.Status().Coordinators)
			}
			return nil
		}))
		took := millis(time.Since(begin))
		if dead == leader {
			leading = append(leading, took)
		} else {
			alone = append(alone, took)
		}
		dead.Start()
		mesh.Everybody(t, settled, nodes...)
	}
	var rows [][]string
	if len(alone) > 0 {
		rows = append(rows, []string{fmt.Sprintf("that does not lead, %d kills", len(alone)), spread(alone, "%.0f")})
	}
	if len(leading) > 0 {
		rows = append(rows, []string{fmt.Sprintf("that leads, %d kills", len(leading)), spread(leading, "%.0f")})
	}
	table("from kill -9 of a region's coordinator to another|ms", rows)
}

// coordinatorOf returns who coordinates the only region, as a node sees it.
func coordinatorOf(asked *mesh.Node) string {
	for _, r := range asked.Status().Coordinators.Regions {
		return r.Coordinator
	}
	return ""
}

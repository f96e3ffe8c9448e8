package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

// filterRules is the size of the policy that throughput is measured under.
const filterRules = 1000

// filter alternates runs through one tunnel without a policy and with one of 1,000 rules, all of them between these two nodes.
func filter(t *session, o options) {
	l, nodes := mesh.Grow(t, 2)
	a, b := nodes[0], nodes[1]
	var text strings.Builder
	text.WriteString("rules:\n  - {from: '*', to: '*', allow: [tcp/5201, icmp]}\n") // iperf3's port
	for i := range filterRules - 1 {
		fmt.Fprintf(&text, "  - {from: ['*', tag:t%d], to: ['*'], allow: [tcp/%d, udp/%d]}\n", i, 20_000+2*i, 20_000+2*i) // ranges that do not join
	}
	file := filepath.Join(l.Dir(), "policy.yaml")
	t.must(os.WriteFile(file, []byte(text.String()), 0o600))
	server := b.Host.Start("iperf3", "-s", "--forceflush")
	server.WaitOutput("listening", ready)
	run := func(name string) *tunnel {
		return &tunnel{name: name, to: b.Addresses()[0], pids: [2]int{a.Process.PID(), b.Process.PID()}, client: a.Host, gbit: map[int][]float64{}, cpu: map[int][]float64{}}
	}
	off, on := run("no policy"), run(strconv.Itoa(filterRules)+" rules")
	switchTo := func(c *tunnel) {
		if c == on {
			a.Must("policy", "set", file)
		} else {
			a.Must("policy", "rollback", "0")
		}
		for _, n := range nodes {
			t.must(lab.Eventually(settled, func() error {
				var p struct {
					Filter struct {
						InForce bool `json:"in_force"`
					}
				}
				if n.Get(&p, "policy", "show"); p.Filter.InForce != (c == on) {
					return fmt.Errorf("the filter of %s is not switched", n.Name)
				}
				return nil
			}))
		}
	}
	switchTo(on)
	on.iperf(t, 1, 1) // warm up, and a look whether the policy lets iperf3 pass
	clear(on.gbit)
	clear(on.cpu)
	streams := []int{1, 4}
	for _, n := range streams {
		for i := range o.pairs {
			for j := range 2 { // who goes first alternates as well
				c := []*tunnel{off, on}[(i+j)%2]
				switchTo(c)
				c.iperf(t, n, o.seconds)
			}
		}
	}
	var rows [][]string
	for _, n := range streams {
		rows = append(rows, []string{off.name, strconv.Itoa(n), spread(off.gbit[n], "%.2f"), "", spread(off.cpu[n], "%.2f")},
			[]string{on.name, strconv.Itoa(n), spread(on.gbit[n], "%.2f"), spread(ratios(on.gbit[n], off.gbit[n]), "%.2f"), spread(on.cpu[n], "%.2f")})
	}
	table("filter|streams|Gbit/s|ratio to no policy|CPU s per GB, both ends", rows)
}

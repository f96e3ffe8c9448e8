package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/phantommesh/phantommesh/internal/lab"
)

// options are the command line.
type options struct {
	only    string
	pairs   int // throughput: alternating pairs
	seconds int // throughput: of one iperf3 run
	joins   int // join: fresh nodes
	kills   int // failover: leaders killed
	revokes int // revocation: members revoked
}

// measurement is one section of the report.
type measurement struct {
	name  string
	needs []string // programs; nil: not even root
	run   func(t *session, o options)
}

var measurements = []measurement{
	{"micro", nil, micro},
	{"throughput", []string{"iperf3", lab.TUN}, throughput},
	{"filter", []string{"iperf3", lab.TUN}, filter},
	{"join", []string{"ping", lab.TUN}, join},
	{"idle", []string{"ping", lab.TUN}, idle},
	{"member", []string{lab.TUN}, member},
	{"exchange", []string{"ping", lab.TUN}, exchangeCost},
	{"failover", []string{lab.TUN}, failover},
	{"succession", []string{lab.TUN}, succession},
	{"revocation", []string{"ping", lab.TUN}, revocation},
}

func main() {
	var o options
	flag.StringVar(&o.only, "only", "", "comma-separated sections (all if empty)")
	flag.IntVar(&o.pairs, "pairs", 5, "alternating pairs of throughput runs")
	flag.IntVar(&o.seconds, "seconds", 5, "seconds of one throughput run")
	flag.IntVar(&o.joins, "joins", 11, "fresh nodes that join")
	flag.IntVar(&o.kills, "kills", 5, "leaders, and coordinators of regions, killed")
	flag.IntVar(&o.revokes, "revokes", 10, "members revoked")
	flag.Parse()
	fmt.Printf("%s/%s, %d CPUs, %s\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	failed := false
	for _, m := range measurements {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), m.name) {
			continue
		}
		fmt.Printf("\n## %s\n\n", m.name)
		failed = !measure(m, o) || failed
	}
	if failed {
		os.Exit(1)
	}
}

// measure runs one section in a session of its own and reports whether it did not fail.
func measure(m measurement, o options) (ok bool) {
	t := &session{}
	defer func() {
		s, stopped := recover().(lab.Stop)
		ok = !stopped || s.Skipped
		t.End(!ok)
		switch {
		case stopped && s.Skipped:
			fmt.Println("skipped:", s.Why)
		case stopped:
			fmt.Println("failed:", s.Why)
		}
	}()
	if m.needs != nil {
		lab.Need(t, m.needs...)
	}
	m.run(t, o)
	return true
}

// session is a lab.T outside a test.
type session struct{ lab.Session }

// step runs f as a session inside this one: what it registers is cleaned up when it returns.
func (t *session) step(f func(t *session)) {
	inner := &session{}
	defer func() { inner.End(t.Failed()) }()
	f(inner)
}

func (t *session) must(err error) {
	if err != nil {
		t.Fatalf("%v", err)
	}
}

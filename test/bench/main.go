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
	{"join", []string{"ping", lab.TUN}, join},
	{"idle", []string{"ping", lab.TUN}, idle},
	{"exchange", []string{"ping", lab.TUN}, exchangeCost},
	{"failover", []string{lab.TUN}, failover},
}

func main() {
	var o options
	flag.StringVar(&o.only, "only", "", "comma-separated sections (all if empty)")
	flag.IntVar(&o.pairs, "pairs", 5, "alternating pairs of throughput runs")
	flag.IntVar(&o.seconds, "seconds", 5, "seconds of one throughput run")
	flag.IntVar(&o.joins, "joins", 11, "fresh nodes that join")
	flag.IntVar(&o.kills, "kills", 5, "leaders killed")
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

// stop is what ends a section early.
type stop struct {
	skipped bool
	why     string
}

// measure runs one section in a session of its own and reports whether it did not fail.
func measure(m measurement, o options) (ok bool) {
	t := &session{}
	defer func() {
		s, stopped := recover().(stop)
		t.failed = stopped && !s.skipped
		t.end()
		switch {
		case stopped && s.skipped:
			fmt.Println("skipped:", s.why)
		case stopped:
			fmt.Println("failed:", s.why)
		}
		ok = !t.failed
	}()
	if m.needs != nil {
		lab.Need(t, m.needs...)
	}
	m.run(t, o)
	return true
}

// session is a lab.T outside a test.
type session struct {
	cleanups []func()
	failed   bool
}

func (t *session) Helper()                        {}
func (t *session) Failed() bool                   { return t.failed }
func (t *session) Cleanup(f func())               { t.cleanups = append(t.cleanups, f) }
func (t *session) Logf(format string, a ...any)   { fmt.Fprintf(os.Stderr, format+"\n", a...) }
func (t *session) Fatalf(format string, a ...any) { panic(stop{why: fmt.Sprintf(format, a...)}) }
func (t *session) Skipf(format string, a ...any) {
	panic(stop{skipped: true, why: fmt.Sprintf(format, a...)})
}

// TempDir is removed at the session's end, after the lab in it.
func (t *session) TempDir() string {
	dir, err := os.MkdirTemp("", "phantom-bench-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (t *session) end() {
	for _, f := range slices.Backward(t.cleanups) {
		f()
	}
	t.cleanups = nil
}

// step runs f as a session inside this one: what it registers is cleaned up when it returns.
func (t *session) step(f func(t *session)) {
	inner := &session{}
	defer func() {
		inner.failed = t.failed
		inner.end()
	}()
	f(inner)
}

func (t *session) must(err error) {
	if err != nil {
		t.Fatalf("%v", err)
	}
}

package report

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/phantommesh/phantommesh/sim"
)

const hostile = `</script><script>alert("x")</script>`

// made is a run as it might be, with names that try to be markup.
func made() *sim.Result {
	r := &sim.Result{
		Scenario: "home-lab", Proves: "it works " + hostile, Seed: 7, Nodes: 3, VirtualSeconds: 600, WallSeconds: 2.5, Replay: "phantom sim run home-lab --seed 7",
		Figures: map[string]float64{"requests": 1000, "request_p50_ms": 12.5, "request_p99_ms": 80, "request_p999_ms": 310, "request_max_ms": 400,
			"failovers": 1, "failover_p50_ms": 640, "failover_max_ms": 640, "converged_p50_s": 0.5, "converged_max_s": 10},
		Violations:   []sim.Violation{{Checker: "reachable", At: 5 * time.Minute, Text: hostile, Before: []sim.Event{{Text: hostile}}}},
		Expectations: []sim.Expectation{{Name: "p99", Says: "99 of 100", Want: "at most 50ms", Found: "80ms"}, {Name: "failover", Says: "failover", Want: "at most 2s", Met: true}},
		Events:       []sim.Event{{At: time.Minute, Host: "n1", Kind: "log", Text: hostile}},
	}
	rec := &sim.Recording{Formed: 3 * time.Second, Healed: 590 * time.Second, Spans: []sim.Span{{Kind: "kill", Who: hostile, From: time.Minute, To: 2 * time.Minute}}}
	for _, name := range []string{"n1", "n2", "n3"} {
		rec.Machines = append(rec.Machines, sim.Machine{Name: name, Region: "home" + hostile, NAT: "none"})
	}
	for at := 10 * time.Second; at <= 600*time.Second; at += 10 * time.Second {
		rec.Samples = append(rec.Samples, sim.Sample{At: at, States: "lm.", Paths: "d..", Up: 2, Direct: 2, Users: 10, Requests: 100, Errors: 1,
			P50: 12 * time.Millisecond, P99: 80 * time.Millisecond, P999: 300 * time.Millisecond, Bytes: 1e6, Packets: 1000})
	}
	r.Recording = rec
	return r
}

func write(t *testing.T, r *sim.Result) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// count counts the elements of a page by name, and fails on what no browser would have to guess at.
func count(t *testing.T, page string) map[string]int {
	t.Helper()
	out := map[string]int{}
	var open []string
	void := map[string]bool{"meta": true, "link": true, "input": true, "br": true}
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) {
				t.Fatal(z.Err())
			}
			if len(open) > 0 {
				t.Fatalf("not closed: %v", open)
			}
			return out
		case html.StartTagToken:
			name := z.Token().Data
			out[name]++
			if !void[name] {
				open = append(open, name)
			}
		case html.SelfClosingTagToken:
			out[z.Token().Data]++
		case html.EndTagToken:
			name := z.Token().Data
			if len(open) == 0 || open[len(open)-1] != name {
				t.Fatalf("</%s> while open: %v", name, open)
			}
			open = open[:len(open)-1]
		}
	}
}

func TestAReportShowsTheRun(t *testing.T) {
	page := write(t, made())
	n := count(t, page)
	if n["svg"] < 6 || n["circle"] != 3 || n["path"] < 5 {
		t.Errorf("elements: %v", n)
	}
	for _, want := range []string{"home-lab", "failed: 1 promises broken", "12.5ms", "80ms", "310ms", "640ms", "P99.9", "phantom sim run home-lab --seed 7",
		"nothing to measure", "10s", "kill"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not on the page", want)
		}
	}
}

func TestAReportLoadsNothingAndRunsNothingOfAScenario(t *testing.T) {
	page := write(t, made())
	if n := count(t, page); n["script"] != 1 {
		t.Errorf("%d scripts", n["script"])
	}
	for _, never := range []string{"<script>alert", "src=", "http://", "https://", "@import", "url("} {
		rest := strings.ReplaceAll(page, `"http://www.w3.org/2000/svg"`, "")
		if strings.Contains(rest, never) {
			t.Errorf("the page has %s", never)
		}
	}
}

func TestARunThatEndedEarlyHasAReport(t *testing.T) {
	count(t, write(t, &sim.Result{Scenario: "x"}))
	count(t, write(t, &sim.Result{Scenario: "x", Recording: &sim.Recording{Machines: []sim.Machine{{Name: "n1"}}, Samples: []sim.Sample{{At: 1}}}}))
}

func TestTheMarksOfAnAxisAreRound(t *testing.T) {
	for most, want := range map[float64]float64{1: 1, 3.2: 4, 97: 100, 100: 100, 101: 150, 0.04: 0.04, 1e6: 1e6} {
		ticks, top := round(most)
		if math.Abs(top-want) > want/1e9 || len(ticks) < 3 || len(ticks) > 8 {
			t.Errorf("%v: %v", most, ticks)
		}
	}
}

func TestOldLogLinesGiveWayToFaults(t *testing.T) {
	all := []sim.Event{{Kind: "kill", Text: "first"}}
	for range 2 * eventsMax {
		all = append(all, sim.Event{Kind: "log"})
	}
	rows, left := events(all)
	if len(rows) != eventsMax || left != eventsMax+1 || rows[0].Text != "first" {
		t.Errorf("%d rows, %d left, first %q", len(rows), left, rows[0].Text)
	}
}

// A short real run, with users.
func TestAPlayedScenarioHasWhatItsReportNeeds(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of virtual time")
	}
	s, err := sim.Parse("ramp.yaml", []byte(`name: ramp
proves: users are served while the leader is lost
for: 3m
regions: [{name: home, nodes: 4, latency: 2ms}, {name: away, nodes: 1, nat: hard}]
load: {every: 10s, users: 0 -> 40, over: 1m, think: 2s, response: 5kB}
timeline: [{at: 90s, kill: leader, for: 20s}]
expect: {p50: 200ms, p99: 2s, errors: 20%, failover: 30s, converged: 2m, bytes_per_node_hour: 1GB}
`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := sim.Play(context.Background(), sim.Config{Seed: 1, Dir: t.TempDir()}, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.Violations {
		t.Errorf("%s: %s", v.Checker, v.Text)
	}
	// Forty people who ask every two seconds, less in the first minute.
	if n := r.Figures["requests"]; n < 1500 || n > 4500 {
		t.Errorf("%v requests", n)
	}
	if r.Figures["failovers"] != 1 || r.Figures["request_p50_ms"] < 4 || r.Figures["converged_max_s"] == 0 {
		t.Errorf("%v", r.Figures)
	}
	for _, e := range r.Expectations {
		if e.Found == "" {
			t.Errorf("not measured: %+v", e)
		}
	}
	last := r.Recording.Samples[len(r.Recording.Samples)-1]
	if last.Up != 5 || len(last.States) != 5 || len(last.Paths) != 10 || !strings.Contains(last.States, "l") || last.Direct == 0 {
		t.Errorf("%+v", last)
	}
	count(t, write(t, r))
}

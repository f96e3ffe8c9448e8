package sim

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestFiguresAreHeldAgainstWhatTheScenarioExpects(t *testing.T) {
	text := strings.Replace(soundScenario, "load: {every: 5s}", "load: {every: 5s, users: 5}", 1)
	text = strings.Replace(text, "answered: 50%", "answered: 50%, p99: 200ms, errors: 1%, failover: 2s, converged: 30s, bytes_per_node_hour: 5MB", 1)
	s, err := Parse("small.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]float64{"requests": 10, "pings_answered": 0.6, "request_p99_ms": 200, "request_errors_share": 0.01, "failover_max_ms": 1999,
		"converged_max_s": 30, "bytes_per_node_hour": 5e6}
	for name, c := range map[string]struct {
		change func(map[string]float64)
		broken string
	}{
		"all within":         {func(map[string]float64) {}, ""},
		"few pings answered": {func(f map[string]float64) { f["pings_answered"] = 0.49 }, "answered"},
		"slow":               {func(f map[string]float64) { f["request_p99_ms"] = 201 }, "p99"},
		"errors":             {func(f map[string]float64) { f["request_errors_share"] = 0.011 }, "errors"},
		"no leader for long": {func(f map[string]float64) { f["failover_max_ms"] = 2001 }, "failover"},
		"not converged":      {func(f map[string]float64) { f["converged_max_s"] = 31 }, "converged"},
		"chatty":             {func(f map[string]float64) { f["bytes_per_node_hour"] = 6e6 }, "bytes_per_node_hour"},
		"nobody was killed":  {func(f map[string]float64) { delete(f, "failover_max_ms") }, ""},
		"no response at all": {func(f map[string]float64) { delete(f, "request_p99_ms") }, "p99"},
		"no request at all":  {func(f map[string]float64) { delete(f, "requests"); delete(f, "request_p99_ms") }, "p99"},
	} {
		figures := map[string]float64{}
		for k, v := range good {
			figures[k] = v
		}
		c.change(figures)
		var broken []string
		for _, e := range s.expectations(figures) {
			if !e.Met {
				broken = append(broken, e.Name)
			}
			if e.Says == "" || e.Want == "" {
				t.Errorf("%s: %+v", name, e)
			}
		}
		if strings.Join(broken, " ") != c.broken {
			t.Errorf("%s: broken: %q, want %q", name, broken, c.broken)
		}
	}
}

func TestFiguresAreShownToPeople(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.01005: "0.01005", 12.3456: "12.35", 9999: "9999", 10_000: "10,000", 356_040_123.7: "356,040,124", -1e6: "-1,000,000", 999_999: "999,999"} {
		if got := FigureText(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

// A mesh that grew from the first day to the last is seen, whatever it did between; one day says nothing.
func TestGrowthIsTheLastDayAgainstTheFirst(t *testing.T) {
	g := growth{days: []dayFigures{{memory: 100e6, routines: 200, traffic: 5e6}}}
	f := map[string]float64{}
	if g.figures(f); len(f) > 0 {
		t.Error(f)
	}
	g.days = append(g.days, dayFigures{memory: 500e6, routines: 900, traffic: 1}, dayFigures{memory: 120e6, routines: 200, traffic: 4e6})
	g.figures(f)
	for name, want := range map[string]float64{"memory_growth_share": 0.2, "routine_growth_share": 0, "traffic_growth_share": -0.2} {
		if got := f[name]; math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	text := strings.Replace(soundScenario, "answered: 50%", "answered: 50%, memory_growth: 15%, routine_growth: 10%, traffic_growth: 10%", 1)
	s, err := Parse("small.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var broken []string
	for _, e := range s.expectations(f) {
		if !e.Met {
			broken = append(broken, e.Name)
		}
	}
	if strings.Join(broken, " ") != "memory_growth" {
		t.Errorf("broken: %s", broken)
	}
}

func TestWhatHasNotConvergedCountsAsLongAsItTakes(t *testing.T) {
	m := measures{converged: []time.Duration{time.Second}, converging: true, changed: time.Minute, failovers: []time.Duration{3 * time.Second, time.Second}}
	f := map[string]float64{}
	m.figures(3*time.Minute, f)
	if f["converged_max_s"] != 120 || f["failovers"] != 2 || f["failover_max_ms"] != 3000 {
		t.Error(f)
	}
}

func TestAMessageInPartsIsWholeOnceAllAreThere(t *testing.T) {
	a, b := netip.MustParseAddr("10.86.0.1"), netip.MustParseAddr("10.86.0.2")
	mark := marker(1)
	for size, want := range map[int]int{1: 1, partMax: 1, partMax + 1: 2, messageMax: (messageMax + partMax - 1) / partMax} {
		packets := part{kind: kindRequest, id: 7, size: size, want: 9}.packets(a, b, mark)
		if len(packets) != want {
			t.Fatalf("%d bytes: %d packets, want %d", size, len(packets), want)
		}
		whole := assembly{have: map[int]bool{}}
		for i := range packets {
			p, src, dst, ok := parsePart(packets[len(packets)-1-i]) // out of order
			if !ok || src != a || dst != b || p.id != 7 || p.size != size || p.want != 9 {
				t.Fatalf("%d bytes: %+v %s %s %v", size, p, src, dst, ok)
			}
			for range 2 { // each may come twice
				if whole.add(p) != (i == len(packets)-1) {
					t.Fatalf("%d bytes: whole after %d of %d", size, i+1, len(packets))
				}
			}
		}
	}
	if _, _, _, ok := parsePart(make([]byte, 2000)); ok {
		t.Error("zeros are a part")
	}
}

func TestALongRecordingKeepsItsCountsInFewerSamples(t *testing.T) {
	r := recorder{stride: 1}
	const n = 5 * samplesMax
	for i := range n {
		r.add(Sample{At: time.Duration(i) * time.Second, Requests: 2, Bytes: 10, P99: time.Duration(i % 7)})
	}
	requests, last := r.pending.Requests, time.Duration(-1)
	for _, s := range r.samples {
		requests += s.Requests
		if s.At <= last {
			t.Fatal("out of order")
		}
		last = s.At
	}
	if len(r.samples) >= samplesMax || len(r.samples) < samplesMax/4 || requests != 2*n {
		t.Errorf("%d samples, %d requests, want %d", len(r.samples), requests, 2*n)
	}
}

func TestPathsKeepTheirPlaceWhenMachinesJoin(t *testing.T) {
	wide := widen("dr.", 3, 5) // n1-n2 direct, n1-n3 relayed
	if len(wide) != 10 || wide[pairIndex(0, 1, 5)] != 'd' || wide[pairIndex(2, 0, 5)] != 'r' || strings.Count(wide, ".") != 8 {
		t.Error(wide)
	}
	if widen("", 1, 2) != "." || widen("", 0, 0) != "" {
		t.Error("of one machine")
	}
}

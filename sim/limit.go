package sim

import (
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// limitKind is a figure that a scenario may bound from above.
type limitKind struct {
	name   string // its key under expect:
	figure string
	says   string // what the figure is
	unit   limitUnit
	users  bool // it is about users' requests
}

// limitUnit reads and shows a figure's values.
type limitUnit struct {
	parse func(*yaml.Node) (float64, error)
	show  func(float64) string
}

var (
	inMillis  = limitUnit{parseTime(time.Millisecond), showTime(time.Millisecond)}
	inSeconds = limitUnit{parseTime(time.Second), showTime(time.Second)}
	asShare   = limitUnit{parse: parseShare, show: func(v float64) string { return strconv.FormatFloat(100*v, 'f', 2, 64) + " %" }}
	inBytes   = limitUnit{parse: parseSize, show: func(v float64) string { return strconv.FormatFloat(v/1e3, 'f', 1, 64) + " kB" }}
)

// limitKinds are all that expect: knows, in the order in which they are shown.
var limitKinds = []limitKind{
	{"p50", "request_p50_ms", "half of the users' requests took at most", inMillis, true},
	{"p99", "request_p99_ms", "99 of 100 requests took at most", inMillis, true},
	{"p999", "request_p999_ms", "999 of 1000 requests took at most", inMillis, true},
	{"errors", "request_errors_share", "share of requests without a response in time", asShare, true},
	{"failover", "failover_max_ms", "longest time without a leader after one was lost", inMillis, false},
	{"coordinator", "coordinator_failover_max_ms", "longest time without a region's coordinator after one was lost", inMillis, false},
	{"converged", "converged_max_s", "longest time until everybody knew who is there", inSeconds, false},
	{"memory_growth", "memory_growth_share", "memory of a machine, from the end of the first day to that of the last", asShare, false},
	{"routine_growth", "routine_growth_share", "goroutines of a machine, likewise", asShare, false},
	{"traffic_growth", "traffic_growth_share", "what a machine sends in a day, likewise", asShare, false},
	{"bytes_per_node_hour", "bytes_per_node_hour", "sent by a node in an hour, load included", inBytes, false},
}

// Expectation is one line of what the scenario expects, and what was found.
type Expectation struct {
	Name  string `json:"name"`
	Says  string `json:"says"`
	Want  string `json:"want"`
	Found string `json:"found"` // empty: nothing happened that could be measured
	Met   bool   `json:"met"`
}

func (e Expectation) String() string {
	return fmt.Sprintf("%s %s, the scenario expects %s", e.Says, e.Found, e.Want)
}

// expectations compares the run's figures with what the scenario wants.
func (s *Scenario) expectations(figures map[string]float64) (out []Expectation) {
	if want := s.Expect.Answered; want > 0 {
		e := Expectation{Name: "answered", Says: "share of pings answered", Want: "at least " + asShare.show(want), Met: true}
		if found, ok := figures["pings_answered"]; ok {
			e.Found, e.Met = asShare.show(found), found >= want
		}
		out = append(out, e)
	}
	for _, k := range limitKinds {
		most, ok := s.Expect.Limits[k.name]
		if !ok {
			continue
		}
		e := Expectation{Name: k.name, Says: k.says, Want: "at most " + k.unit.show(most), Met: true}
		found, ok := figures[k.figure]
		switch {
		case ok:
			e.Found, e.Met = k.unit.show(found), found <= most
		case k.users && figures["requests"] == 0:
			e.Met, e.Found = false, "no request was made"
		case k.users: // there were requests, and no response
			e.Met, e.Found = false, "no response came"
		}
		out = append(out, e)
	}
	return out
}

func parseTime(unit time.Duration) func(*yaml.Node) (float64, error) {
	return func(n *yaml.Node) (float64, error) {
		var d time.Duration
		err := duration(&d, time.Millisecond, settleMax)(n)
		return float64(d) / float64(unit), err
	}
}

func showTime(unit time.Duration) func(float64) string {
	return func(v float64) string {
		return time.Duration(v * float64(unit)).Round(10 * time.Microsecond).String()
	}
}

func parseShare(n *yaml.Node) (v float64, err error) {
	err = share(&v)(n)
	return v, err
}

func parseSize(n *yaml.Node) (float64, error) {
	var v int
	err := size(&v, 1, 1<<40)(n)
	return float64(v), err
}

package report

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/sim"
)

//go:embed report.html
var page string

var layout = template.Must(template.New("report").Parse(page))

// eventsMax bounds the events of a page: the last ones, with all faults, decisions and violations before them.
const eventsMax = 5000

// view is what the page shows.
type view struct {
	*sim.Result
	Verdict  string
	Length   string // virtual
	Wall     string
	Times    []timesRow
	Charts   []chart
	Timeline timeline
	Map      netMap
	Numbers  []number
	Listed   []eventRow
	Left     int // events that are not listed
	Broken   []brokenRow
}

// timesRow is one kind of time with its percentiles.
type timesRow struct {
	What                      string
	Count, P50, P99, P999, To string
}

type number struct{ Name, Value string }

type eventRow struct{ At, Host, Kind, Text string }

type brokenRow struct {
	At, Checker, Text string
	Before            []string
}

// Write writes the report of a run.
func Write(w io.Writer, r *sim.Result) error {
	v := view{Result: r, Verdict: "passed", Length: spell(seconds(r.VirtualSeconds).Round(time.Second)), Wall: spell(seconds(r.WallSeconds).Round(10 * time.Millisecond))}
	if !r.Passed {
		v.Verdict = fmt.Sprintf("failed: %d promises broken", len(r.Violations))
	}
	rec := r.Recording
	if rec == nil {
		rec = &sim.Recording{}
	}
	v.Times = times(r.Figures)
	v.Timeline = newTimeline(rec, r.Violations, seconds(r.VirtualSeconds))
	v.Charts = charts(rec, seconds(r.VirtualSeconds))
	v.Map = newMap(rec)
	for _, name := range slices.Sorted(maps.Keys(r.Figures)) {
		v.Numbers = append(v.Numbers, number{strings.ReplaceAll(name, "_", " "), sim.FigureText(r.Figures[name])})
	}
	v.Listed, v.Left = events(r.Events)
	for _, b := range r.Violations {
		row := brokenRow{At: clock(b.At), Checker: b.Checker, Text: b.Text}
		for _, e := range b.Before {
			row.Before = append(row.Before, e.String())
		}
		v.Broken = append(v.Broken, row)
	}
	return layout.Execute(w, v)
}

// times are the percentiles that the figures have.
func times(f map[string]float64) (out []timesRow) {
	for _, k := range []struct{ what, count, of, unit string }{
		{"users' requests", "requests", "request", "ms"}, {"pings", "pings", "rtt", "ms"},
		{"a lost leader until the next", "failovers", "failover", "ms"},
		{"a lost region's coordinator until the next", "coordinator_failovers", "coordinator_failover", "ms"},
		{"a change of who is there until all know", "", "converged", "s"},
	} {
		if _, ok := f[k.of+"_max_"+k.unit]; !ok {
			continue
		}
		value := func(q string) string {
			v, ok := f[k.of+"_"+q+"_"+k.unit]
			if !ok {
				return ""
			}
			if k.unit == "ms" {
				v /= 1000
			}
			return spell(seconds(v))
		}
		row := timesRow{k.what, "", value("p50"), value("p99"), value("p999"), value("max")}
		if n, ok := f[k.count]; ok {
			row.Count = fmt.Sprintf("%.0f", n)
		}
		out = append(out, row)
	}
	return out
}

// events are the rows of the log, and how many there are no rows for.
func events(all []sim.Event) (out []eventRow, left int) {
	loud := func(e sim.Event) bool { return e.Kind != "log" }
	room := eventsMax
	for _, e := range all {
		if loud(e) {
			room--
		}
	}
	// Of what nodes logged, the latest.
	logged := 0
	for i := len(all) - 1; i >= 0; i-- {
		e := all[i]
		if !loud(e) {
			if logged++; logged > room {
				left++
				continue
			}
		} else if len(out) >= eventsMax {
			left++
			continue
		}
		out = append(out, eventRow{clock(e.At), e.Host, e.Kind, e.Text})
	}
	slices.Reverse(out)
	return out, left
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// clock is a time of the run: hours:minutes:seconds.
func clock(d time.Duration) string {
	return fmt.Sprintf("%d:%02d:%04.1f", d/time.Hour, d/time.Minute%60, (d % time.Minute).Seconds())
}

// spell shows a duration with three digits.
func spell(d time.Duration) string {
	for _, unit := range []time.Duration{time.Hour, time.Minute, time.Second, time.Millisecond, time.Microsecond} {
		if d >= unit {
			return d.Round(max(unit/100, 1)).String()
		}
	}
	return d.String()
}

// netMap is where machines stand on the page, and what they were at every sample.
type netMap struct {
	Size    int
	Places  []spot
	Regions []spot
	Frames  template.JS
	Count   int
}

// spot is a machine or a region with its name.
type spot struct {
	X, Y float64
	Name string
	Note string
}

// frame is a sample for the page's script; a part that is as in the one before is left out.
type frame struct {
	At     string `json:"t"`
	States string `json:"s,omitempty"`
	Paths  string `json:"p,omitempty"`
}

func newMap(rec *sim.Recording) netMap {
	m := netMap{Size: 560, Count: len(rec.Samples)}
	m.place(rec.Machines)
	frames := []frame{}
	var last sim.Sample
	for _, s := range rec.Samples {
		f := frame{At: clock(s.At)}
		if s.States != last.States {
			f.States = s.States
		}
		if s.Paths != last.Paths {
			f.Paths = s.Paths
		}
		last = s
		frames = append(frames, f)
	}
	b, err := json.Marshal(frames)
	if err != nil {
		b = []byte("[]") // frames are plain strings
	}
	m.Frames = template.JS(b) // encoding/json escapes what could end a script
	return m
}

package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/phantommesh/phantommesh/sim"
)

// Sizes of a drawing, in its own units.
const (
	chartWidth  = 900
	chartHeight = 200
	marginLeft  = 70
	marginRight = 10
	marginTop   = 10
	marginFoot  = 24
)

// chart is lines over the time of the run.
type chart struct {
	Title, Note   string
	Width, Height int
	Lines         []line
	XTicks        []tick
	YTicks        []tick
	Bands         []band // faults
	Left, Right   float64
	Top, Bottom   float64
}

type line struct {
	Name, Class string
	Path        string // of an SVG
}

type tick struct {
	At   float64
	Text string
}

type band struct {
	X, Width float64
	Text     string
}

// series is what a line is made from; a value below 0 is none.
type series struct {
	name, class string
	value       func(s sim.Sample, over time.Duration) float64 // over: since the sample before
}

// axis maps values to places from low to high.
type axis struct {
	least, most float64
	low, high   float64
	log         bool
}

func (a axis) at(v float64) float64 {
	part := 0.0
	switch {
	case a.log:
		part = (math.Log10(max(v, a.least)) - math.Log10(a.least)) / (math.Log10(a.most) - math.Log10(a.least))
	case a.most > a.least:
		part = (v - a.least) / (a.most - a.least)
	}
	return a.low + part*(a.high-a.low)
}

// charts are those of a run; what nothing was counted for is left out.
func charts(rec *sim.Recording, length time.Duration) (out []chart) {
	if len(rec.Samples) == 0 {
		return nil
	}
	ms := func(d time.Duration) float64 {
		if d == 0 {
			return -1
		}
		return d.Seconds() * 1000
	}
	step := step(rec)
	perSecond := func(n float64, over time.Duration) float64 { return n / over.Seconds() }
	b := builder{rec: rec, x: axis{0, length.Seconds(), marginLeft, chartWidth - marginRight, false}}
	b.lines("Latency of users' requests, ms", "Percentiles of every "+spell(step)+"; logarithmic.", true,
		series{"P50", "c1", func(s sim.Sample, _ time.Duration) float64 { return ms(s.P50) }},
		series{"P99", "c2", func(s sim.Sample, _ time.Duration) float64 { return ms(s.P99) }},
		series{"P99.9", "c3", func(s sim.Sample, _ time.Duration) float64 { return ms(s.P999) }})
	b.lines("Users", "", false, series{"users", "c1", func(s sim.Sample, _ time.Duration) float64 { return float64(s.Users) }})
	b.lines("Requests a second", "", false,
		series{"answered", "c1", func(s sim.Sample, over time.Duration) float64 { return perSecond(float64(s.Requests-s.Errors), over) }},
		series{"without a response in time", "c3", func(s sim.Sample, over time.Duration) float64 { return perSecond(float64(s.Errors), over) }})
	b.lines("Latency of pings, ms", "Percentiles of every "+spell(step)+"; logarithmic.", true,
		series{"P50", "c1", func(s sim.Sample, _ time.Duration) float64 { return ms(s.PingP50) }},
		series{"P99", "c2", func(s sim.Sample, _ time.Duration) float64 { return ms(s.PingP99) }})
	b.lines("Pings lost, % of those sent", "", false, series{"lost", "c3", func(s sim.Sample, _ time.Duration) float64 {
		if s.Pings == 0 {
			return -1
		}
		return 100 * float64(s.Lost) / float64(s.Pings)
	}})
	b.lines("Machines in the mesh", "", false, series{"machines", "c1", func(s sim.Sample, _ time.Duration) float64 { return float64(s.Up) }})
	b.lines("Ways from a machine to another", "Those in use: a way that nobody needs is given up.", false,
		series{"direct", "c1", func(s sim.Sample, _ time.Duration) float64 { return float64(s.Direct) }},
		series{"relayed", "c2", func(s sim.Sample, _ time.Duration) float64 { return float64(s.Relayed) }})
	b.lines("Traffic of all machines, kB a second", "Everything on the wire: load, gossip, decisions, keys.", false,
		series{"kB/s", "c1", func(s sim.Sample, over time.Duration) float64 { return perSecond(float64(s.Bytes)/1000, over) }})
	return b.out
}

// step is the usual time between two samples.
func step(rec *sim.Recording) time.Duration {
	var gaps []time.Duration
	for i := 1; i < len(rec.Samples); i++ {
		gaps = append(gaps, rec.Samples[i].At-rec.Samples[i-1].At)
	}
	slices.Sort(gaps)
	if len(gaps) == 0 || gaps[len(gaps)/2] <= 0 {
		return 10 * time.Second
	}
	return gaps[len(gaps)/2]
}

// builder makes charts with one axis of time.
type builder struct {
	rec *sim.Recording
	x   axis
	out []chart
}

// over is the time that a sample counts.
func (b *builder) over(i int) time.Duration {
	if i == 0 {
		return max(b.rec.Samples[0].At, 1)
	}
	return max(b.rec.Samples[i].At-b.rec.Samples[i-1].At, 1)
}

// lines adds a chart unless all its values are none or 0.
func (b *builder) lines(title, note string, log bool, all ...series) {
	y := axis{0, 0, chartHeight - marginFoot, marginTop, log}
	least := math.Inf(1)
	for _, s := range all {
		for i, sample := range b.rec.Samples {
			if v := s.value(sample, b.over(i)); v >= 0 {
				y.most = max(y.most, v)
				if v > 0 {
					least = min(least, v)
				}
			}
		}
	}
	if y.most == 0 {
		return
	}
	var ticks []float64
	if log {
		y.least, y.most = math.Pow(10, math.Floor(math.Log10(least))), math.Pow(10, math.Ceil(math.Log10(y.most)))
		if y.least == y.most {
			y.most *= 10
		}
		for v := y.least; v <= y.most*1.001; v *= 10 {
			ticks = append(ticks, v)
		}
	} else {
		ticks, y.most = round(y.most)
	}
	c := chart{Title: title, Note: note, Width: chartWidth, Height: chartHeight, Left: b.x.low, Right: b.x.high, Top: y.high, Bottom: y.low,
		XTicks: timeTicks(b.x), Bands: bands(b.rec, b.x)}
	for _, v := range ticks {
		c.YTicks = append(c.YTicks, tick{y.at(v), fmt.Sprintf("%.4g", v)})
	}
	for _, s := range all {
		c.Lines = append(c.Lines, line{s.name, s.class, b.path(y, s)})
	}
	b.out = append(b.out, c)
}

func (b *builder) path(y axis, s series) string {
	var out strings.Builder
	pen := "M"
	for i, sample := range b.rec.Samples {
		v := s.value(sample, b.over(i))
		if v < 0 {
			pen = "M"
			continue
		}
		fmt.Fprintf(&out, "%s%.1f %.1f", pen, b.x.at(sample.At.Seconds()), y.at(v))
		if pen == "M" {
			out.WriteString("h.1") // a value alone is a dot
		}
		pen = "L"
	}
	return out.String()
}

// round gives marks from 0 in steps of 1, 2 or 5 times a power of ten, and the last of them, above most.
func round(most float64) (ticks []float64, top float64) {
	power := math.Pow(10, math.Floor(math.Log10(most/4)))
	width := power
	for _, f := range []float64{1, 2, 5, 10} {
		if width = f * power; most/width <= 5 {
			break
		}
	}
	for v := 0.0; ; v += width {
		ticks = append(ticks, v)
		if v >= most {
			return ticks, v
		}
	}
}

// timeTicks are the marks of the axis of time.
func timeTicks(x axis) (out []tick) {
	const marks = 10
	width := 31 * 24 * time.Hour
	for _, w := range []time.Duration{time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
		10 * time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 3 * 24 * time.Hour} {
		if x.most/w.Seconds() <= marks {
			width = w
			break
		}
	}
	for at := 0.0; at <= x.most; at += width.Seconds() {
		d := time.Duration(at) * time.Second
		text := fmt.Sprintf("%d:%02d", d/time.Hour, d/time.Minute%60)
		if width < time.Minute {
			text += fmt.Sprintf(":%02d", d/time.Second%60)
		}
		out = append(out, tick{x.at(at), text})
	}
	return out
}

// bands are the faults behind the lines.
func bands(rec *sim.Recording, x axis) (out []band) {
	for _, s := range rec.Spans {
		from, to := x.at(s.From.Seconds()), x.at(s.To.Seconds())
		out = append(out, band{from, max(to-from, 1.5), s.Kind + " " + s.Who})
	}
	return out
}

// Tall is the height between top and bottom, for the page.
func (c chart) Tall() float64 { return c.Bottom - c.Top }

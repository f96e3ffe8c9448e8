package report

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/sim"
)

const (
	laneHeight = 18
	barHeight  = 12
)

// timeline is what was done and what broke, a lane for each kind.
type timeline struct {
	Width, Height int
	Lanes         []lane
	Marks         []mark // of the whole height
	XTicks        []tick
	Bottom        float64
}

type lane struct {
	Name string
	Y    float64 // of the bars
	Text float64 // of the name
	Bars []band
	Bad  bool
}

type mark struct {
	X    float64
	Text string
}

func newTimeline(rec *sim.Recording, broken []sim.Violation, length time.Duration) timeline {
	x := axis{0, max(length.Seconds(), 1), 110, chartWidth - marginRight, false}
	t := timeline{Width: chartWidth, XTicks: timeTicks(x)}
	at := map[string]int{}
	add := func(kind string, b band) *lane {
		i, ok := at[kind]
		if !ok {
			i = len(t.Lanes)
			at[kind] = i
			t.Lanes = append(t.Lanes, lane{Name: kind, Y: float64(i*laneHeight + 3), Text: float64(i*laneHeight + 13)})
		}
		t.Lanes[i].Bars = append(t.Lanes[i].Bars, b)
		return &t.Lanes[i]
	}
	for _, s := range rec.Spans {
		from, to := x.at(s.From.Seconds()), x.at(s.To.Seconds())
		text := fmt.Sprintf("%s %s, %s", s.Kind, s.Who, clock(s.From))
		if s.To > s.From {
			text += " to " + clock(s.To)
		}
		add(s.Kind, band{from, max(to-from, 2), text})
	}
	for _, v := range broken {
		add("broken", band{x.at(v.At.Seconds()), 3, fmt.Sprintf("%s %s: %s", clock(v.At), v.Checker, v.Text)}).Bad = true
	}
	t.Bottom = float64(len(t.Lanes) * laneHeight)
	t.Height = int(t.Bottom) + marginFoot
	for _, m := range []struct {
		at   time.Duration
		text string
	}{{rec.Formed, "all are in the mesh"}, {rec.Healed, "the faults end"}} {
		if m.at > 0 {
			t.Marks = append(t.Marks, mark{x.at(m.at.Seconds()), m.text + ", " + clock(m.at)})
		}
	}
	return t
}

// BarHeight is for the page.
func (timeline) BarHeight() int { return barHeight }

// place puts regions on a circle, and the machines of each on a circle around its middle.
func (m *netMap) place(machines []sim.Machine) {
	var regions []string
	count := map[string]int{}
	for _, x := range machines {
		if !slices.Contains(regions, x.Region) {
			regions = append(regions, x.Region)
		}
		count[x.Region]++
	}
	middle := float64(m.Size) / 2
	wide := middle - 40
	center := map[string]spot{}
	radius := wide
	if len(regions) > 1 {
		// Neighbouring circles touch.
		half := math.Sin(math.Pi / float64(len(regions)))
		radius = wide * half / (1 + half)
	}
	for i, name := range regions {
		x, y := middle, middle
		if len(regions) > 1 {
			x, y = around(middle, middle, wide-radius, i, len(regions))
		}
		center[name] = spot{X: x, Y: y, Name: name}
		m.Regions = append(m.Regions, center[name])
	}
	seen := map[string]int{}
	for _, x := range machines {
		c := center[x.Region]
		s := spot{X: c.X, Y: c.Y, Name: x.Name, Note: x.Name + ", " + x.Region + ", NAT: " + x.NAT}
		if count[x.Region] > 1 {
			s.X, s.Y = around(c.X, c.Y, radius*0.72, seen[x.Region], count[x.Region])
		}
		seen[x.Region]++
		m.Places = append(m.Places, s)
	}
}

// around is the i-th of n places on a circle, from the top.
func around(x, y, radius float64, i, n int) (float64, float64) {
	angle := 2*math.Pi*float64(i)/float64(n) - math.Pi/2
	return math.Round(10*(x+radius*math.Cos(angle))) / 10, math.Round(10*(y+radius*math.Sin(angle))) / 10
}

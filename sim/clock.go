package sim

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/phantommesh/phantommesh/crypto/certificate"
)

// A machine's clock is what people, and programs of theirs, set: what the node writes for others, and compares with what others wrote, goes by it.
// What it only waits for or measures goes by the world's time, as by a machine's monotonic clock.

// wallClock is a machine's. Safe from any goroutine.
type wallClock struct {
	mu    sync.Mutex
	off   time.Duration // from the world's time, at since
	drift time.Duration // what it gains in an hour
	since time.Time
}

func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	gained := time.Duration(now.Sub(c.since).Hours() * float64(c.drift))
	// Without the reading of the monotonic clock: it could hide that two times are compared that only the wall has in common.
	return now.Add(c.off + gained).Round(0)
}

// set has the clock be off by so much from now on, and gain so much in an hour.
func (c *wallClock) set(off, drift time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off, c.drift, c.since = off, drift, time.Now()
}

// SetClock has the host's clock be off by so much from now on, and gain so much in an hour.
func (h *Host) SetClock(off, drift time.Duration) { h.clock.set(off, drift) }

// rightClock puts it right: as far as it was from the beginning.
func (h *Host) rightClock() { h.clock.set(h.at.Skew, 0) }

// Bounds of what a clock may be off, either way, and gain in an hour: a battery that is empty, a quartz in the sun.
const (
	skewMax  = 2 * 366 * 24 * time.Hour
	driftMax = time.Hour
	// regionSkewMax is what a mesh forgives two clocks (certificate.SkewMax), half of it for each.
	regionSkewMax = certificate.SkewMax / 2
)

// clockStep sets clocks; the end puts them right.
type clockStep struct{ skew, drift time.Duration }

func (clockStep) Kind() string { return "clock" }
func (f clockStep) begin(p *play, who []*Host) {
	for _, h := range who {
		h.SetClock(h.at.Skew+f.skew, f.drift)
	}
}
func (f clockStep) end(_ *play, who []*Host) {
	for _, h := range who {
		h.rightClock()
	}
}

func parseClock(n *yaml.Node) (Fault, Selector, error) {
	var f clockStep
	var who Selector
	err := each(n, map[string]func(*yaml.Node) error{
		"skew": off(&f.skew, skewMax), "drift": off(&f.drift, driftMax), "who": selector(&who),
	}, "who")
	return f, who, err
}

// off takes a duration that may be negative, and whole days: 90s, -3h, 60d.
func off(to *time.Duration, most time.Duration) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		w, err := scalar(n)
		if err != nil {
			return err
		}
		d, err := time.ParseDuration(w)
		if number, isDays := strings.CutSuffix(w, "d"); isDays && err != nil {
			var days int64
			days, err = strconv.ParseInt(number, 10, 16)
			d = time.Duration(days) * 24 * time.Hour
		}
		if err != nil {
			return fmt.Errorf("%q is no duration, such as 90s, -3h or 60d", short(w))
		}
		if d < -most || d > most {
			return fmt.Errorf("%q: at most %s either way", short(w), most)
		}
		*to = d
		return nil
	}
}

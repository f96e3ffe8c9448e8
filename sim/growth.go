package sim

import (
	"reflect"
	"runtime"
	"testing/synctest"
	"time"
	"unsafe"

	"golang.zx2c4.com/wireguard/device"
)

// A mesh may not grow with its age. At the end of every day of a long run it is measured what the process holds and what the machines have sent
// that day; as days have a rhythm of their own, the last is compared with the first.

const (
	// growthEvery is the time between two measurements, and growthBefore how long before the full day each is made: on the hour much happens.
	growthEvery  = 24 * time.Hour
	growthBefore = time.Minute
)

// growth is what was measured, day by day.
type growth struct {
	days  []dayFigures
	bytes int64 // on the wire, until the last measurement
}

// dayFigures are of the end of one day, for one machine on average.
type dayFigures struct{ memory, routines, traffic float64 }

// planGrowth has every full day measured.
func (p *play) planGrowth() {
	for at := growthEvery; at <= p.scenario.For; at += growthEvery {
		p.agenda.add(p.formed+at-growthBefore, p.measureGrowth)
	}
}

func (p *play) measureGrowth() {
	synctest.Wait()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	_, bytes := p.world.Wire()
	machines := float64(max(len(p.world.hosts), 1))
	p.growth.days = append(p.growth.days, dayFigures{
		memory:   float64(int64(m.HeapAlloc)-p.world.journal.size()) / machines,
		routines: float64(runtime.NumGoroutine()) / machines,
		traffic:  float64(bytes-p.growth.bytes) / machines,
	})
	p.growth.bytes = bytes
}

// figures compare the last day with the first; nothing of a run of less than two days.
func (g *growth) figures(to map[string]float64) {
	if len(g.days) < 2 {
		return
	}
	first, last := g.days[0], g.days[len(g.days)-1]
	for name, of := range map[string]func(dayFigures) float64{
		"memory": func(d dayFigures) float64 { return d.memory }, "routine": func(d dayFigures) float64 { return d.routines },
		"traffic": func(d dayFigures) float64 { return d.traffic },
	} {
		if of(first) > 0 {
			to[name+"_growth_share"] = of(last)/of(first) - 1
		}
	}
	to["memory_first_day_mb"], to["memory_last_day_mb"] = first.memory/1e6, last.memory/1e6
	to["routines_first_day"], to["routines_last_day"] = first.routines, last.routines
	to["traffic_first_day_mb"], to["traffic_last_day_mb"] = first.traffic/1e6, last.traffic/1e6
}

// size is about what the events take: they are the simulator's own.
func (j *journal) size() (bytes int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.events {
		bytes += int64(len(e.Text) + len(e.Host) + len(e.Kind) + int(unsafe.Sizeof(e)))
	}
	return bytes
}

// release takes the finalizers from the queues of a WireGuard peer. They drain channels, which only a goroutine of the bubble may touch, and
// finalizers run outside. What is in the queues of a peer that nobody has any more is garbage with it. The fields have no other way in.
func release(p *device.Peer) {
	queues := reflect.ValueOf(p).Elem().FieldByName("queue")
	for _, name := range []string{"outbound", "inbound"} {
		f := queues.FieldByName(name)
		runtime.SetFinalizer(reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().Interface(), nil)
	}
}

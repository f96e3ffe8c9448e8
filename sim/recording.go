package sim

import (
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

const (
	// samplesMax bounds a recording: of a longer run every second, every fourth sample and so on is kept, with what the others counted.
	samplesMax = 720
	// drawnMax is up to how many machines a recording has the path of every two of them.
	drawnMax = 64
)

// Recording is the course of a run, for reports.
type Recording struct {
	Machines []Machine
	Samples  []Sample
	Spans    []Span
	Formed   time.Duration // when all machines were in the mesh
	Healed   time.Duration // when the faults ended
}

// Machine is one of the hosts, in the order of a sample's letters.
type Machine struct {
	Name, Region, NAT string
}

// Span is something that was done, and for how long.
type Span struct {
	Kind, Who string
	From, To  time.Duration
}

// Letters of Sample.States and Sample.Paths.
const (
	LetterDown        = '.' // no node runs
	LetterOutside     = 'o' // a node runs that is in no mesh
	LetterMember      = 'm'
	LetterCoordinator = 'c' // of a region
	LetterVoter       = 'v'
	LetterLeader      = 'l'
	LetterOutcast     = 'x' // turned away for good

	LetterNoPath  = '.'
	LetterDirect  = 'd'
	LetterRelayed = 'r'
)

// Sample is what is so at one moment, and what was counted since the one before.
type Sample struct {
	At              time.Duration
	States          string // a letter a machine
	Paths           string // a letter for every two machines: n1 and n2, n1 and n3, … n2 and n3, …; empty of more than drawnMax
	Up              int    // machines in the mesh
	Direct, Relayed int    // ways from a machine to another
	Users           int

	Requests, Errors int
	P50, P99, P999   time.Duration // of requests; of several samples made one, the longest
	Pings, Lost      int
	PingP50, PingP99 time.Duration
	Bytes, Packets   int64
}

// recorder makes the recording. It belongs to the driver.
type recorder struct {
	samples        []Sample
	spans          []Span
	stride, passed int // one of so many is kept; samples since the last one kept
	bytes, packets int64
	pending        Sample // what the samples that are not kept have counted
	healed         time.Duration
}

// span notes that something begins, and returns what ends it.
func (r *recorder) span(kind, who string, at time.Duration) (end func(time.Duration)) {
	const spansMax = 10_000
	if len(r.spans) >= spansMax {
		return func(time.Duration) {}
	}
	i := len(r.spans)
	r.spans = append(r.spans, Span{Kind: kind, Who: who, From: at, To: at})
	return func(at time.Duration) { r.spans[i].To = at }
}

// sample takes one of a view.
func (p *play) sample(v *View) {
	r := &p.recorder
	s := Sample{At: v.At}
	s.describe(p, v)
	p.load.mu.Lock()
	s.Users = p.load.users
	requests, pings := p.load.asked.take(), p.load.pings.take()
	p.load.mu.Unlock()
	s.Requests, s.Errors = requests.sent, requests.failed
	s.P50, s.P99, s.P999 = percentile(requests.times, 0.5), percentile(requests.times, 0.99), percentile(requests.times, 0.999)
	s.Pings, s.Lost = pings.sent, pings.failed
	s.PingP50, s.PingP99 = percentile(pings.times, 0.5), percentile(pings.times, 0.99)
	packets, bytes := p.world.Wire()
	s.Packets, s.Bytes = packets-r.packets, bytes-r.bytes
	r.packets, r.bytes = packets, bytes
	r.add(s)
}

func (r *recorder) add(s Sample) {
	s.count(r.pending)
	r.pending = Sample{}
	if r.passed++; r.passed < r.stride {
		r.pending = s
		return
	}
	r.passed = 0
	r.samples = append(r.samples, s)
	if len(r.samples) < samplesMax {
		return
	}
	kept := r.samples[:0]
	for i := 1; i < len(r.samples); i += 2 {
		two := r.samples[i]
		two.count(r.samples[i-1])
		kept = append(kept, two)
	}
	r.samples, r.stride = kept, 2*r.stride
}

// count adds what an earlier sample has counted.
func (s *Sample) count(o Sample) {
	s.Requests, s.Errors = s.Requests+o.Requests, s.Errors+o.Errors
	s.Pings, s.Lost = s.Pings+o.Pings, s.Lost+o.Lost
	s.Bytes, s.Packets = s.Bytes+o.Bytes, s.Packets+o.Packets
	s.P50, s.P99, s.P999 = max(s.P50, o.P50), max(s.P99, o.P99), max(s.P999, o.P999)
	s.PingP50, s.PingP99 = max(s.PingP50, o.PingP50), max(s.PingP99, o.PingP99)
}

// describe fills in who is there and how they reach each other.
func (s *Sample) describe(p *play, v *View) {
	seen := map[string]*localapi.Status{}
	for _, n := range v.Nodes {
		seen[n.Host] = n.Status
	}
	number := map[string]int{}
	states := make([]byte, len(p.world.hosts))
	for i, h := range p.world.hosts {
		number[h.ID()] = i
		states[i] = state(h, seen[h.name])
		if states[i] != LetterDown && states[i] != LetterOutside && states[i] != LetterOutcast {
			s.Up++
		}
	}
	s.States = string(states)
	n := len(states)
	drawn := n <= drawnMax
	paths := make([]byte, n*(n-1)/2)
	if !drawn {
		paths = nil
	}
	for i := range paths {
		paths[i] = LetterNoPath
	}
	for i, h := range p.world.hosts {
		if seen[h.name] == nil {
			continue
		}
		for _, peer := range seen[h.name].Peers {
			j, known := number[peer.ID]
			letter := byte(LetterDirect)
			switch {
			case !known || i == j || peer.Path.Kind == localapi.PathNone:
				continue
			case peer.Path.Kind == localapi.PathDirect:
				s.Direct++
			default:
				letter = LetterRelayed
				s.Relayed++
			}
			if at := pairIndex(i, j, n); drawn && paths[at] != LetterRelayed { // if the two do not agree, the worse
				paths[at] = letter
			}
		}
	}
	s.Paths = string(paths)
}

// pairIndex is where two of n machines stand in Sample.Paths.
func pairIndex(i, j, n int) int {
	i, j = min(i, j), max(i, j)
	return i*(2*n-i-1)/2 + j - i - 1
}

// state is a machine's letter.
func state(h *Host, s *localapi.Status) byte {
	switch {
	case h.outcast.Load():
		return LetterOutcast
	case s == nil:
		return LetterDown
	case s.Self.State != localapi.StateOnline:
		return LetterOutside
	case s.Coordinators.Leader == s.Self.ID && s.Coordinators.Quorum:
		return LetterLeader
	case slices.Contains(s.Coordinators.Voters, s.Self.ID):
		return LetterVoter
	case s.Self.Role == localapi.RoleCoordinator:
		return LetterCoordinator
	}
	return LetterMember
}

// recording is the course of the run.
func (p *play) recording() *Recording {
	out := &Recording{Samples: p.recorder.samples, Spans: p.recorder.spans, Formed: p.formed, Healed: p.recorder.healed}
	for _, h := range p.world.hosts {
		out.Machines = append(out.Machines, Machine{h.name, h.at.Region, p.region(h.at.Region).NAT})
	}
	// Machines that joined later were not there in earlier samples.
	n := len(out.Machines)
	for i, s := range out.Samples {
		if have := len(s.States); have < n {
			out.Samples[i].States += string(slices.Repeat([]byte{LetterDown}, n-have))
			out.Samples[i].Paths = widen(s.Paths, have, n)
		}
	}
	return out
}

// widen gives the paths of have machines the places that they have among n.
func widen(paths string, have, n int) string {
	if n > drawnMax || len(paths) == 0 && have > 1 {
		return ""
	}
	out := slices.Repeat([]byte{LetterNoPath}, n*(n-1)/2)
	for i := range have {
		for j := i + 1; j < have; j++ {
			out[pairIndex(i, j, n)] = paths[pairIndex(i, j, have)]
		}
	}
	return string(out)
}

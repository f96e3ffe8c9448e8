package underlaytest

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// Link says what happens to packets in one direction of a cable, a radio link or a way through the internet. The zero value is perfect.
// Shares are of packets, 0 to 1.
type Link struct {
	Latency time.Duration
	// Jitter is added to the latency, between nothing and this, changing smoothly: packets stay in order.
	Jitter time.Duration
	// Loss is the share that is lost, each on its own; Burst has more lost at times.
	Loss  float64
	Burst Burst
	// Reorder is the share that takes ReorderBy longer than the others (0: a millisecond more than half the latency), so that later ones overtake it.
	Reorder   float64
	ReorderBy time.Duration
	// Duplicate is the share that arrives twice.
	Duplicate float64
	// Bandwidth is in bits per second, 0: unbounded. Queue is how many bytes wait at most, the rest is lost; 0: 64 KiB or 50 ms, whatever is more.
	Bandwidth int64
	Queue     int
	// MTU is of IP packets, in bytes; 0: unbounded. A larger packet that must not be fragmented is lost; if it is the sender's own link, Send
	// returns EMSGSIZE. That is all a socket hears with IP_PMTUDISC_PROBE: "too big" of routers on the way is ignored by the kernel.
	MTU int
}

// Burst is loss in bursts after Gilbert and Elliott, in continuous time: for a Length on average, every Every on average, both drawn from
// exponential distributions, a share of Loss is lost.
type Burst struct {
	Every, Length time.Duration
	Loss          float64
}

const (
	queueBytesDefault = 64 << 10
	queueTimeDefault  = 50 * time.Millisecond
	// Headers around the payload in bytes: IPv4 and IPv6, and UDP and TCP without options.
	ip4Header, ip6Header, udpHeader, tcpHeader = 20, 40, 8, 20
	// ip6MTU is what a sender fragments to over IPv6 (RFC 8200 §5), where routers don't.
	ip6MTU = 1280
)

// link is one direction with its state. Guarded by Network.mu.
type link struct {
	Link
	seed   uint64
	rand   *rand.Rand // of packets
	spells *rand.Rand // of bursts, which don't depend on packets
	free   time.Duration
	bad    bool
	turns  time.Duration // when the burst begins or ends
}

// newLink makes the state of a link; its decisions depend on the network's seed and the name.
func newLink(cfg Link, seed uint64, name string) *link {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	s := h.Sum64()
	return &link{Link: cfg, seed: seed ^ s, rand: rand.New(rand.NewPCG(seed, s)), spells: rand.New(rand.NewPCG(s, seed))}
}

// set changes what the link does, keeping its streams of randomness. Only the queue is forgotten when the bandwidth changes.
func (l *link) set(cfg Link) {
	if cfg.Bandwidth != l.Bandwidth {
		l.free = 0
	}
	if cfg.Burst != l.Burst {
		l.bad, l.turns = false, 0
	}
	l.Link = cfg
}

// passage is what a link did with a packet.
type passage struct {
	delay time.Duration
	twice bool
	why   Reason // of loss; empty: it got through
}

// cross takes a packet over the link at a time.
func (l *link) cross(now time.Duration, p *packet) (c passage) {
	size, fragments := p.size(l.MTU)
	if fragments == 0 {
		c.why = TooLarge
		return c
	}
	loss := l.Loss
	if l.Burst.Loss > 0 && l.bursts(now) {
		loss += (1 - loss) * l.Burst.Loss
	}
	for range fragments {
		if loss > 0 && l.rand.Float64() < loss {
			c.why = Loss
			return c
		}
	}
	if l.Bandwidth > 0 {
		if c.delay = l.wait(now, size); c.delay < 0 {
			c.why = QueueFull
			return c
		}
	}
	c.delay += l.Latency
	if l.Jitter > 0 {
		c.delay += l.jitter(now)
	}
	if l.Reorder > 0 && l.rand.Float64() < l.Reorder {
		by := l.ReorderBy
		if by == 0 {
			by = l.Latency/2 + time.Millisecond
		}
		c.delay += by
	}
	c.twice = l.Duplicate > 0 && l.rand.Float64() < l.Duplicate
	return c
}

// wait is how long a packet takes through the queue and onto the wire; negative: there is no room.
func (l *link) wait(now time.Duration, size int) time.Duration {
	start := max(now, l.free)
	limit := l.Queue
	if limit == 0 {
		limit = max(queueBytesDefault, int(l.Bandwidth/8*int64(queueTimeDefault)/int64(time.Second)))
	}
	if queued := int64(start-now) * l.Bandwidth / 8 / int64(time.Second); queued > int64(limit) {
		return -1
	}
	l.free = start + time.Duration(int64(size)*8*int64(time.Second)/l.Bandwidth)
	return l.free - now
}

// bursts reports whether there is a burst of loss. The state follows time and not packets, so that it is the same in every run of a seed.
func (l *link) bursts(now time.Duration) bool {
	for l.turns <= now {
		if l.turns > 0 {
			l.bad = !l.bad
		}
		mean := l.Burst.Every
		if l.bad {
			mean = l.Burst.Length
		}
		l.turns += max(time.Duration(l.spells.ExpFloat64()*float64(mean)), time.Microsecond)
	}
	return l.bad
}

// jitter is a smooth function of time and the seed: random values a slot of twice the jitter apart, and straight lines between. As it falls by
// half the time that passes at most, no packet overtakes another; and it does not depend on which packets were sent before.
func (l *link) jitter(now time.Duration) time.Duration {
	slot := 2 * l.Jitter
	k := uint64(now / slot)
	a, b := l.noise(k), l.noise(k+1)
	return time.Duration(float64(l.Jitter) * (a + (b-a)*float64(now%slot)/float64(slot)))
}

// noise is a number in [0, 1) for each k: one step of SplitMix64.
func (l *link) noise(k uint64) float64 {
	z := l.seed + (k+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

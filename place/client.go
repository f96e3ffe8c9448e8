package place

import (
	"encoding/binary"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/serf/coordinate"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

const (
	// rttMost is the longest round trip that says where somebody is: twice a geostationary satellite's 600 ms and a mobile link's queue.
	rttMost = 2 * time.Second
	// errorLeast is how sure of its coordinate another can be for us. Serf's clients settle between 0.05 and 0.3; who claims less would
	// have us alone do all the moving.
	errorLeast = 0.1
	// stepSettled and stepUnsettled are how far one observation can move a coordinate, in seconds. An honest one moves a settled coordinate
	// by about an eighth of the difference, so that 2 ms let it follow changes of 16 ms at full speed; larger ones come with a change of
	// network, see Roamed. What a liar can do is proportional to it: one of seven, in two cities 40 ms apart, has two honest machines
	// misjudge their distance by 14 ms at most (5 ms a step: by 34).
	stepSettled   = 0.002
	stepUnsettled = 0.025
	// settledAfter is after how many observations a coordinate counts as settled, once the node began or its network changed: 16 of an
	// eighth to a quarter each leave less than an eighth of the way.
	settledAfter = 16
	// doubtMost is by how much one observation can raise our own error: from then on others move us more.
	doubtMost = 0.1
	// recentMax is how many observations tell whether what our record says is still true: as many as settle a coordinate.
	recentMax = settledAfter
	// startSpread is how far from the origin a node begins, in seconds: enough that no two begin at one place, and have to part by chance.
	startSpread = 0.0001
)

// Client is this node's place in the space of round trips. It is safe for concurrent use.
type Client struct {
	mu       sync.Mutex
	vivaldi  *coordinate.Client
	observed int             // since the beginning or the last Roamed, up to settledAfter
	known    map[string]bool // whose round trips are remembered, by serf too
	recent   []observation   // the last recentMax, in no order
	next     int             // of recent to be replaced
	stats    Stats
	config   *coordinate.Config // constant
}

// observation is a round trip to somebody at a coordinate.
type observation struct {
	theirs peer.Coordinate
	rtt    time.Duration
}

// Stats count what was observed.
type Stats struct {
	Observed uint64
	Refused  uint64 // round trips that say nothing
	Bounded  uint64 // observations that would have moved the coordinate further than one may
}

// New returns the client of a node. Where it begins follows from the node's ID.
func New(self identity.NodeID) *Client {
	config := coordinate.DefaultConfig()
	// Serf's adjustment is an average of raw differences: one lie would be in it for the next twenty observations, whatever its size.
	config.AdjustmentWindowSize = 0
	vivaldi, err := coordinate.NewClient(config)
	if err != nil {
		panic("place: serf refuses its own configuration: " + err.Error())
	}
	begin := coordinate.NewCoordinate(config)
	for i := range begin.Vec {
		begin.Vec[i] = startSpread * (float64(binary.BigEndian.Uint16(self[2*i:]))/math.MaxUint16 - 0.5)
	}
	c := &Client{vivaldi: vivaldi, config: config, known: map[string]bool{}}
	c.setLocked(begin)
	return c
}

// Observe takes in a round trip to a member that says it is at their coordinate.
func (c *Client) Observe(id identity.NodeID, theirs peer.Coordinate, rtt time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rtt <= 0 || rtt > rttMost {
		c.stats.Refused++
		return
	}
	before := c.vivaldi.GetCoordinate()
	name := string(id[:])
	after, err := c.vivaldi.Update(name, theirCoordinate(theirs), rtt)
	if err != nil {
		panic("place: serf refuses a checked coordinate: " + err.Error())
	}
	c.known[name] = true
	c.rememberLocked(observation{theirs, rtt})
	c.stats.Observed++
	limit := stepUnsettled
	if c.observed >= settledAfter {
		limit = stepSettled
	} else {
		c.observed++
	}
	if c.boundLocked(before, after, limit) {
		c.stats.Bounded++
	}
}

func (c *Client) rememberLocked(o observation) {
	if len(c.recent) < recentMax {
		c.recent = append(c.recent, o)
		return
	}
	c.recent[c.next] = o
	c.next = (c.next + 1) % recentMax
}

// boundLocked takes back what an observation has moved beyond the limit, and reports whether it was too far.
func (c *Client) boundLocked(before, after *coordinate.Coordinate, limit float64) (cut bool) {
	sum := (after.Height - before.Height) * (after.Height - before.Height)
	for i := range after.Vec {
		sum += (after.Vec[i] - before.Vec[i]) * (after.Vec[i] - before.Vec[i])
	}
	share := 1.0
	if step := math.Sqrt(sum); step > limit {
		share, cut = limit/step, true
	}
	for i := range after.Vec {
		after.Vec[i] = before.Vec[i] + share*(after.Vec[i]-before.Vec[i])
	}
	after.Height = before.Height + share*(after.Height-before.Height)
	after.Error = min(after.Error, before.Error+doubtMost)
	c.setLocked(after)
	return cut
}

func (c *Client) setLocked(to *coordinate.Coordinate) {
	if err := c.vivaldi.SetCoordinate(to); err != nil {
		panic("place: serf refuses a coordinate of its own making: " + err.Error())
	}
}

// theirCoordinate is another's coordinate as serf has it, no surer of itself than may be.
func theirCoordinate(c peer.Coordinate) *coordinate.Coordinate {
	position, height, err := c.Seconds()
	return &coordinate.Coordinate{Vec: position[:], Height: height, Error: max(err, errorLeast)}
}

// Coordinate returns where this node stands. settled: it has been observed often enough to mean something.
func (c *Client) Coordinate() (at peer.Coordinate, settled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.coordinateLocked(), c.observed >= settledAfter
}

func (c *Client) coordinateLocked() peer.Coordinate {
	now := c.vivaldi.GetCoordinate()
	return peer.NewCoordinate([peer.Dimensions]float64(now.Vec), now.Height, now.Error)
}

// News reports whether others misjudge this node noticeably with the coordinate that they were told: by how much closer to what was lately
// measured the estimates come with the one of now. Coordinates wander, all of them together, and each within what fits as well; none of
// that is news to anybody.
func (c *Client) News(told peer.Coordinate) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.recent) == 0 {
		return false
	}
	is, gain, sum := c.coordinateLocked(), time.Duration(0), time.Duration(0)
	for _, o := range c.recent {
		gain += (told.RTT(o.theirs) - o.rtt).Abs() - (is.RTT(o.theirs) - o.rtt).Abs()
		sum += o.rtt
	}
	n := time.Duration(len(c.recent))
	return gain/n >= max(newsLeast, sum/n/newsShare)
}

// Tell returns where this node stands, and whether answers to probes have to say so, as its record does not.
func (c *Client) Tell(announced peer.Record) (at peer.Coordinate, say bool) {
	at, _ = c.Coordinate()
	return at, !announced.Placed || c.News(announced.Coordinate)
}

// Roamed notes that this node's network has changed: what was measured before says nothing any more, and where the node was is a guess.
func (c *Client) Roamed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked(func(string) bool { return false })
	c.recent, c.next = nil, 0
	now := c.vivaldi.GetCoordinate()
	now.Error, c.observed = c.config.VivaldiErrorMax, 0
	c.setLocked(now)
}

// Retain forgets the round trips to all but those that keep names.
func (c *Client) Retain(keep func(identity.NodeID) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked(func(name string) bool { return keep(identity.NodeID([]byte(name))) })
}

func (c *Client) forgetLocked(keep func(string) bool) {
	for name := range c.known {
		if !keep(name) {
			c.vivaldi.ForgetNode(name)
			delete(c.known, name)
		}
	}
}

// Stats returns the counts since the node's start.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

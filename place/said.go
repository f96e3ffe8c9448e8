package place

import (
	"time"

	"github.com/phantommesh/phantommesh/peer"
)

const (
	// newsLeast and newsShare are by how much others must misjudge this node for a new record: what the choice of a region, which wants
	// 5 ms and a half, begins to notice, and an eighth of the round trips, so that the last steps into place need none.
	newsLeast = 3 * time.Millisecond
	newsShare = 8
	// saidRestMin..Max: between two records that only a moved coordinate causes. The pause doubles while that goes on, so that a link whose
	// round trip keeps changing costs a record in half an hour: 50 bytes to each member, passed on by gossip some eight times.
	saidRestMin = 30 * time.Second
	saidRestMax = 30 * time.Minute
	// saidForget of staying in place makes it forget that.
	saidForget = time.Hour
)

// Said decides when the coordinate that the node's record shows is no longer true enough. The zero value has said nothing.
type Said struct {
	coordinate peer.Coordinate
	placed     bool
	at         time.Time
	rest       time.Duration
}

// Step takes in where a node is now and returns what its record is to say; placed is false as long as nothing is known.
func (s *Said) Step(c *Client, now time.Time) (say peer.Coordinate, placed bool) {
	is, settled := c.Coordinate()
	return s.step(is, settled, c.News(s.coordinate), now)
}

func (s *Said) step(is peer.Coordinate, settled, news bool, now time.Time) (say peer.Coordinate, placed bool) {
	switch {
	case !settled: // a new network, or the first moments: where it settles is news
		s.rest = saidRestMin
	case !s.placed:
		s.placed, s.coordinate, s.at, s.rest = true, is, now, saidRestMin
	case news && now.Sub(s.at) >= s.rest:
		if now.Sub(s.at) >= saidForget {
			s.rest = saidRestMin
		}
		s.coordinate, s.at, s.rest = is, now, min(2*s.rest, saidRestMax)
	}
	return s.coordinate, s.placed
}

package coordinator

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// A member that moves gets a new certificate, which all others fetch, and its old region may need another coordinator: so one that flaps
// between two networks must not set the pace. The leader counts; a change of leaders forgives.
const (
	moveEvery = 10 * time.Minute
	moveBurst = 4
)

type moveRegionRequest struct {
	_      struct{} `cbor:",toarray"`
	Region string
}

// MoveRegion makes this node a member of another region: the leader reissues its certificate with it, and the state that holds the new one has
// arrived here, or is about to, when this returns. If the node coordinated the region that it leaves, another is elected there. Moving to
// where it is already changes nothing. Errors: *Refused, for what is no region's name and for more than 4 moves at once or one every 10
// minutes; ErrNoQuorum.
func (g *Group) MoveRegion(ctx context.Context, region string) error {
	if certificate.CheckLabel(region) != nil {
		return notARegion(region)
	}
	if g.state.Load().RegionOf(g.self) == region {
		return nil
	}
	if _, err := g.decide(ctx, opMoveRegion, moveRegionRequest{Region: region}); err != nil {
		return err
	}
	g.pokeState()
	return nil
}

func notARegion(s string) *Refused {
	return refuse(RefusedRequest, "%q is not a region: 1 to 63 of a-z, 0-9 and inner hyphens", s)
}

// executeMoveRegion is the leader's part.
func (g *Group) executeMoveRegion(ctx context.Context, r *replica, asker identity.NodeID, b moveRegionRequest) ([]byte, error) {
	s := g.ledgerState(r)
	switch {
	case certificate.CheckLabel(b.Region) != nil:
		return nil, notARegion(b.Region)
	case s.RegionOf(asker) == b.Region:
		return nil, nil
	case !g.moves.allow(asker, time.Now()):
		return nil, refuse(RefusedNotAllowed, "this machine has changed its region too often; it may again in %s", moveEvery)
	}
	c := change{asker, "moved from " + s.RegionOf(asker) + " to " + b.Region, func(m *certificate.Member) { m.Region = b.Region }}
	err := g.reissue(ctx, r, asker, c)
	if err == nil {
		poke(g.wake) // a region may have come, or lost its coordinator
	}
	return nil, err
}

// moves holds how often each member has moved; askers does the same for questions.
type moves struct{ paces askers }

func (m *moves) allow(id identity.NodeID, now time.Time) bool {
	return m.paces.of(id, rate.Every(moveEvery), moveBurst).AllowN(now, 1)
}

package gossip

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// Memberlist probes one member every ProbeInterval, whether anything has happened or not, and every PushPullInterval it exchanges all it
// knows. In a mesh where nothing happens that is most of its traffic. So, in between:
//
//   - While the roster is calm, only one probe every CalmInterval is sent, to a neighbour; the others are answered here, as if the member had. The roster
//     is calm when nobody is suspected and nobody has come, gone, been suspected or asked for help with a probe for AlertTime. One probe that fails ends the calm
//     here, the suspicion that follows ends it everywhere, and detection goes on at memberlist's own pace.
//   - Probes and their answers carry a digest of who is here with which record. Who sees digests differ while no news is on its way
//     exchanges everything with the other, so that PushPullInterval can be long.

// calm spaces the probes that are sent while the roster is calm.
type calm struct {
	interval, alert time.Duration // constant

	mu     sync.Mutex // guards what follows
	next   time.Time  // when the next probe of a neighbour is sent
	latest time.Time  // when one is sent to whomever
	drift  drift
}

func newCalm(f Profile) *calm {
	return &calm{interval: f.CalmInterval, alert: f.AlertTime, drift: drift{least: f.AlertTime, most: f.PushPullInterval}}
}

// neighbours is how many members a node watches while it is quiet: those after it in the order of their IDs, so that each is watched by as
// many. Always the same, because between those who speak often there is a path, and its NATs remember it; to anybody else it would have
// to be found again for each probe.
const neighbours = 2

// spares reports whether the probe of a member need not be sent now. Otherwise it counts as sent. Where the mesh is so large that
// memberlist does not come round to the neighbours in time, another is probed instead. The intervals are jittered, so that not all probe
// at the same moment because they have all heard the same news.
func (c *calm) spares(quiet, neighbour bool, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if quiet && c.interval > 0 && (now.Before(c.next) || !neighbour && now.Before(c.latest)) {
		return true
	}
	c.next = now.Add(jitter(c.interval))
	c.latest = c.next.Add(2 * c.interval)
	return false
}

// differs takes in our digest and another's and reports whether to exchange everything with it.
func (c *calm) differs(ours, theirs uint64, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drift.step(ours, theirs, now)
}

// drift spaces the exchanges that differing digests lead to. Some differences stay, as one about a member whose certificate only one side
// has: each exchange that changes nothing here doubles the wait for the next.
type drift struct {
	least, most time.Duration // constant
	tried       uint64        // our digest at the last exchange
	wait        time.Duration
	next        time.Time
}

func (d *drift) step(ours, theirs uint64, now time.Time) bool {
	if ours == theirs || now.Before(d.next) && ours == d.tried {
		return false
	}
	if ours != d.tried {
		d.tried, d.wait = ours, d.least
	}
	d.wait = min(max(d.wait, d.least), d.most)
	d.next = now.Add(d.wait)
	d.wait *= 2
	return true
}

// stirLocked notes that somebody came, went, or is suspected.
func (r *roster) stirLocked(now time.Time) { r.stirred, r.news = now, now }

// stir notes that something may be wrong with somebody: for a while every probe is sent.
func (r *roster) stir(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stirLocked(now)
}

// quiet reports whether a probe of the member may wait: it and everybody else is well and has been for alert; and whether it is one of
// self's neighbours.
func (r *roster) quiet(self, id identity.NodeID, alert time.Duration, now time.Time) (quiet, neighbour bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.members[id]
	quiet = s != nil && s.state == peer.Alive && !r.unclear && r.suspicions == 0 && now.Sub(r.stirred) >= alert
	if !quiet {
		return false, false
	}
	between := 0
	for other, s := range r.members {
		if other != self && other != id && here(s.state) && follows(self, other, id) {
			between++
		}
	}
	return true, between < neighbours
}

// follows reports whether b comes before c when counting up from a, around the end.
func follows(a, b, c identity.NodeID) bool {
	if a.Compare(c) < 0 {
		return a.Compare(b) < 0 && b.Compare(c) < 0
	}
	return a.Compare(b) < 0 || b.Compare(c) < 0
}

// digest sums up who is here with which record: the same in all nodes that know the same. settled says that nothing has changed for
// alert, so that a difference is not news on its way.
func (r *roster) digest(alert time.Duration, now time.Time) (sum uint64, settled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.members {
		if here(s.state) {
			sum += mix(id, s.record.Sequence)
		}
	}
	return sum, now.Sub(r.news) >= alert
}

// mix hashes one member's standing. Addition of the results does not depend on their order. It need not withstand forgery: who lies gets
// an exchange that it could have asked for.
func mix(id identity.NodeID, sequence uint64) uint64 {
	// The ID is a hash already; the finalizer of splitmix64 spreads the sequence.
	x := binary.LittleEndian.Uint64(id[:8]) ^ sequence*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

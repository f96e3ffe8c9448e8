package coordinator

import (
	"encoding/binary"
	"hash/maphash"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// The deciders are functions of the ledger, the observation and the time. In a mesh where nothing happens the first two stay the same for
// days, and of the third all waits of Timing are over after a while. From then on only certificates' ends are near or far, and the deciders are
// asked rarely: in a mesh of sixty that was most of an idle leader's time.

// decideRarely is how often a leader's deciders look at a mesh that has settled.
const decideRarely = 10 * time.Second

// settled tells when that is so. It belongs to steer; its zero value has seen nothing.
type settled struct {
	ledger  *State
	seen    uint64 // the sum of the last observation
	changed time.Time
	asked   time.Time // when the deciders looked last
}

// spares reports whether the deciders need not look now. Otherwise they are taken to do so.
func (c *settled) spares(s *State, o Observation) bool {
	if sum := o.sum(); s != c.ledger || sum != c.seen {
		c.ledger, c.seen, c.changed = s, sum, o.Now
	}
	since := o.Now.Sub(c.asked) // the clock may have been set back
	if o.Now.Sub(c.changed) >= o.Timing.Shrink+decideRarely && since >= 0 && since < decideRarely {
		return true
	}
	c.asked = o.Now
	return false
}

// stir has the deciders look again and again: they have just proposed something.
func (c *settled) stir(now time.Time) { c.changed = now }

var observed = maphash.MakeSeed()

// sum is the same for observations that differ in nothing but the moment, and the order of maps.
func (o Observation) sum() (sum uint64) {
	add := func(what byte, id identity.NodeID, value uint64) {
		var b [1 + len(id) + 8]byte
		b[0] = what
		copy(b[1:], id[:])
		binary.LittleEndian.PutUint64(b[1+len(id):], value)
		sum += maphash.Bytes(observed, b[:])
	}
	for i, list := range [][]identity.NodeID{o.Voters, o.Staged} {
		for _, id := range list {
			add(byte(i), id, 0)
		}
	}
	for i, times := range []map[identity.NodeID]time.Time{o.Alive, o.Gone, o.PoorSince} {
		for id, since := range times {
			add([]byte{2, 3, 12}[i], id, uint64(since.UnixNano()))
		}
	}
	for i, set := range []map[identity.NodeID]bool{o.CaughtUp, o.Poor, o.Unwilling, o.Silent, o.Yielding} {
		for id, is := range set {
			if is {
				add(byte(4+i), id, 0)
			}
		}
	}
	for id, version := range o.Holds {
		add(9, id, version)
	}
	for id, offer := range o.Offers {
		busy := uint64(0)
		if offer.Busy {
			busy = 1
		}
		add(11, id, busy+2*maphash.String(observed, offer.Network.String()))
	}
	add(10, o.Self, uint64(o.KeyringSeen.UnixNano()))
	return sum
}

package reach

import (
	"net/netip"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

const (
	// historiesMax bounds the members of which anything is remembered; the one wanted longest ago goes first.
	historiesMax = 1024
	// punchesKept are the attempts that are remembered of each, for people.
	punchesKept = 8
	// inUse is for how long after the last packet, or the last search, a member counts as used: then its path sleeps.
	inUse = time.Minute
)

// history is what happened with one member.
type history struct {
	wanted       time.Time // when the underlay last searched for it
	pace         pace
	known        knowledge // of it, when the pace was last set back
	helpNext     time.Time // a second relay is not looked for before
	helps        int       // how often it was, in vain
	tunnel       bool      // it had a tunnel with us when last looked at
	ours         bool      // a punch of ours is under way
	joined       int       // punches under way that the member began
	punches      []Punch   // the latest last
	relays       map[identity.NodeID]RelayTried
	situation    nat.Situation // as it told us last
	hasSituation bool
}

// knowledge is what of a record changes where a member is to be found. Two that are equal promise nothing new.
type knowledge struct {
	endpoints [peer.EndpointsMax]netip.AddrPort
	nat       peer.NAT
}

func knowledgeOf(rec peer.Record) knowledge {
	k := knowledge{nat: rec.NAT}
	for i, e := range rec.Endpoints[:min(len(rec.Endpoints), peer.EndpointsMax)] {
		k.endpoints[i] = e.Addr
	}
	return k
}

// Punch is one attempt to make a direct path, for people.
type Punch struct {
	At       time.Time
	Took     time.Duration
	Began    bool // by us
	Strategy string
	Result   string // "direct", or why not
}

// RelayTried is how an attempt to reach a member through a relay ended.
type RelayTried struct {
	ID     identity.NodeID
	Result string
	At     time.Time
}

// historyLocked is that of the member, made if there is none.
func (r *Reach) historyLocked(id identity.NodeID) *history {
	h := r.peers[id]
	if h != nil {
		return h
	}
	if len(r.peers) >= historiesMax {
		var oldest identity.NodeID
		for other, o := range r.peers {
			if !o.busy() && (oldest.IsZero() || o.wanted.Before(r.peers[oldest].wanted)) {
				oldest = other
			}
		}
		delete(r.peers, oldest)
	}
	h = &history{relays: map[identity.NodeID]RelayTried{}}
	r.peers[id] = h
	return h
}

// busy reports whether a punch is under way.
func (h *history) busy() bool { return h.ours || h.joined > 0 }

// note keeps an attempt.
func (h *history) note(p Punch) {
	h.punches = append(h.punches, p)
	if len(h.punches) > punchesKept {
		h.punches = h.punches[len(h.punches)-punchesKept:]
	}
}

package node

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Bounds on the requests of machines without an invitation. Every attempt is one guess in a million for a machine in the middle, so attempts
// are what is counted, those that are broken off too: a member takes at most 24+40 in the ten minutes that a code is shown.
const (
	petitionsMax      = 24
	petitionEvery     = 15 * time.Second
	petitionBurst     = 24
	petitionsPerPlace = 6 // of one address (IPv6 from beyond our own networks: /64), refilled one a minute
	placeEvery        = time.Minute
	placesMax         = 256
	petitionLife      = coordinator.ApprovalLife
)

// petition is a machine that has asked this member to be let in.
type petition struct {
	id      identity.NodeID
	code    string
	name    string
	from    netip.AddrPort
	lan     bool // it is in one of our own networks
	since   time.Time
	raw     []byte       // the signed request
	verdict chan verdict // 1
}

// verdict is what somebody in the mesh decided.
type verdict struct {
	admitted bool
	done     chan error // told once it has been carried out; 1
}

// petitions are the requests that wait here. They are kept in memory only: a code is worth nothing once its connection is gone.
type petitions struct {
	mu     sync.Mutex // guards what follows
	byID   map[identity.NodeID]*petition
	all    *rate.Limiter
	places map[netip.Prefix]*rate.Limiter

	refused uint64 // attempts over a bound
}

func newPetitions() *petitions {
	return &petitions{byID: map[identity.NodeID]*petition{}, all: rate.NewLimiter(rate.Every(petitionEvery), petitionBurst),
		places: map[netip.Prefix]*rate.Limiter{}}
}

// attempt takes an attempt from an address, which may be onLink, in one of our own networks; or it says in words for the joiner why not.
func (p *petitions) attempt(from netip.Addr, onLink bool, now time.Time) (refusal string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	place := p.placeLocked(placeOf(from, onLink), now)
	switch {
	case len(p.byID) >= petitionsMax:
		refusal = "too many machines wait to be approved here; approve or refuse some (phantom requests on a member), then try again"
	case place == nil || !place.AllowN(now, 1), !p.all.AllowN(now, 1):
		refusal = "too many requests in a short time; try again in some minutes, or join with an invitation"
	default:
		return ""
	}
	p.refused++
	return refusal
}

// placeOf is what one machine can be expected to hold: an address; of IPv6 the /64 that a site has, unless it is our own, which the machines of
// this LAN share.
func placeOf(from netip.Addr, onLink bool) netip.Prefix {
	bits := from.BitLen()
	if from.Is6() && !onLink {
		bits = 64
	}
	prefix, err := from.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// placeLocked is the limiter of a place; nil when too many are remembered.
func (p *petitions) placeLocked(prefix netip.Prefix, now time.Time) *rate.Limiter {
	if l, ok := p.places[prefix]; ok {
		return l
	}
	for k, l := range p.places {
		if l.TokensAt(now) >= petitionsPerPlace { // as good as forgotten
			delete(p.places, k)
		}
	}
	if len(p.places) >= placesMax {
		return nil
	}
	l := rate.NewLimiter(rate.Every(placeEvery), petitionsPerPlace)
	p.places[prefix] = l
	return l
}

// add enters a request. An older one of the same machine is over. It reports false when there is no room after all.
func (p *petitions) add(r *petition) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, again := p.byID[r.id]; !again && len(p.byID) >= petitionsMax {
		return false
	}
	p.byID[r.id] = r
	return true
}

// remove takes it out again, unless a newer one has taken its place.
func (p *petitions) remove(r *petition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byID[r.id] == r {
		delete(p.byID, r.id)
	}
}

// refusals counts the attempts over a bound.
func (p *petitions) refusals() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// get returns the request of a machine.
func (p *petitions) get(id identity.NodeID) *petition {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byID[id]
}

// list returns all, the oldest first.
func (p *petitions) list() []*petition {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*petition, 0, len(p.byID))
	for _, r := range p.byID {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *petition) int {
		return cmp.Or(a.since.Compare(b.since), a.id.Compare(b.id))
	})
	return out
}

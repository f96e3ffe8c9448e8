package dataplane

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/phantommesh/phantommesh/crypto/exchange"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// tunnel is everything about the way to one member.
type tunnel struct {
	id identity.NodeID // constant

	// Read and written by the packet path, without a lock.
	open     atomic.Bool   // packets pass; written by the conductor, under the wait queue's lock as well
	sent     atomic.Bool   // a packet went out since the last sample
	received atomic.Bool   // one came in
	watched  atomic.Bool   // report the next packet
	flags    atomic.Uint32 // what the conductor has not heard of yet, see flag
	mtu      atomic.Int32  // the largest packet that passes, in bytes; zero: any. Written by the conductor
	account  account       // outgoing credits
	waiting  waitQueue

	// Guarded by mu: the exchange machine and those who wait for the tunnel.
	mu      sync.Mutex
	machine *exchange.Machine
	waiters []chan error
	ended   error // why it was dropped; nil: it was not

	// Owned by the conductor.
	state     tunnelState
	key       identity.WireGuardKey
	addresses []netip.Addr
	peer      *device.Peer
	routed    bool      // the interface has been told of the path's MTU
	due       time.Time // next tick; zero: none
	before    traffic   // bytes of peers that this one replaced

	// Published by the conductor for everybody.
	view atomic.Pointer[view]
}

// view is what others may know of a tunnel's state.
type view struct {
	phase   phase
	running bool
	session bool
	epoch   uint64
	keyAt   time.Time
	key     identity.WireGuardKey
	before  traffic
}

// traffic are bytes as WireGuard counts them.
type traffic struct{ rx, tx uint64 }

// flag is one bit of news from the packet path or another goroutine: it can be set any number of times before the conductor
// looks, and costs the same.
type flag = uint32

const (
	flagWanted flag = 1 << iota
	flagOrphaned
	flagLost
	flagAnswered
	flagCarried
)

// registry is the set of tunnels. Readers take a snapshot without a lock.
type registry struct {
	now atomic.Pointer[snapshot]

	mu sync.Mutex // writers
}

// snapshot is one immutable state of the registry.
type snapshot struct {
	byID      map[identity.NodeID]*tunnel
	byAddress map[netip.Addr]*tunnel
}

func newRegistry() *registry {
	r := &registry{}
	r.now.Store(&snapshot{})
	return r
}

// get returns the tunnel to id, or nil.
func (r *registry) get(id identity.NodeID) *tunnel { return r.now.Load().byID[id] }

// each calls f for every tunnel.
func (r *registry) each(f func(*tunnel)) {
	for _, t := range r.now.Load().byID {
		f(t)
	}
}

// enter returns the tunnel to the member, made if there is none. Copying the maps costs a microsecond per dozen tunnels, once
// for each tunnel made: bounded by the mesh.
func (r *registry) enter(e peer.Entry) *tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.now.Load()
	if t := old.byID[e.ID]; t != nil {
		return t
	}
	t := &tunnel{id: e.ID, key: e.Member.Public.WireGuard, addresses: e.Member.Addresses()}
	t.account.stuck.Store(true) // until its session carries the first packet
	t.state.since = time.Now()
	t.due = t.state.since.Add(forgetAfter)
	t.view.Store(&view{key: t.key})
	s := &snapshot{byID: maps.Clone(old.byID), byAddress: maps.Clone(old.byAddress)}
	if s.byID == nil {
		s.byID, s.byAddress = map[identity.NodeID]*tunnel{}, map[netip.Addr]*tunnel{}
	}
	s.byID[t.id] = t
	for _, a := range t.addresses {
		s.byAddress[a] = t
	}
	r.now.Store(s)
	return t
}

// remove takes the tunnel out.
func (r *registry) remove(t *tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.now.Load()
	if old.byID[t.id] != t {
		return
	}
	s := &snapshot{byID: maps.Clone(old.byID), byAddress: maps.Clone(old.byAddress)}
	delete(s.byID, t.id)
	maps.DeleteFunc(s.byAddress, func(_ netip.Addr, other *tunnel) bool { return other == t })
	r.now.Store(s)
}

package firewall

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/dataplane"
	"github.com/phantommesh/phantommesh/policy"
)

// looseFor is for how long, in seconds, a new firewall takes a TCP segment that answers a connection which a rule allows for an answer,
// although it has not seen the connection: those that exist already live on when the side that only receives restarts.
const looseFor = 120

// Firewall is a dataplane.Filter. Make one with New.
type Firewall struct {
	began time.Time
	book  atomic.Pointer[book] // nil: all pass, nothing is remembered
	sizes sizes
	drops [2][reasons]atomic.Uint64
	last  lastDrops

	mu     sync.Mutex // guards what follows; taken before a table's
	number uint32     // of the last book
	tables map[identity.NodeID]*table
}

var _ dataplane.Filter = (*Firewall)(nil)

// book is what a policy means for this node, immutable.
type book struct {
	number     uint32
	own4, own6 netip.Addr
	peers      map[netip.Addr]*peer
	loose      uint32 // until then, see looseFor
	watching   bool   // all pass; flows are only remembered
}

// peer is one address of a member.
type peer struct {
	in, out *policy.Services
	table   *table
	quick   atomic.Pointer[quickPass] // nil until a packet has passed
}

// services are what may be opened in a direction.
func (p *peer) services(inbound bool) *policy.Services {
	if inbound {
		return p.in
	}
	return p.out
}

// New makes a firewall that lets everything pass.
func New() *Firewall {
	return &Firewall{began: time.Now(), tables: map[identity.NodeID]*table{}}
}

// now is in seconds since the firewall was made, and never zero.
func (f *Firewall) now() uint32 { return uint32(time.Since(f.began)/time.Second) + 1 }

// Set puts a compiled policy in force and returns how many flows it ends. Nil lets everything pass, and forgets the flows.
func (f *Firewall) Set(m *policy.Matcher) (ended int) { return f.set(m, false) }

// Watch lets everything pass and remembers the flows: to see what a first policy would cut. m is of the policy that allows everything.
func (f *Firewall) Watch(m *policy.Matcher) { f.set(m, true) }

func (f *Firewall) set(m *policy.Matcher, watching bool) (ended int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.book.Load()
	if m == nil {
		f.book.Store(nil)
		f.retain(nil)
		return 0
	}
	f.number++
	b := &book{number: f.number, peers: make(map[netip.Addr]*peer, len(m.Peers)), watching: watching, loose: f.now() + looseFor}
	if old != nil && old.watching == watching {
		b.loose = old.loose
	}
	if old != nil && old.watching && !watching {
		f.retain(nil) // their openers were guessed
	}
	for _, a := range m.Own {
		if a.Is4() {
			b.own4 = a
		} else {
			b.own6 = a
		}
	}
	keep := map[identity.NodeID]bool{}
	for a, rules := range m.Peers {
		t := f.tables[rules.ID]
		if t == nil {
			t = &table{flows: map[flowKey]flow{}}
			f.tables[rules.ID] = t
		}
		keep[rules.ID] = true
		b.peers[a] = &peer{in: rules.In, out: rules.Out, table: t}
	}
	f.book.Store(b)
	f.retain(keep)
	for a, p := range b.peers {
		ended += f.rejudge(b, p, a.Is6())
	}
	return ended
}

// retain drops the tables of all but some peers.
func (f *Firewall) retain(keep map[identity.NodeID]bool) {
	for id, t := range f.tables {
		if keep[id] {
			continue
		}
		t.mu.Lock()
		f.sizes.flows.Add(-int64(len(t.flows)))
		t.flows, t.gone = nil, true
		t.mu.Unlock()
		delete(f.tables, id)
	}
}

// rejudge ends the flows over one address of a peer that a book does not allow. Packets that pass meanwhile do the same for their flow.
func (f *Firewall) rejudge(b *book, p *peer, v6 bool) (ended int) {
	now := f.now()
	p.table.mu.Lock()
	defer p.table.mu.Unlock()
	for k, fl := range p.table.flows {
		switch {
		case k.v6() != v6 || fl.book == b.number:
		case fl.expired(now):
			p.table.removeLocked(k, &f.sizes)
		case !p.services(fl.inbound).Allows(k.protocol(), k.port(fl.inbound)):
			p.table.removeLocked(k, &f.sizes)
			ended++
		default:
			fl.book = b.number
			p.table.flows[k] = fl
		}
	}
	return ended
}

// Allow implements dataplane.Filter.
func (f *Firewall) Allow(d dataplane.Direction, packet []byte) bool {
	b := f.book.Load()
	if b == nil {
		return true
	}
	var h header
	if !h.parse(packet, false) {
		return f.drop(b, d, malformed, &h)
	}
	local, remote := h.src, h.dst
	if d == dataplane.Inbound {
		local, remote = h.dst, h.src
	}
	if local != b.own4 && local != b.own6 {
		return f.drop(b, d, foreign, &h)
	}
	p, ok := b.peers[remote]
	if !ok {
		// Outbound the plane says why there is no way, better than we could; what it has a way for after all, the receiver filters.
		return d == dataplane.Outbound || f.drop(b, d, foreign, &h)
	}
	j := judgement{firewall: f, book: b, peer: p, inbound: d == dataplane.Inbound, now: f.now()}
	tag, plain := j.quickTag(&h)
	if plain && p.passed(tag) {
		return true
	}
	p.table.mu.Lock()
	why := j.judge(&h)
	p.table.mu.Unlock()
	if why != passes {
		return f.drop(b, d, why, &h)
	}
	if plain {
		p.note(tag)
	}
	return true
}

package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

const (
	// RumourMax is the largest payload of a rumour in bytes, so that one fits a packet beside a probe.
	RumourMax = 512
	// rumourEncodedMax bounds a rumour's encoding: payload, origin (32), signature (64), sequence, time and CBOR's own bytes.
	rumourEncodedMax = RumourMax + 160

	// rumourLife is how long a rumour may travel. Gossip needs seconds, clocks may be five minutes apart (as for certificates).
	rumourLife = 5*time.Minute + clockSkew
	// rumourMult is the rumours' RetransmitMult (see Profile). A member state is repaired by the next push/pull, a rumour by nothing: ten
	// copies from each of six nodes leave a given one out once in 100,000 rumours.
	rumourMult = 10
	// rumoursInMax, rumoursWaitingMax and rumoursSpreadMax bound the queues of messages with rumours not yet checked, of rumours not yet read by the
	// pool's user, and of those still being spread. In each, 512 are at most 0.7 MB and more than a burst of decisions.
	rumoursInMax      = 512
	rumoursWaitingMax = 512
	rumoursSpreadMax  = 512
)

const rumourContext = "phantommesh rumour v1"

// ErrRumour says that a rumour cannot be spread.
var ErrRumour = errors.New("gossip: rumour too large")

// errRumourForm says that something is no rumour, or not its origin's.
var errRumourForm = errors.New("gossip: bad rumour")

// Rumour is a small message that reaches every member of the mesh, or of the pool if it is a local one, within seconds, in any order, very likely but not surely. A
// member that restarted may get one twice. So a rumour says that there is something to fetch, or what it says may be said twice.
type Rumour struct {
	// From is the member that started it, proven by its signature.
	From identity.NodeID
	// Topic tells the kinds of rumours apart; the pools' user defines them, from 0 to 127.
	Topic uint8
	// Scope is the pool of a local rumour, which is in no other; empty for one that crosses.
	Scope Scope
	// Payload is at most RumourMax bytes.
	Payload []byte
	// At is when it was started by its origin's clock, which may be off by clockSkew.
	At time.Time
}

// rumourBody is what the origin signs, as canonical CBOR.
type rumourBody struct {
	_        struct{} `cbor:",toarray"`
	Mesh     []byte   // 32 bytes; not sent, see rumourWire
	Origin   []byte   // 32 bytes
	Sequence uint64   // the origin's own count; with Origin it names the rumour
	At       uint64   // Unix time in milliseconds
	Topic    uint8
	Payload  []byte
}

// rumourWire is a rumour as it travels. The mesh is in the signature only: the seal already keeps meshes apart.
type rumourWire struct {
	_         struct{} `cbor:",toarray"`
	Origin    []byte
	Sequence  uint64
	At        uint64
	Topic     uint8
	Payload   []byte
	Signature []byte // Ed25519, 64 bytes
}

// parseRumour reads a rumour without checking its signature.
func parseRumour(b []byte) (*rumourWire, error) {
	if len(b) > rumourEncodedMax {
		return nil, fmt.Errorf("%w: %d bytes", errRumourForm, len(b))
	}
	w := &rumourWire{}
	if err := wire.Unmarshal(b, w); err != nil {
		return nil, fmt.Errorf("%w: %w", errRumourForm, err)
	}
	if len(w.Origin) != len(identity.NodeID{}) || len(w.Payload) > RumourMax || len(w.Signature) != 64 {
		return nil, fmt.Errorf("%w: fields of %d, %d and %d bytes", errRumourForm, len(w.Origin), len(w.Payload), len(w.Signature))
	}
	return w, nil
}

// signedBytes returns what the origin signs.
func (w *rumourWire) signedBytes(mesh identity.MeshID) ([]byte, error) {
	return wire.Marshal(&rumourBody{
		Mesh: mesh[:], Origin: w.Origin, Sequence: w.Sequence, At: w.At, Topic: w.Topic, Payload: w.Payload,
	})
}

func (w *rumourWire) name() rumourName {
	return rumourName{origin: identity.NodeID(w.Origin), sequence: w.Sequence}
}

// localTopic marks the topics of rumours that stay in the pool in which they were begun. All others cross: who hears one spreads it in all
// pools that it is in, so that whoever is in two is a bridge between them.
const localTopic uint8 = 0x80

// rumours is the host's part that spreads and hears them.
type rumours struct {
	h        *Host
	in       chan heardIn
	out      chan Rumour
	sequence atomic.Uint64
	heard    *heard // used by the reader's goroutine only
	// remembered is how many it has heard and not forgotten yet.
	remembered atomic.Int64
}

// heardIn is a message, one rumour or several, and the pool it came from.
type heardIn struct {
	pool    *Pool
	message []byte
}

func newRumours(h *Host) *rumours {
	r := &rumours{h: h, in: make(chan heardIn, rumoursInMax), out: make(chan Rumour, rumoursWaitingMax), heard: newHeard()}
	// The count goes on from the clock, so that a restarted node does not repeat a name.
	r.sequence.Store(uint64(h.cfg.Now().UnixNano()))
	return r
}

// newQueue returns the queue of rumours that are being spread in the pool.
func (p *Pool) newQueue() *memberlist.TransmitLimitedQueue {
	q := &memberlist.TransmitLimitedQueue{
		NumNodes:       func() int { return max(1, p.roster.count()) },
		RetransmitMult: rumourMult,
	}
	// A guard against the queue's own bookkeeping: whenever it runs empty it begins to number anew, and of two messages of one size
	// and number it loses one. What never fits into a packet is never sent and keeps it from running empty.
	q.QueueBroadcast(broadcast(make([]byte, packetMax+1)))
	return q
}

// broadcast is a rumour in the queue. None replaces another.
type broadcast []byte

// Invalidates implements memberlist.Broadcast.
func (broadcast) Invalidates(memberlist.Broadcast) bool { return false }

// Message implements memberlist.Broadcast.
func (b broadcast) Message() []byte { return b }

// Finished implements memberlist.Broadcast.
func (broadcast) Finished() {}

// UniqueBroadcast implements memberlist.UniqueBroadcast.
func (broadcast) UniqueBroadcast() {}

// spread has a rumour told in the pools.
func spread(b []byte, in ...*Pool) {
	for _, p := range in {
		p.spreading.QueueBroadcast(broadcast(b))
		p.spreading.Prune(rumoursSpreadMax)
		p.wakeTeller()
	}
}

// wakeTeller has tellRumours look whether there is something to tell, and somebody.
func (p *Pool) wakeTeller() {
	select {
	case p.rumoured <- struct{}{}:
	default:
	}
}

// tellRumours tells a few members of the rumours that are being spread, every GossipInterval while there are any. Memberlist would do so too, but only
// with the room that its own news leave in a packet: none for minutes, in a large pool in which many have something new to say of themselves.
func (p *Pool) tellRumours() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.rumoured:
		}
		for p.spreading.NumQueued() > 1 { // one stays, see newQueue
			some := p.roster.draw(p.profile.GossipNodes, p.self)
			if len(some) == 0 {
				break // who comes wakes us
			}
			for _, to := range some {
				if told := p.spreading.GetBroadcasts(1, packetMax); len(told) > 0 {
					if err := p.list.SendToAddress(memberlistAddress(p.mesh, to), bytes.Join(told, nil)); err != nil {
						p.log.Debug("rumours not sent", "peer", to.Short(), "rumours", len(told), "err", err)
					}
				}
			}
			select {
			case <-p.ctx.Done():
				return
			case <-time.After(p.profile.GossipInterval):
			}
		}
	}
}

// Rumour starts a rumour in all pools of this node. It returns at once; whom it reaches, and when, is not told. Our own rumours do not come
// back to us.
func (h *Host) Rumour(topic uint8, payload []byte) error {
	return h.rumours.begin(topic&^localTopic, payload, *h.pools.Load()...)
}

// LocalRumour starts a rumour that stays in this pool. Its topics are those of [Host.Rumour] once more.
func (p *Pool) LocalRumour(topic uint8, payload []byte) error {
	return p.host.rumours.begin(topic|localTopic, payload, p)
}

func (r *rumours) begin(topic uint8, payload []byte, in ...*Pool) error {
	if len(payload) > RumourMax {
		return fmt.Errorf("%w: %d bytes, at most %d; spread that there is something to fetch instead", ErrRumour, len(payload), RumourMax)
	}
	self := r.h.cfg.Self
	w := &rumourWire{
		Origin: self[:], Sequence: r.sequence.Add(1), At: uint64(r.h.cfg.Now().UnixMilli()), Topic: topic, Payload: payload,
	}
	if w.Payload == nil {
		w.Payload = []byte{}
	}
	signed, err := w.signedBytes(r.h.cfg.Mesh)
	if err != nil {
		return fmt.Errorf("gossip: encode rumour: %w", err)
	}
	w.Signature = r.h.cfg.Key.SignEd25519(rumourContext, signed)
	b, err := wire.Marshal(w)
	if err != nil {
		return fmt.Errorf("gossip: encode rumour: %w", err)
	}
	r.h.stats.rumoursOut.Add(1)
	spread(b, in...)
	return nil
}

// Rumours gives the rumours of other members, each once. A reader that does not keep up loses the newest; they are counted.
func (h *Host) Rumours() <-chan Rumour { return h.rumours.out }

// take is called by memberlist with a message that came; it copies it and returns.
func (r *rumours) take(from *Pool, b []byte) {
	if len(b) > packetMax {
		r.h.stats.refuse(refusedRumour)
		return
	}
	select {
	case r.in <- heardIn{from, append([]byte(nil), b...)}:
	default:
		r.h.stats.refuse(refusedBusy)
	}
}

// run is the goroutine that checks rumours, passes them on and delivers them.
func (r *rumours) run() {
	for {
		select {
		case <-r.h.ctx.Done():
			return
		case m := <-r.in:
			r.hearAll(m, r.h.cfg.Now())
		}
	}
}

// hearAll takes the rumours of a message one by one. What follows after something that is none is not looked at.
func (r *rumours) hearAll(m heardIn, now time.Time) {
	for rest := m.message; len(rest) > 0; {
		var err error
		if m.message, rest, err = wire.First(rest); err != nil {
			r.h.stats.refuse(refusedRumour)
			return
		}
		if why, ok := r.hear(m, now); !ok {
			r.h.stats.refuse(why)
		}
	}
}

// hear takes one rumour, now by the machine's clock, or says why not. Signatures come last: a repetition costs a look into a map.
func (r *rumours) hear(m heardIn, now time.Time) (why refusal, ok bool) {
	w, err := parseRumour(m.message)
	if err != nil {
		return refusedRumour, false
	}
	name := w.name()
	if name.origin == r.h.cfg.Self {
		return refusedRepeat, false
	}
	at := time.UnixMilli(int64(min(w.At, 1<<62)))
	age := now.Sub(at)
	if age > rumourLife || age < -clockSkew {
		return refusedStale, false
	}
	if why, ok := r.heard.admits(name, time.Now()); !ok {
		return why, false
	}
	e, known := r.h.cfg.Peers.Get(name.origin)
	switch {
	case !known:
		return refusedStranger, false
	case e.Revoked:
		return refusedRevoked, false
	}
	signed, err := w.signedBytes(r.h.cfg.Mesh)
	if err != nil || e.Member.Public.VerifyEd25519(rumourContext, signed, w.Signature) != nil {
		return refusedRumour, false
	}
	r.heard.add(name, time.Now().Add(rumourLife-age)) // not by the clock: it may be set back by months
	r.remembered.Store(int64(len(r.heard.names)))
	r.h.stats.rumoursIn.Add(1)
	out := Rumour{From: name.origin, Topic: w.Topic &^ localTopic, Payload: w.Payload, At: at}
	if w.Topic&localTopic != 0 {
		out.Scope = m.pool.scope
		spread(m.message, m.pool)
	} else {
		spread(m.message, *r.h.pools.Load()...)
	}
	select {
	case r.out <- out:
	default:
		r.h.stats.rumoursLost.Add(1)
	}
	return 0, true
}

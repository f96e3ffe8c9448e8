package gossip

import (
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/memberlist"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Memberlist orders what is said of a node by its incarnation, which only the node itself raises: to say something new, and to refute. But
// nothing signs it. Whoever has the gossip key could say one of a node that it never had: an accusation ahead of it would hold until the node has
// counted up to it, one at the end of the numbers for ever, and an old record under a high one would keep out all newer.
//
// So what comes is looked at before memberlist sees it. What a node says itself, on its own path or stream, counts as it is. What others say of it may
// be ahead of what is known only as far as the node can have counted meanwhile; news that are farther have the node asked itself. An accusation that is
// ahead counts in the incarnation that is known, in which anybody may accuse anyway. It may be true: who counts and leaves at once is heard to
// leave, but not to have counted, as memberlist tells only the last that it knows of a node. Refused messages are left out, those beside
// them go on.
//
// It is pure but for its lock: time comes in.
type incarnations struct {
	mu    sync.Mutex
	self  identity.NodeID
	known map[identity.NodeID]*counted
}

// counted is what is known of one node's incarnation.
type counted struct {
	at     uint32
	spare  uint32    // by how much others may raise it
	filled time.Time // when spare was reckoned
	asked  time.Time // when it was to be asked itself last
}

const (
	// incarnationMax is as far as anybody but the node itself is believed. A node counts once for each change of its record, twice a second at
	// most, and for each accusation: a quarter of the numbers would take it years, and the rest is room to refute.
	incarnationMax = 1 << 30
	// hearsayBurst and hearsayRate (a second) bound by how much others may raise a node's incarnation here: what it counts while this node hears
	// nothing of it. Whoever raises it as fast as that needs two years to the bound above.
	hearsayBurst = 1024
	hearsayRate  = 16
	// recallBurst and recallRate are the same for our own: after a restart, others remember how far we had counted, and we must count on from there.
	recallBurst = 1 << 20
	recallRate  = 1 << 14
)

func newIncarnations(self identity.NodeID) *incarnations {
	return &incarnations{self: self, known: map[identity.NodeID]*counted{}}
}

// says is a message about a node's life.
type says struct {
	about, from identity.NodeID // from is who sent it, zero if not known
	incarnation uint32
	alive       bool // else suspect, dead or left
	genuine     bool // of an alive message: the record in it is the node's own, and it is a member
}

// admit reports whether memberlist may see a message, in which incarnation, and whether the node should rather be asked itself.
func (g *incarnations) admit(m says, now time.Time) (as uint32, ok, ask bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.known[m.about]
	burst, rate := uint32(hearsayBurst), uint32(hearsayRate)
	if m.about == g.self {
		burst, rate = recallBurst, recallRate
	}
	switch {
	case m.alive && !m.genuine:
		return m.incarnation, true, false // memberlist's delegate refuses it, and says why
	case m.from == m.about && m.about != g.self:
		if m.alive {
			g.raiseLocked(m.about, m.incarnation, now)
		}
		return m.incarnation, true, false
	case m.incarnation > incarnationMax:
		return 0, false, c != nil && g.askLocked(c, m, now)
	case c == nil:
		if m.alive {
			g.raiseLocked(m.about, m.incarnation, now)
		}
		return m.incarnation, true, false
	case m.incarnation <= c.at:
		return m.incarnation, true, false
	}
	c.refill(burst, rate, now)
	ahead := m.incarnation - c.at
	if ahead > c.spare {
		return 0, false, g.askLocked(c, m, now)
	}
	if !m.alive && m.about != g.self {
		return c.at, true, false
	}
	c.spare -= ahead
	c.at = m.incarnation
	return m.incarnation, true, false
}

// itselfEvery is the least time between two questions to one node: a stream and an exchange of everything.
const itselfEvery = 10 * time.Second

func (g *incarnations) askLocked(c *counted, m says, now time.Time) bool {
	if !m.alive || m.about == g.self || now.Sub(c.asked) < itselfEvery {
		return false
	}
	c.asked = now
	return true
}

// raiseLocked enters what a node says itself, or the first that is heard of it.
func (g *incarnations) raiseLocked(id identity.NodeID, to uint32, now time.Time) {
	c := g.known[id]
	if c == nil {
		c = &counted{spare: hearsayBurst, filled: now}
		if id == g.self {
			c.spare = recallBurst
		}
		g.known[id] = c
	}
	c.at = max(c.at, to)
}

func (c *counted) refill(burst, rate uint32, now time.Time) {
	if passed := now.Sub(c.filled); passed >= time.Second {
		c.spare = uint32(min(uint64(burst), uint64(c.spare)+uint64(passed/time.Second)*uint64(rate)))
		c.filled = now
	}
}

// own enters how far we have counted ourselves.
func (g *incarnations) own(incarnation uint32, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.raiseLocked(g.self, incarnation, now)
}

// counted is how far a node is known to have counted; zero of one that is not known.
func (g *incarnations) counted(id identity.NodeID) uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.known[id]; c != nil {
		return c.at
	}
	return 0
}

// keep forgets nodes that are members no more.
func (g *incarnations) keep(member func(identity.NodeID) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id := range g.known {
		if id != g.self && !member(id) {
			delete(g.known, id)
		}
	}
}

func (g *incarnations) size() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.known)
}

// lifeMessage are the fields that alive, suspect and dead have in common, and those of alive.
type lifeMessage struct {
	Incarnation uint32
	Node        string
	Addr        []byte
	Port        uint16
	Meta        []byte
	Vsn         []uint8
}

// accusation is memberlist's suspect and dead.
type accusation struct {
	Incarnation uint32
	Node, From  string
}

// believes decides on one message of a packet, and returns it as it is to be believed.
func (t *transport) believes(kind byte, body []byte, from identity.NodeID, now time.Time) ([]byte, bool) {
	if kind != typeAlive && kind != typeSuspect && kind != typeDead {
		return body, true
	}
	var m lifeMessage
	var handle codec.MsgpackHandle
	if err := codec.NewDecoderBytes(body, &handle).Decode(&m); err != nil {
		return body, true // memberlist reads no more of it than we
	}
	id, err := identity.ParseNodeID(m.Node)
	if err != nil {
		return body, true // refused by name
	}
	as, ok := t.heeds(says{about: id, from: from, incarnation: m.Incarnation, alive: kind == typeAlive}, m.Meta, now)
	if !ok || as == m.Incarnation {
		return body, ok
	}
	var a accusation // only of these the incarnation is changed
	if err := codec.NewDecoderBytes(body, &handle).Decode(&a); err != nil {
		return body, false
	}
	a.Incarnation = as
	message, err := encodeMessage(kind, a)
	if err != nil {
		return body, false
	}
	return message[1:], true
}

// heeds decides on what is said of a node, with the record it is said with, and in which incarnation it counts.
func (t *transport) heeds(m says, meta []byte, now time.Time) (as uint32, ok bool) {
	if m.alive {
		e, known := t.peers.Get(m.about)
		if m.genuine = known && !e.Revoked; m.genuine {
			_, m.genuine = t.admission.verify(m.about, e, meta)
		}
		if m.about == t.self {
			m.genuine = true // whatever it is, memberlist refutes it
		}
	}
	as, ok, ask := t.incarnations.admit(m, now)
	if !ok {
		t.stats.refuse(refusedAhead)
	}
	if ask {
		select {
		case t.asks <- m.about:
		default: // later
		}
	}
	return as, ok
}

// noteOwn looks whether an alive message that goes out is about ourselves.
func (t *transport) noteOwn(body []byte) {
	var m lifeMessage
	var handle codec.MsgpackHandle
	if codec.NewDecoderBytes(body, &handle).Decode(&m) == nil && m.Node == t.self.String() {
		t.incarnations.own(m.Incarnation, time.Now())
	}
}

// listed is one entry of a push/pull, memberlist's pushNodeState.
type listed struct {
	Name        string
	Addr        []byte
	Port        uint16
	Meta        []byte
	Incarnation uint32
	State       memberlist.NodeStateType
	Vsn         []uint8
}

// list reads the entries of a push/pull from another for memberlist. An entry that is not to be believed gets the incarnation 0, which memberlist
// takes for old news of anybody.
type list struct {
	t    *transport
	with identity.NodeID
	from io.Reader
	dec  *codec.Decoder
	left int
	next []byte
}

func newList(t *transport, with identity.NodeID, entries int, from io.Reader) *list {
	var handle codec.MsgpackHandle
	return &list{t: t, with: with, from: from, dec: codec.NewDecoder(from, &handle), left: entries}
}

// Read implements io.Reader.
func (l *list) Read(b []byte) (int, error) {
	if len(l.next) == 0 {
		if l.left == 0 {
			return l.from.Read(b)
		}
		l.left--
		var e listed
		if err := l.dec.Decode(&e); err != nil {
			return 0, err
		}
		if id, err := identity.ParseNodeID(e.Name); err == nil {
			m := says{about: id, from: l.with, incarnation: e.Incarnation, alive: e.State == memberlist.StateAlive}
			e.Incarnation, _ = l.t.heeds(m, e.Meta, time.Now())
		}
		var handle codec.MsgpackHandle
		if err := codec.NewEncoderBytes(&l.next, &handle).Encode(&e); err != nil {
			return 0, err
		}
	}
	n := copy(b, l.next)
	l.next = l.next[n:]
	return n, nil
}

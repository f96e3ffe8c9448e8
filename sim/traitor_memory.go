package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/node"
)

// memory is what a member gone bad keeps of what it saw, to say it again when it is no longer so.
type memory struct {
	mesh identity.MeshID
	keys [][]byte // the last gossip keys that it knew
	// scopes are the pools that its node took part in.
	scopes []gossip.Scope

	incarnations map[identity.NodeID]uint32   // the highest seen
	records      map[identity.NodeID][][]byte // signed records, oldest first
	messages     [][]byte                     // of gossip, as they were in packets
	values       map[string][]byte            // of the hash table, by key: the first seen
	state        []byte                       // the mesh's state, as a member gave it
	terms        map[string]uint64            // of regions, as first seen
}

const (
	// recordsKept and messagesKept bound the memory; the first ones stay, for the older what is repeated the worse.
	recordsKept  = 8
	messagesKept = 1024
	statesMax    = 1 << 20 // bytes of a state
)

func newMemory() memory {
	return memory{incarnations: map[identity.NodeID]uint32{}, records: map[identity.NodeID][][]byte{}, values: map[string][]byte{}, terms: map[string]uint64{}}
}

func (m *memory) noteRecord(id identity.NodeID, meta []byte, incarnation uint32) {
	m.incarnations[id] = max(m.incarnations[id], incarnation)
	have := m.records[id]
	if len(have) < recordsKept && !slices.ContainsFunc(have, func(b []byte) bool { return bytes.Equal(b, meta) }) {
		m.records[id] = append(have, bytes.Clone(meta))
	}
}

// record draws one of another's records; nil: none was seen.
func (t *turncoat) record(id identity.NodeID, r *rand.Rand) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if all := t.memory.records[id]; len(all) > 0 {
		return all[r.IntN(len(all))]
	}
	return nil
}

// swimState is one entry of a push/pull.
type swimState struct {
	Name        string
	Addr        []byte
	Port        uint16
	Meta        []byte
	Incarnation uint32
	State       int // 0 alive, 1 suspect, 2 dead, 3 left
	Vsn         []uint8
}

type swimHead struct {
	Nodes        int
	UserStateLen int
	Join         bool
}

// survey asks a member for all that it knows of the others, as memberlist does, and keeps it; and the state of the mesh, the first time.
func (t *turncoat) survey(ctx context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	of := t.victim(r)
	if !ok || of == nil {
		return errNoParts
	}
	t.keepState(ctx, parts, of)
	return t.exchangeLists(ctx, parts, of, nil)
}

// exchangeLists is a push/pull: says, and keeps what comes.
func (t *turncoat) exchangeLists(ctx context.Context, parts node.Parts, with *Host, says []swimState) error {
	s, err := parts.Control.Open(ctx, with.id, "gossip")
	if err != nil {
		return err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Close() })()
	pools := parts.Gossip.Pools()
	if len(pools) == 0 {
		return errNoParts
	}
	out := append(pools[len(says)%len(pools)].Scope().Preface(), swim(swimPushPull, swimHead{Nodes: len(says)})...)
	for i := range says {
		out = append(out, swim(0, &says[i])[1:]...)
	}
	if _, err := s.Write(out); err != nil {
		return err
	}
	var kind [1]byte
	if _, err := io.ReadFull(s, kind[:]); err != nil {
		return err
	}
	var handle codec.MsgpackHandle
	in := codec.NewDecoder(io.LimitReader(s, statesMax), &handle)
	var head swimHead
	if err := in.Decode(&head); err != nil {
		return err
	}
	for range head.Nodes {
		var n swimState
		if err := in.Decode(&n); err != nil {
			return err
		}
		if id, err := identity.ParseNodeID(n.Name); err == nil {
			t.mu.Lock()
			t.memory.noteRecord(id, n.Meta, n.Incarnation)
			t.mu.Unlock()
		}
	}
	return nil
}

// eavesdrop picks a gossip packet that passed, and what is in it: every member has the key, whomever it was for.
func (t *turncoat) eavesdrop(r *rand.Rand) (passed, []byte, error) {
	mesh, keys, scopes := t.secrets()
	if len(keys) == 0 {
		return passed{}, nil, errNoParts
	}
	for range 50 {
		p, ok := t.world.wire.overheard.pick(r)
		if !ok || len(p.b) == 0 || p.b[0] != gossipFirst {
			continue
		}
		for _, h := range t.world.Hosts() {
			for _, scope := range scopes {
				if plain, err := gossip.Open(mesh, scope, h.id, keys, p.b[1:]); err == nil {
					t.remember(plain)
					return p, plain, nil
				}
			}
		}
		return p, nil, nil // sealed under another key
	}
	return passed{}, nil, errNothing
}

// remember takes a packet apart and keeps what may be of use later.
func (t *turncoat) remember(plain []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range messagesOf(plain) {
		if len(t.memory.messages) < messagesKept && len(m) > 0 && (m[0] == swimAlive || m[0] == swimUser || m[0] == swimDead || m[0] == swimSuspect) {
			t.memory.messages = append(t.memory.messages, bytes.Clone(m))
		}
		if len(m) == 0 || m[0] != swimAlive {
			continue
		}
		var a swimAliveMessage
		var handle codec.MsgpackHandle
		if codec.NewDecoderBytes(m[1:], &handle).Decode(&a) == nil {
			if id, err := identity.ParseNodeID(a.Node); err == nil {
				t.memory.noteRecord(id, a.Meta, a.Incarnation)
			}
		}
	}
}

// messagesOf are the messages of a packet of memberlist's.
func messagesOf(plain []byte) [][]byte {
	if len(plain) > 5 && plain[0] == swimChecksum {
		plain = plain[5:]
	}
	if len(plain) < 2 || plain[0] != swimCompound {
		return [][]byte{plain}
	}
	count, rest := int(plain[1]), plain[2:]
	if len(rest) < 2*count {
		return nil
	}
	lengths, rest := rest[:2*count], rest[2*count:]
	var out [][]byte
	for i := range count {
		n := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if n > len(rest) {
			return out
		}
		out, rest = append(out, rest[:n]), rest[n:]
	}
	return out
}

// replayPacket sends a sealed packet of others, or of its own, again: to whom it was for, from where it came or from itself.
func (t *turncoat) replayPacket(_ context.Context, r *rand.Rand) error {
	p, _, err := t.eavesdrop(r)
	if err != nil {
		return err
	}
	from := p.from
	if at := *t.host.addrs.Load(); r.IntN(2) == 0 && len(at) > 0 && t.host.at.Behind == nil {
		from = swapAddr(from, at[0])
	}
	t.world.net.Deliver(from, p.to, bytes.Clone(p.b))
	return nil
}

// replayResealed gives what was said to one member to another.
func (t *turncoat) replayResealed(_ context.Context, r *rand.Rand) error {
	_, plain, err := t.eavesdrop(r)
	to := t.victim(r)
	if err != nil || plain == nil || to == nil {
		return errNothing
	}
	return t.say(to, plain, r)
}

// replayRecord says an old record of somebody again, in an incarnation that beats the newest: the signature on it is good.
func (t *turncoat) replayRecord(ctx context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	to, about, there := t.two(r)
	if !ok || !there {
		return errNoParts
	}
	old := t.record(about.id, r)
	if old == nil {
		return t.survey(ctx, r)
	}
	return t.say(to, alive(parts, about.id, t.incarnation(about.id, r), old), r)
}

// replayRumour says again what was said, perhaps long ago: rumours, accusations, news.
func (t *turncoat) replayRumour(_ context.Context, r *rand.Rand) error {
	to := t.victim(r)
	t.mu.Lock()
	all := t.memory.messages
	t.mu.Unlock()
	if to == nil || len(all) == 0 {
		return errNothing
	}
	var pick [][]byte
	for range 1 + r.IntN(3) {
		if m := all[r.IntN(len(all))]; len(m) < 600 {
			pick = append(pick, m)
		}
	}
	if len(pick) == 0 {
		return errNothing
	}
	return t.say(to, compound(pick[:1+r.IntN(len(pick))]), r)
}

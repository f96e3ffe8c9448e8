package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/internal/config"
	cbor "github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/node"
	"github.com/phantommesh/phantommesh/peer"
)

// Memberlist's messages, as in its net.go, and our packets around them, as in package gossip.
const (
	gossipFirst  = 0x20
	swimIndirect = 1
	swimSuspect  = 3
	swimAlive    = 4
	swimDead     = 5
	swimPushPull = 6
	swimCompound = 7
	swimUser     = 8
	swimChecksum = 12
	swimPort     = 7946
)

var swimVersions = []uint8{1, 5, 2, 0, 0, 0}

type swimAliveMessage struct {
	Incarnation uint32
	Node        string
	Addr        []byte
	Port        uint16
	Meta        []byte
	Vsn         []uint8
}

// swimDeadMessage is also that of a suspicion. From the node itself it says that it has left.
type swimDeadMessage struct {
	Incarnation uint32
	Node        string
	From        string
}

type swimIndirectMessage struct {
	SeqNo      uint32
	Target     []byte
	Port       uint16
	Node       string
	Nack       bool
	SourceAddr []byte
	SourcePort uint16
	SourceNode string
}

var (
	errNoVictim = errors.New("nobody is there")
	errNoParts  = errors.New("its node is in no mesh")
	errNothing  = errors.New("nothing was overheard yet")
)

// swim encodes a message of memberlist's.
func swim(kind byte, body any) []byte {
	var out []byte
	var handle codec.MsgpackHandle
	if err := codec.NewEncoderBytes(&out, &handle).Encode(body); err != nil {
		panic("sim: " + err.Error()) // our own structs
	}
	return append([]byte{kind}, out...)
}

// secrets are the mesh, its gossip keys and the pools that its node takes part in; those of the end, once its node is gone.
func (t *turncoat) secrets() (identity.MeshID, [][]byte, []gossip.Scope) {
	parts, online := t.parts()
	t.mu.Lock()
	defer t.mu.Unlock()
	m := &t.memory
	if online {
		state := parts.Group.State()
		m.mesh, m.keys, m.scopes = state.Mesh.ID, state.Keyring.Keys, nil
		for _, p := range parts.Gossip.Pools() {
			m.scopes = append(m.scopes, p.Scope())
		}
	}
	return m.mesh, m.keys, m.scopes
}

// say sends a gossip message to a machine, sealed as members seal it. Once its own node is gone, the packet comes from the machine's address all
// the same, under the last key that it knew.
func (t *turncoat) say(to *Host, plain []byte, r *rand.Rand) error {
	parts, online := t.parts()
	mesh, keys, scopes := t.secrets()
	if len(keys) == 0 || len(scopes) == 0 {
		return errNoParts
	}
	sealed, err := gossip.Seal(mesh, scopes[r.IntN(len(scopes))], to.id, keys[0], plain)
	if err != nil {
		return err
	}
	if online {
		return parts.Socket.SendGossip(to.id, sealed, true)
	}
	from, at := *t.host.addrs.Load(), *to.addrs.Load()
	if len(from) == 0 || len(at) == 0 {
		return errNoVictim
	}
	port := config.Defaults().Port
	t.world.net.Deliver(netip.AddrPortFrom(from[0], port), netip.AddrPortFrom(at[0], port), append([]byte{gossipFirst}, sealed...))
	return nil
}

// incarnation draws one that beats what others know of a node: by little, by much, or by as much as there is.
func (t *turncoat) incarnation(id identity.NodeID, r *rand.Rand) uint32 {
	t.mu.Lock()
	known := t.memory.incarnations[id]
	t.mu.Unlock()
	return [...]uint32{known, known + 1, known + 1 + r.Uint32N(1000), 1 << 30, math.MaxUint32 - 1, math.MaxUint32}[r.IntN(6)]
}

// alive is the message that a node is there, with a record.
func alive(parts node.Parts, id identity.NodeID, incarnation uint32, meta []byte) []byte {
	addr := identity.OverlayIPv6(parts.Group.State().Mesh.ID, id)
	return swim(swimAlive, swimAliveMessage{Incarnation: incarnation, Node: id.String(), Addr: addr.AsSlice(), Port: swimPort, Meta: meta, Vsn: swimVersions})
}

// lie is a record of its own in which little is true: others' addresses, another region, a state that nobody has, relays that know nothing of it.
func (t *turncoat) lie(parts node.Parts, r *rand.Rand) peer.Record {
	out, err := peer.ParseRecord(t.id, parts.Gossip.Record())
	if err != nil {
		panic("sim: " + err.Error()) // it has signed it
	}
	out.Sequence += 1 + r.Uint64N(3)
	out.Region = [...]string{"nowhere", "", out.Region}[r.IntN(3)]
	out.StateVersion = [...]uint64{0, out.StateVersion, out.StateVersion + 1 + r.Uint64N(1000), math.MaxUint64}[r.IntN(4)]
	out.NAT, out.Voter, out.Relay, out.Busy = peer.NAT(r.IntN(5)), r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(2) == 0
	out.Endpoints, out.Relays = t.falseEndpoints(r), nil
	for range peer.RelaysMax {
		if h := t.victim(r); h != nil {
			out.Relays = append(out.Relays, h.id)
		}
	}
	return out
}

// falseEndpoints are addresses of others.
func (t *turncoat) falseEndpoints(r *rand.Rand) (out []peer.Endpoint) {
	for range 1 + r.IntN(peer.EndpointsMax) {
		if h := t.victim(r); h != nil {
			if at := *h.addrs.Load(); len(at) > 0 {
				out = append(out, peer.Endpoint{Addr: netip.AddrPortFrom(at[0], config.Defaults().Port), Kind: peer.EndpointKind(1 + r.IntN(3))})
			}
		}
	}
	return out
}

func (t *turncoat) falseRecord(_ context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	to := t.victim(r)
	if !ok || to == nil {
		return errNoParts
	}
	signed, err := t.lie(parts, r).Sign(parts.Key)
	if err != nil {
		return err
	}
	return t.say(to, alive(parts, t.id, t.incarnation(t.id, r), signed), r)
}

// falsePlace says to somebody that it stands where he does, in a record of which all else is true.
func (t *turncoat) falsePlace(_ context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	to := t.victim(r)
	if !ok || to == nil {
		return errNoParts
	}
	e, known := parts.Peers.Get(to.id)
	if !known || !e.Record.Placed {
		return errNothing
	}
	out, err := peer.ParseRecord(t.id, parts.Gossip.Record())
	if err != nil {
		return err
	}
	out.Sequence++
	out.Placed, out.Coordinate = true, e.Record.Coordinate
	out.Coordinate.Error = 0 // and is sure of it
	signed, err := out.Sign(parts.Key)
	if err != nil {
		return err
	}
	return t.say(to, alive(parts, t.id, t.incarnation(t.id, r), signed), r)
}

// accuse says of somebody that he is dead, suspect, or has left.
func (t *turncoat) accuse(_ context.Context, r *rand.Rand) error {
	to, about, ok := t.two(r)
	if !ok {
		return errNoVictim
	}
	m := swimDeadMessage{Incarnation: t.incarnation(about.id, r), Node: about.id.String(), From: t.id.String()}
	kind := byte(swimDead)
	switch r.IntN(3) {
	case 0:
		kind = swimSuspect
	case 1:
		m.From = m.Node
	}
	return t.say(to, swim(kind, m), r)
}

// falseVersion says that it has a state that nobody has.
func (t *turncoat) falseVersion(_ context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	if !ok {
		return errNoParts
	}
	version := [...]uint64{parts.Group.State().Version + 1 + r.Uint64N(100), math.MaxUint64}[r.IntN(2)]
	return parts.Gossip.Rumour(1, binary.BigEndian.AppendUint64(nil, version))
}

// floodGossip sends what others have to work on: members that nobody knows, requests to probe others, packs of all of it.
func (t *turncoat) floodGossip(_ context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	to, about, there := t.two(r)
	if !there {
		return errNoVictim
	}
	var messages [][]byte
	for range 1 + r.IntN(3) {
		var stranger identity.NodeID
		for i := range stranger {
			stranger[i] = byte(r.Uint32())
		}
		messages = append(messages,
			swim(swimIndirect, swimIndirectMessage{SeqNo: r.Uint32(), Port: swimPort, Node: about.id.String(), Nack: true, SourceNode: t.id.String()}),
			swim(swimSuspect, swimDeadMessage{Incarnation: r.Uint32(), Node: stranger.String(), From: t.id.String()}))
		if ok {
			messages = append(messages, alive(parts, stranger, 1, make([]byte, 100)))
		}
	}
	return t.say(to, compound(messages), r)
}

// compound packs messages as memberlist does.
func compound(messages [][]byte) []byte {
	out := []byte{swimCompound, byte(len(messages))}
	for _, m := range messages {
		out = binary.BigEndian.AppendUint16(out, uint16(len(m)))
	}
	for _, m := range messages {
		out = append(out, m...)
	}
	return out
}

func (t *turncoat) floodRumours(_ context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	if !ok {
		return errNoParts
	}
	for range 10 {
		if err := parts.Gossip.Rumour(uint8(r.IntN(4)), make([]byte, r.IntN(gossip.RumourMax))); err != nil {
			return err
		}
	}
	return nil
}

// rumour is gossip's, as it travels.
type rumour struct {
	_         struct{} `cbor:",toarray"`
	Origin    []byte
	Sequence  uint64
	At        uint64
	Topic     uint8
	Payload   []byte
	Signature []byte
}

// forgeRumour says in another's name that there is a new state.
func (t *turncoat) forgeRumour(_ context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	to, as, there := t.two(r)
	if !ok || !there {
		return errNoParts
	}
	payload := binary.BigEndian.AppendUint64(nil, math.MaxUint64)
	b, err := cbor.Marshal(rumour{Origin: as.id[:], Sequence: uint64(time.Now().UnixNano()), At: uint64(time.Now().UnixMilli()), Topic: 1, Payload: payload,
		Signature: parts.Key.SignEd25519("phantommesh rumour v1", payload)})
	if err != nil {
		return err
	}
	return t.say(to, append([]byte{swimUser}, b...), r)
}

// forgeRecord spreads a record of another, signed by itself, or the other's own with a byte changed.
func (t *turncoat) forgeRecord(_ context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	to, as, there := t.two(r)
	if !ok || !there {
		return errNoParts
	}
	meta, err := t.lie(parts, r).Sign(parts.Key)
	if err != nil {
		return err
	}
	if old := t.record(as.id, r); old != nil && r.IntN(2) == 0 {
		meta = append([]byte(nil), old...)
		meta[r.IntN(len(meta))] ^= 1 << r.IntN(8)
	}
	return t.say(to, alive(parts, as.id, t.incarnation(as.id, r), meta), r)
}

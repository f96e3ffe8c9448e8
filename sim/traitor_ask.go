package sim

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	kadpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"google.golang.org/protobuf/proto"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
	cbor "github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/node"
)

// streamProtocols are all that members may open with each other.
var streamProtocols = []string{"enroll", "pair", "decide", "state", "raft", "exchange", "gossip", "relay", "punch", "region", "pending", "dht"}

// open opens a stream to a drawn victim. It is closed when ctx ends.
func (t *turncoat) open(ctx context.Context, r *rand.Rand, protocol string) (node.Parts, *control.Stream, *Host, error) {
	parts, ok := t.parts()
	to := t.victim(r)
	if !ok || to == nil {
		return parts, nil, nil, errNoParts
	}
	s, err := parts.Control.Open(ctx, to.id, protocol)
	if err != nil {
		return parts, nil, nil, err
	}
	context.AfterFunc(ctx, s.Reset)
	return parts, s, to, nil
}

// ask opens a stream, says one message and reads whatever comes, up to a bound.
func (t *turncoat) ask(ctx context.Context, r *rand.Rand, protocol string, message any) ([]byte, error) {
	_, s, _, err := t.open(ctx, r, protocol)
	if err != nil {
		return nil, err
	}
	defer s.Reset()
	if err := cbor.WriteMessage(s, message, 1<<20); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(s, statesMax))
}

// holdStream opens a stream and says nothing, or a little and nothing more, for as long as it is let.
func (t *turncoat) holdStream(ctx context.Context, r *rand.Rand) error {
	_, s, _, err := t.open(ctx, r, streamProtocols[r.IntN(len(streamProtocols))])
	if err != nil {
		return err
	}
	defer s.Reset()
	for n := r.IntN(4); n > 0 && ctx.Err() == nil; n-- { // drop by drop
		if _, err := s.Write([]byte{byte(r.Uint32() % 4)}); err != nil {
			return err
		}
		pause(ctx, time.Second)
	}
	_, err = io.Copy(io.Discard, s)
	return err
}

// garbage opens a stream of any protocol and says what nobody would: noise, sizes that are not there, arrays in arrays, without end.
func (t *turncoat) garbage(ctx context.Context, r *rand.Rand) error {
	_, s, _, err := t.open(ctx, r, streamProtocols[r.IntN(len(streamProtocols))])
	if err != nil {
		return err
	}
	defer s.Reset()
	if _, err := s.Write(nonsense(r)); err != nil {
		return err
	}
	_ = s.CloseWrite()
	_, err = io.Copy(io.Discard, io.LimitReader(s, statesMax))
	return err
}

// nonsense is one of the shapes that parsers are broken with.
func nonsense(r *rand.Rand) []byte {
	noise := make([]byte, 1+r.IntN(64<<10))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	framed := func(body []byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	switch r.IntN(5) {
	case 0: // as long as a message can be
		return append([]byte{0xff, 0xff, 0xff, 0xff}, noise...)
	case 1: // arrays in arrays
		for i := range noise {
			noise[i] = 0x81
		}
		return framed(noise)
	case 2: // a map that says it has four billion entries
		return framed(append([]byte{0xba, 0xff, 0xff, 0xff, 0xff}, noise...))
	case 3:
		return framed(noise)
	}
	return noise
}

// question and the others that follow are coordinator's, as they travel.
type question struct {
	_    struct{} `cbor:",toarray"`
	Op   uint8
	Body []byte
}

type regionMessage struct {
	_          struct{} `cbor:",toarray"`
	Kind       uint8
	LeaderTerm uint64
	Region     string
	Term       uint64
	Version    uint64
}

type pullRequest struct {
	_      struct{} `cbor:",toarray"`
	Since  uint64
	Region string
	Term   uint64
}

// floodDecisions asks for what costs others work and changes nothing for good: lists, the log, who leads; and what is refused.
func (t *turncoat) floodDecisions(ctx context.Context, r *rand.Rand) error {
	ops := []uint8{3, 9, 12, 15, 16, 20, 0, 255}
	_, err := t.ask(ctx, r, "decide", question{Op: ops[r.IntN(len(ops))], Body: []byte{0x80}})
	return err
}

// forgeRequest asks to admit machines by requests that nobody signed, and for an issuer certificate.
func (t *turncoat) forgeRequest(ctx context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	if !ok {
		return errNoParts
	}
	noise := make([]byte, 4000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	public, err := cbor.Marshal([]any{parts.Group.State().Mesh.ID[:], noise[:2016], "ghost", "", "", noise[:32], uint64(time.Now().Unix())})
	if err != nil {
		return err
	}
	signed, err := cbor.Marshal([]any{public, noise[:3373]})
	if err != nil {
		return err
	}
	body, err := cbor.Marshal([]any{signed})
	if err != nil {
		return err
	}
	op := [...]uint8{1, 17, 11}[r.IntN(3)]
	if op == 11 {
		if body, err = cbor.Marshal([]any{t.id[:], uint8(1)}); err != nil {
			return err
		}
	}
	_, err = t.ask(ctx, r, "decide", question{Op: op, Body: body})
	return err
}

// order sends what only a region's coordinator, or the leader, may.
func (t *turncoat) order(ctx context.Context, r *rand.Rand, term func(uint64) uint64) error {
	parts, ok := t.parts()
	if !ok {
		return errNoParts
	}
	regions := parts.Group.State().Regions.List
	if len(regions) == 0 {
		return errNothing
	}
	region := regions[r.IntN(len(regions))]
	_, err := t.ask(ctx, r, "region", regionMessage{Kind: uint8(1 + r.IntN(2)), LeaderTerm: math.MaxUint64, Region: region.Name, Term: term(region.Term), Version: math.MaxUint64})
	return err
}

func (t *turncoat) falseOrder(ctx context.Context, r *rand.Rand) error {
	return t.order(ctx, r, func(now uint64) uint64 { return now })
}

func (t *turncoat) forgeOrder(ctx context.Context, r *rand.Rand) error {
	return t.order(ctx, r, func(now uint64) uint64 { return now + 1 + r.Uint64N(1000) })
}

func (t *turncoat) replayOrder(ctx context.Context, r *rand.Rand) error {
	return t.order(ctx, r, func(now uint64) uint64 { return now - min(now, r.Uint64N(3)) })
}

type relayRequest struct {
	_       struct{} `cbor:",toarray"`
	Op      uint8
	Node    identity.NodeID
	Channel uint32
}

// floodRelay registers, opens channels and offers some, and keeps what it gets.
func (t *turncoat) floodRelay(ctx context.Context, r *rand.Rand) error {
	about := t.victim(r)
	if about == nil {
		return errNoVictim
	}
	q := relayRequest{Op: uint8(1 + r.IntN(3))}
	if q.Op > 1 {
		q.Node = about.id
	}
	if q.Op > 2 {
		q.Channel = r.Uint32()
	}
	_, err := t.ask(ctx, r, "relay", q)
	return err
}

type pendingQuestion struct {
	_    struct{} `cbor:",toarray"`
	Op   uint8
	Node identity.NodeID
	Code string
}

func (t *turncoat) floodPending(ctx context.Context, r *rand.Rand) error {
	_, err := t.ask(ctx, r, "pending", pendingQuestion{Op: uint8(1 + r.IntN(4)), Node: t.id, Code: "000000"})
	return err
}

type punchOffer struct {
	_         struct{} `cbor:",toarray"`
	Nonce     []byte
	Situation []byte
	Fan       bool
}

// falseCandidates has somebody check addresses of others, as for a hole to be punched.
func (t *turncoat) falseCandidates(ctx context.Context, r *rand.Rand) error {
	at := t.falseEndpoints(r)
	s := nat.Situation{Kind: 3, Mapping: 3, Filtering: 3, Candidates: at}
	for _, e := range at[:min(len(at), 4)] {
		s.Mapped = append(s.Mapped, e.Addr)
	}
	encoded, err := s.Encode()
	if err != nil {
		return err
	}
	_, err = t.ask(ctx, r, "punch", punchOffer{Nonce: make([]byte, 16), Situation: encoded, Fan: r.IntN(2) == 0})
	return err
}

// keepState pulls the mesh's state, to give it to others when it is old.
func (t *turncoat) keepState(ctx context.Context, parts node.Parts, of *Host) {
	t.mu.Lock()
	have := t.memory.state != nil
	t.mu.Unlock()
	if have {
		return
	}
	s, err := parts.Control.Open(ctx, of.id, "state")
	if err != nil {
		return
	}
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(5 * time.Second))
	if cbor.WriteMessage(s, pullRequest{}, 128) != nil {
		return
	}
	if b, err := io.ReadAll(io.LimitReader(s, statesMax)); err == nil && len(b) > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.memory.state = b
	}
}

// floodList pushes a list of members of whom nobody has heard.
func (t *turncoat) floodList(ctx context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	with := t.victim(r)
	if !ok || with == nil {
		return errNoParts
	}
	list := make([]swimState, 50+r.IntN(500))
	for i := range list {
		var id identity.NodeID
		for k := range id {
			id[k] = byte(r.Uint32())
		}
		addr := identity.OverlayIPv6(parts.Group.State().Mesh.ID, id)
		list[i] = swimState{Name: id.String(), Addr: addr.AsSlice(), Port: swimPort, Meta: make([]byte, 100), Incarnation: 1, Vsn: swimVersions}
	}
	return t.exchangeLists(ctx, parts, with, list)
}

// falseList pushes a list in which everybody is dead, has left, or is alive with an old record, in incarnations that beat all others.
func (t *turncoat) falseList(ctx context.Context, r *rand.Rand) error {
	parts, ok := t.parts()
	with := t.victim(r)
	if !ok || with == nil {
		return errNoParts
	}
	var list []swimState
	for _, h := range t.world.Hosts() {
		if h.id.IsZero() || h == t.host {
			continue
		}
		addr := identity.OverlayIPv6(parts.Group.State().Mesh.ID, h.id)
		list = append(list, swimState{Name: h.id.String(), Addr: addr.AsSlice(), Port: swimPort, Meta: t.record(h.id, r), Incarnation: t.incarnation(h.id, r),
			State: r.IntN(4), Vsn: swimVersions})
	}
	return t.exchangeLists(ctx, parts, with, list)
}

// tableValue is what members store in the hash table, as it travels.
type tableValue struct {
	_       struct{} `cbor:",toarray"`
	Record  []byte
	Member  []byte
	Issuers [][]byte
}

// askTable asks a member's hash table one question and returns the answer.
func (t *turncoat) askTable(ctx context.Context, r *rand.Rand, m *kadpb.Message) (*kadpb.Message, error) {
	_, s, _, err := t.open(ctx, r, "dht")
	if err != nil {
		return nil, err
	}
	defer s.Reset()
	body, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	if _, err := s.Write(append(binary.AppendUvarint([]byte{1}, uint64(len(body))), body...)); err != nil {
		return nil, err
	}
	return readTable(bufio.NewReader(s))
}

func readTable(in *bufio.Reader) (*kadpb.Message, error) {
	n, err := binary.ReadUvarint(in)
	if err != nil || n > statesMax {
		return nil, errors.Join(err, errNothing)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, err
	}
	var m kadpb.Message
	return &m, proto.Unmarshal(b, &m)
}

func tableKey(id identity.NodeID) string { return "/phantom/" + id.String() }

// put stores a value under somebody's key.
func (t *turncoat) put(ctx context.Context, r *rand.Rand, key string, value []byte) error {
	m := kadpb.NewMessage(kadpb.Message_PUT_VALUE, []byte(key), 0)
	m.Record = &recpb.Record{Key: []byte(key), Value: value}
	_, err := t.askTable(ctx, r, m)
	return err
}

// value makes one of a record of its own, with its certificates.
func (t *turncoat) value(r *rand.Rand) ([]byte, error) {
	parts, ok := t.parts()
	if !ok {
		return nil, errNoParts
	}
	chain := parts.Group.Chain()
	if chain == nil {
		return nil, errNoParts
	}
	signed, err := t.lie(parts, r).Sign(parts.Key)
	if err != nil {
		return nil, err
	}
	return cbor.Marshal(tableValue{Record: signed, Member: chain.Member, Issuers: chain.Issuers})
}

func (t *turncoat) falseValue(ctx context.Context, r *rand.Rand) error {
	v, err := t.value(r)
	if err != nil {
		return err
	}
	return t.put(ctx, r, tableKey(t.id), v)
}

// forgeValue stores its own record under another's key, or the other's value with a byte changed.
func (t *turncoat) forgeValue(ctx context.Context, r *rand.Rand) error {
	as := t.victim(r)
	v, err := t.value(r)
	if as == nil || err != nil {
		return errNoParts
	}
	if theirs := t.lookUp(ctx, r, as); theirs != nil && r.IntN(2) == 0 {
		v = append([]byte(nil), theirs...)
		v[r.IntN(len(v))] ^= 1 << r.IntN(8)
	}
	return t.put(ctx, r, tableKey(as.id), v)
}

// lookUp asks for somebody's value, and returns the first that was ever seen.
func (t *turncoat) lookUp(ctx context.Context, r *rand.Rand, of *Host) []byte {
	key := tableKey(of.id)
	t.mu.Lock()
	have := t.memory.values[key]
	t.mu.Unlock()
	if have != nil {
		return have
	}
	a, err := t.askTable(ctx, r, kadpb.NewMessage(kadpb.Message_GET_VALUE, []byte(key), 0))
	if err != nil || a.GetRecord() == nil || len(a.GetRecord().GetValue()) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.memory.values[key] = a.GetRecord().GetValue()
	return t.memory.values[key]
}

// replayValue stores somebody's old record again.
func (t *turncoat) replayValue(ctx context.Context, r *rand.Rand) error {
	of := t.victim(r)
	if of == nil {
		return errNoVictim
	}
	v := t.lookUp(ctx, r, of)
	if v == nil {
		return errNothing
	}
	return t.put(ctx, r, tableKey(of.id), v)
}

// floodTable asks for keys that nobody has, and stores junk.
func (t *turncoat) floodTable(ctx context.Context, r *rand.Rand) error {
	key := make([]byte, 34)
	for i := range key {
		key[i] = byte(r.Uint32())
	}
	if r.IntN(2) == 0 {
		return t.put(ctx, r, tableKey(identity.NodeID(key[:32])), make([]byte, r.IntN(20<<10)))
	}
	kind := [...]kadpb.Message_MessageType{kadpb.Message_FIND_NODE, kadpb.Message_GET_VALUE, kadpb.Message_ADD_PROVIDER, kadpb.Message_GET_PROVIDERS,
		kadpb.Message_PING}[r.IntN(5)]
	_, err := t.askTable(ctx, r, kadpb.NewMessage(kind, key, 0))
	return err
}

// swapAddr keeps the port of an address.
func swapAddr(of netip.AddrPort, to netip.Addr) netip.AddrPort {
	return netip.AddrPortFrom(to, of.Port())
}

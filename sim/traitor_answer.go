package sim

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	kadpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"google.golang.org/protobuf/proto"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
	cbor "github.com/phantommesh/phantommesh/internal/wire"
)

// reply answers one stream of others.
type reply func(t *turncoat, ctx context.Context, s *control.Stream, r *rand.Rand)

// traitorAnswers are what each kind answers in place of the node, by protocol. Half of the questions get an honest answer all the same.
var traitorAnswers = map[string]map[string][]reply{
	traitorLiar: {
		"decide": {(*turncoat).claimOffice}, "state": {(*turncoat).emptyState, (*turncoat).claimView}, "dht": {(*turncoat).falseTable}, "region": {(*turncoat).refuseOrder},
		"pending": {(*turncoat).noise},
	},
	traitorFlooder: {
		"decide": {(*turncoat).endless}, "state": {(*turncoat).endless, (*turncoat).noise}, "dht": {(*turncoat).endless}, "pending": {(*turncoat).endless},
		"relay": {(*turncoat).endless}, "punch": {(*turncoat).noise},
	},
	traitorReplayer: {"state": {(*turncoat).oldState}, "dht": {(*turncoat).oldTable}},
	traitorForger:   {"state": {(*turncoat).forgedState}, "dht": {(*turncoat).falseTable}, "decide": {(*turncoat).noise}, "pending": {(*turncoat).noise}},
	traitorBlackhole: {
		"state": {(*turncoat).silence, (*turncoat).oldState}, "decide": {(*turncoat).silence}, "region": {(*turncoat).silence}, "dht": {(*turncoat).silence},
		"pending": {(*turncoat).silence}, "punch": {(*turncoat).silence},
	},
}

// answer puts the kind's answers in front of the node's, for as long as this process of it lives, until undo.
func (t *turncoat) answer() (undo func()) {
	parts, ok := t.parts()
	if !ok {
		return func() {}
	}
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(t.world.Seed(), 7+nameHash(t.host.name)))
	var all []func()
	for _, protocol := range streamProtocols {
		replies := traitorAnswers[t.kind][protocol]
		if len(replies) == 0 {
			continue
		}
		take, _ := parts.Control.Wrap(protocol, func(serve control.Serve) control.Serve {
			return func(ctx context.Context, s *control.Stream) {
				mu.Lock()
				honest := t.kind != traitorBlackhole && r.IntN(2) == 0
				reply, draw := replies[r.IntN(len(replies))], rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
				mu.Unlock()
				if honest {
					serve(ctx, s)
					return
				}
				defer s.Close()
				_ = s.SetDeadline(time.Now().Add(actMax))
				reply(t, ctx, s, draw)
			}
		})
		all = append(all, take)
	}
	return func() {
		for _, undo := range all {
			undo()
		}
	}
}

// silence says nothing until the other side has enough of it.
func (t *turncoat) silence(ctx context.Context, _ *control.Stream, _ *rand.Rand) { pause(ctx, actMax) }

func (t *turncoat) noise(_ context.Context, s *control.Stream, r *rand.Rand) {
	_, _ = s.Write(nonsense(r))
}

// endless goes on writing what looks like the beginning of an answer.
func (t *turncoat) endless(ctx context.Context, s *control.Stream, r *rand.Rand) {
	chunk := make([]byte, 16<<10)
	if r.IntN(2) == 0 {
		for i := 0; i+12 < len(chunk); i += 12 { // small messages, one after the other
			copy(chunk[i:], []byte{0, 0, 0, 8, 0x82, 1, 0x45, 1, 2, 3, 4, 5})
		}
	}
	for n := 0; n < statesMax && ctx.Err() == nil; n += len(chunk) {
		if _, err := s.Write(chunk); err != nil {
			return
		}
		pause(ctx, 20*time.Millisecond)
	}
}

type decideAnswer struct {
	_      struct{} `cbor:",toarray"`
	Code   string
	Reason string
	Leader identity.NodeID
	Body   []byte
}

type decideStatus struct {
	_          struct{} `cbor:",toarray"`
	Leads      bool
	Leader     identity.NodeID
	Term       uint64
	Replica    bool
	Applied    uint64
	Voters     []identity.NodeID
	Staged     []identity.NodeID
	AuditCount uint64
	AuditHead  [32]byte
	Generation uint16
	By         identity.NodeID
}

// issues reports whether its node holds an issuer certificate. What such a one claims counts: docs/security.md says what is not protected then.
func (t *turncoat) issues() bool {
	parts, ok := t.parts()
	return !ok || parts.Group.State().MaySpeakRaft(t.id, time.Now())
}

// claimOffice says that it leads, alone, and that what was asked has been done.
func (t *turncoat) claimOffice(_ context.Context, s *control.Stream, r *rand.Rand) {
	var q question
	if cbor.ReadMessage(s, &q, 1<<20) != nil || t.issues() {
		return
	}
	a := decideAnswer{}
	if q.Op == 12 {
		a.Body, _ = cbor.Marshal(decideStatus{Leads: true, Leader: t.id, Term: math.MaxUint64, Replica: true, Applied: math.MaxUint64, Voters: []identity.NodeID{t.id},
			Staged: []identity.NodeID{}, AuditCount: r.Uint64()})
	}
	_ = cbor.WriteMessage(s, a, 1<<20)
}

type regionAnswer struct {
	_       struct{} `cbor:",toarray"`
	Term    uint64
	Refused bool
}

// refuseOrder says to whoever coordinates that another has come after him.
func (t *turncoat) refuseOrder(_ context.Context, s *control.Stream, _ *rand.Rand) {
	var m regionMessage
	if cbor.ReadMessage(s, &m, 1<<10) == nil {
		_ = cbor.WriteMessage(s, regionAnswer{Term: m.Term + 1, Refused: true}, 1<<10)
	}
}

// Records of a state, as they travel.
type stateRecord struct {
	_    struct{} `cbor:",toarray"`
	Kind uint8
	Body []byte
}

type stateView struct {
	_      struct{} `cbor:",toarray"`
	Quorum bool
	Leader identity.NodeID
	Term   uint64
	Voters []identity.NodeID
	AsOf   int64
}

type stateEnd struct {
	_     struct{} `cbor:",toarray"`
	Count uint64
	Sum   [32]byte
}

const (
	stateViewKind   = 6
	stateMemberKind = 3
	stateEndKind    = 10
)

// writeState writes records with an end that fits.
func writeState(s *control.Stream, records [][]byte) {
	sum := sha256.New()
	var out []byte
	for _, b := range records {
		sum.Write(b)
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(b))), b...)
	}
	body, _ := cbor.Marshal(stateEnd{Count: uint64(len(records)), Sum: [32]byte(sum.Sum(nil))})
	end, _ := cbor.Marshal(stateRecord{Kind: stateEndKind, Body: body})
	out = append(binary.BigEndian.AppendUint32(out, uint32(len(end))), end...)
	_, _ = s.Write(out)
	_ = s.CloseWrite()
}

// emptyState answers that there is nothing new, whatever it claimed before.
func (t *turncoat) emptyState(_ context.Context, s *control.Stream, _ *rand.Rand) {
	var q pullRequest
	if cbor.ReadMessage(s, &q, 128) == nil {
		writeState(s, nil)
	}
}

// claimView says that it alone votes and leads.
func (t *turncoat) claimView(_ context.Context, s *control.Stream, _ *rand.Rand) {
	var q pullRequest
	if cbor.ReadMessage(s, &q, 128) != nil || t.issues() {
		return
	}
	body, _ := cbor.Marshal(stateView{Quorum: true, Leader: t.id, Term: math.MaxUint64 >> 1, Voters: []identity.NodeID{t.id}, AsOf: time.Now().UnixMilli()})
	view, _ := cbor.Marshal(stateRecord{Kind: stateViewKind, Body: body})
	writeState(s, [][]byte{view})
}

// oldState gives the state as it once was.
func (t *turncoat) oldState(_ context.Context, s *control.Stream, _ *rand.Rand) {
	var q pullRequest
	if cbor.ReadMessage(s, &q, 128) != nil {
		return
	}
	t.mu.Lock()
	old := t.memory.state
	t.mu.Unlock()
	_, _ = s.Write(old)
	_ = s.CloseWrite()
}

// forgedState gives a state with one record changed, left out, said twice, or of another kind, and sums that fit.
func (t *turncoat) forgedState(_ context.Context, s *control.Stream, r *rand.Rand) {
	var q pullRequest
	if cbor.ReadMessage(s, &q, 128) != nil {
		return
	}
	t.mu.Lock()
	rest := t.memory.state
	t.mu.Unlock()
	var records [][]byte
	for len(rest) >= 4 {
		n := int(binary.BigEndian.Uint32(rest))
		if n > len(rest)-4 {
			break
		}
		records, rest = append(records, append([]byte(nil), rest[4:4+n]...)), rest[4+n:]
	}
	if len(records) < 2 {
		return
	}
	records = records[:len(records)-1] // its end
	i := r.IntN(len(records))
	switch r.IntN(4) {
	case 0:
		records[i][r.IntN(len(records[i]))] ^= 1 << r.IntN(8)
	case 1:
		records = append(records[:i:i], records[i+1:]...)
	case 2:
		records = append(records, records[i])
	default:
		var rec stateRecord
		if cbor.Unmarshal(records[i], &rec) == nil {
			rec.Kind = uint8(1 + r.IntN(20))
			records[i], _ = cbor.Marshal(rec)
		}
	}
	writeState(s, records)
}

// answerTable reads a question of the hash table and answers with a value and members to ask next.
func (t *turncoat) answerTable(s *control.Stream, value func(key string) []byte) {
	in := bufio.NewReader(s)
	if _, err := in.ReadByte(); err != nil { // the asker's role
		return
	}
	q, err := readTable(in)
	if err != nil {
		return
	}
	a := kadpb.NewMessage(q.GetType(), q.GetKey(), 0)
	if v := value(string(q.GetKey())); v != nil {
		a.Record = &recpb.Record{Key: q.GetKey(), Value: v}
	}
	for range 100 { // of whom nobody has heard
		a.CloserPeers = append(a.CloserPeers, &kadpb.Message_Peer{Id: q.GetKey()})
	}
	if body, err := proto.Marshal(a); err == nil {
		_, _ = s.Write(append(binary.AppendUvarint(nil, uint64(len(body))), body...))
	}
}

// falseTable answers every question with its own value.
func (t *turncoat) falseTable(_ context.Context, s *control.Stream, r *rand.Rand) {
	v, err := t.value(r)
	if err == nil {
		t.answerTable(s, func(string) []byte { return v })
	}
}

// oldTable answers with the first value that it saw.
func (t *turncoat) oldTable(_ context.Context, s *control.Stream, _ *rand.Rand) {
	t.answerTable(s, func(key string) []byte {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.memory.values[key]
	})
}

package dht

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/ipfs/go-datastore"
	kadpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	libp2p "github.com/libp2p/go-libp2p/core/peer"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

func TestTheStoreKeepsWhatIsClosest(t *testing.T) {
	s := newStore("self")
	s.most = 8
	var keys []datastore.Key
	for i := range 40 {
		text := keyOf(identity.NodeID{byte(i + 1)})
		k := datastore.NewKey("/phantom/" + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(text)))
		keys = append(keys, k)
		if err := s.Put(context.Background(), k, []byte("value")); err != nil {
			t.Fatal(err)
		}
	}
	if s.Len() != 8 {
		t.Fatalf("%d values, want 8", s.Len())
	}
	for _, kept := range keys {
		if has, _ := s.Has(context.Background(), kept); !has {
			continue
		}
		closer := 0
		for _, other := range keys {
			a, b := s.distance(other), s.distance(kept)
			if bytes.Compare(a[:], b[:]) < 0 {
				closer++
			}
		}
		if closer >= 8 {
			t.Errorf("kept a value although %d are closer", closer)
		}
	}
}

// stubborn is a member that answers every question with the same message, checked as answers are.
type stubborn struct{ answer *kadpb.Message }

func (s stubborn) SendRequest(_ context.Context, _ libp2p.ID, question *kadpb.Message) (*kadpb.Message, error) {
	return s.answer, fits(question, s.answer)
}

func (s stubborn) SendMessage(ctx context.Context, p libp2p.ID, question *kadpb.Message) error {
	_, err := s.SendRequest(ctx, p, question)
	return err
}

// Regression: a member that answered a record to be stored with a message that had none ended the process of whoever had asked.
func TestNoAnswerEndsWhoAsks(t *testing.T) {
	record := &recpb.Record{Key: []byte("key"), Value: []byte("value")}
	for _, kind := range []kadpb.Message_MessageType{kadpb.Message_PUT_VALUE, kadpb.Message_GET_VALUE, kadpb.Message_FIND_NODE, kadpb.Message_PING} {
		for name, change := range map[string]func(*kadpb.Message){
			"bare":         func(*kadpb.Message) {},
			"empty record": func(m *kadpb.Message) { m.Record = &recpb.Record{} },
			"no peers":     func(m *kadpb.Message) { m.CloserPeers = []*kadpb.Message_Peer{{}, {Id: []byte{0}}} },
			"no providers": func(m *kadpb.Message) { m.ProviderPeers = []*kadpb.Message_Peer{{Addrs: [][]byte{{1, 2, 3}, nil}}} },
		} {
			answer := kadpb.NewMessage(kind, nil, 0)
			change(answer)
			asks, err := kadpb.NewProtocolMessenger(stubborn{answer})
			if err != nil {
				t.Fatal(err)
			}
			if err := asks.PutValue(t.Context(), "peer", record); err == nil {
				t.Errorf("%v, %s: passes for a record that was stored", kind, name)
			}
			_, _, _ = asks.GetValue(t.Context(), "peer", "key")
			_, _ = asks.GetClosestPeers(t.Context(), "peer", "key")
			_ = asks.Ping(t.Context(), "peer")
		}
	}
}

func TestAMemberThatFloodsIsTurnedAwayAndOthersAreNot(t *testing.T) {
	g := gate{callers: map[identity.NodeID]*caller{}}
	now := time.Now()
	flooder, other := identity.NodeID{1}, identity.NodeID{2}
	at := 0
	for g.enter(flooder, now) {
		at++
	}
	if at != servingPerMember {
		t.Errorf("%d at a time, want %d", at, servingPerMember)
	}
	if !g.enter(other, now) {
		t.Error("another member is turned away too")
	}
	for range at {
		g.leave(flooder)
	}
	for g.enter(flooder, now) {
		g.leave(flooder)
		at++
	}
	if at != askBurst {
		t.Errorf("%d in a burst, want %d", at, askBurst)
	}
	g.leave(other)
	g.close()
	if g.enter(other, now) {
		t.Error("served after the close")
	}
}

func TestALengthIsNotBelieved(t *testing.T) {
	for _, claimed := range []uint64{messageMax + 1, 1 << 40, 1<<64 - 1} {
		_, err := readMessage(bufio.NewReader(bytes.NewReader(binary.AppendUvarint(nil, claimed))))
		if !errors.Is(err, errFrame) {
			t.Errorf("%d bytes claimed: %v", claimed, err)
		}
	}
}

// FuzzValue feeds the parser of what other members store: nothing may panic, and what is accepted is the one form of what it says.
func FuzzValue(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x83, 0x40, 0x40, 0x80})
	f.Add([]byte{0x83, 0x41, 1, 0x41, 2, 0x81, 0x41, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseValue(b)
		if err == nil && (len(v.Issuers) > issuersMax || len(v.Record)+len(v.Member) > len(b)) {
			t.Fatalf("%d issuers out of %d bytes", len(v.Issuers), len(b))
		}
	})
}

// FuzzQuestion feeds the parser of what a stream begins with.
func FuzzQuestion(f *testing.F) {
	f.Add([]byte{roleServer, 2, 'a', 'b'})
	f.Add([]byte{2, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		role, message, err := readQuestion(bufio.NewReader(bytes.NewReader(b)))
		if err == nil && (role > roleServer || len(message) > messageMax) {
			t.Fatalf("role %d, %d bytes", role, len(message))
		}
	})
}

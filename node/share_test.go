package node

import (
	"testing"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

func FuzzShared(f *testing.F) {
	good, err := wire.Marshal(&sharedWire{
		Bulletins: [][]byte{{1, 2, 3}}, Records: []recordWire{{ID: identity.NodeID{1}, Signed: []byte{4}}}, Horizon: []byte{},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0x83, 0x9a, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := parseShared(b)
		if err == nil && (len(w.Bulletins) > sharedBulletinsMax || len(w.Records) > sharedRecordsMax) {
			t.Fatalf("%d bulletins, %d records", len(w.Bulletins), len(w.Records))
		}
	})
}

func FuzzNewsQuestion(f *testing.F) {
	good, err := wire.Marshal(&newsQuestion{Kind: newsWhere, Bulletin: []byte{}, Records: []recordWire{}, Nodes: []identity.NodeID{{1}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		var q newsQuestion
		if err := wire.Unmarshal(b, &q); err == nil && len(q.Nodes)*len(identity.NodeID{}) > len(b) {
			t.Fatalf("%d nodes in %d bytes", len(q.Nodes), len(b))
		}
	})
}

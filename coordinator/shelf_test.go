package coordinator

import (
	"bytes"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/wire"
)

// Two nodes that read the same state through one shelf hold the same entries, and one that reads another version of an entry does not see the first.
func TestAShelfSharesOnlyWhatIsTheSame(t *testing.T) {
	d := newDecisions(t, 3)
	var file bytes.Buffer
	if err := encodeState(&file, d.ledger.state); err != nil {
		t.Fatal(err)
	}
	content := file.Bytes()
	shelf := NewShelf()
	read := func(shelf *Shelf) *State {
		s, err := decodeState(bytes.NewReader(content), shelf)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, two, alone := read(shelf), read(shelf), read(nil)
	if one.Digest() != alone.Digest() {
		t.Error("a state that was read through a shelf is another")
	}
	for i := range one.Members {
		if one.Members[i] != two.Members[i] {
			t.Error("an entry is held twice")
		}
		if one.Members[i] == alone.Members[i] {
			t.Error("without a shelf an entry is shared")
		}
	}
	changed := *d.ledger.state.Members[0]
	changed.Since = changed.Since.Add(time.Hour)
	file.Reset()
	if err := encodeState(&file, d.ledger.state.withMember(&changed)); err != nil {
		t.Fatal(err)
	}
	content = file.Bytes()
	if after := read(shelf); after.Members[0] == one.Members[0] || after.Members[0].Since.Equal(one.Members[0].Since) {
		t.Error("an entry that has changed is read as it was")
	}
}

func TestAShelfIsBounded(t *testing.T) {
	s := NewShelf()
	d := newDecisions(t, 3)
	m := newMemberRecord(d.ledger.state.Members[0])
	for i := range 3 * shelfGeneration {
		m.Version = uint64(i)
		body, err := wire.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.member(body); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.young) + len(s.old); n > 2*shelfGeneration {
		t.Errorf("%d entries", n)
	}
	if _, err := s.member([]byte("no entry")); err == nil {
		t.Error("what is no entry was read")
	}
}

package peer

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// State is gossip's verdict on a node.
type State uint8

// The states of a node. Unknown: a member of which gossip has said nothing yet.
const (
	Unknown State = iota
	Alive
	Suspect
	Dead
	Left
)

// String returns the state as in `status --json`.
func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Suspect:
		return "suspect"
	case Dead:
		return "dead"
	case Left:
		return "left"
	}
	return "unknown"
}

// Entry is everything the table knows of one member. It is a copy of an immutable value: what its pointers and slices lead to
// is shared and must not be changed.
type Entry struct {
	// Member is the newest certificate that was admitted, never nil. Raw are its signed bytes.
	Member *certificate.Member
	Raw    []byte
	// ID is the member's node ID, kept so that nobody hashes it again.
	ID identity.NodeID
	// Revoked members stay listed for people, but are not found by key or by address.
	Revoked bool
	// Record is what the node last said of itself; zero unless HasRecord.
	Record    Record
	HasRecord bool
	// State is gossip's verdict and Since when it was reached: of several that differ, the best (verdict.go).
	State State
	Since time.Time
}

// MemberAt reports whether the node is a member at a time, by what is known here.
func (e Entry) MemberAt(now time.Time) bool {
	return e.Member != nil && !e.Revoked && !now.After(e.Member.NotAfter)
}

// Table is the set of members this node knows. It is safe for concurrent use. The members in it, and so its memory, are bounded
// by those the mesh has admitted: nothing gets in without a verified certificate.
type Table struct {
	self identity.NodeID

	// Read without a lock; written with mu held. The values are *slot: a slot belongs to one node for good, its entry changes.
	byID      sync.Map // identity.NodeID
	byKey     sync.Map // identity.WireGuardKey
	byAddress sync.Map // netip.Addr
	version   atomic.Uint64
	sorted    atomic.Pointer[listing]

	mu       sync.Mutex // guards the writes above and what follows
	revoked  map[identity.NodeID]bool
	watchers map[chan struct{}]bool
}

// slot is the place of one node in the indexes.
type slot struct {
	entry    atomic.Pointer[Entry]
	verdicts []verdict // guarded by the table's mu
}

// listing is the sorted content of the table at a version.
type listing struct {
	version uint64
	entries []Entry
}

// NewTable returns an empty table of the node self.
func NewTable(self identity.NodeID) *Table {
	return &Table{self: self, revoked: map[identity.NodeID]bool{}, watchers: map[chan struct{}]bool{}}
}

// Self returns the ID of the node whose table it is. Its own entry, once admitted, is listed like any other.
func (t *Table) Self() identity.NodeID { return t.self }

// Admit enters a member whose certificate the caller has verified; raw are the certificate's signed bytes. Of two certificates of
// one node the one issued later stays (an old, still valid one does not bring back old tags or an old address). When two members
// claim one overlay address, it belongs to the one whose certificate was issued later. A WireGuard key stays with the node that
// was admitted with it first: no honest pair of nodes shares one.
func (t *Table) Admit(m *certificate.Member, raw []byte) {
	id := m.NodeID()
	t.mu.Lock()
	defer t.mu.Unlock()
	entry := Entry{Member: m, Raw: raw, ID: id, Revoked: t.revoked[id]}
	s := t.slot(id)
	if s == nil {
		s = &slot{}
	} else {
		old := s.entry.Load()
		if !issuedAfter(m, old.Member) {
			return
		}
		entry.Record, entry.HasRecord, entry.State, entry.Since = old.Record, old.HasRecord, old.State, old.Since
		t.unindexLocked(s)
	}
	s.entry.Store(&entry)
	t.byID.Store(id, s)
	if !entry.Revoked {
		t.indexLocked(s)
	}
	t.changedLocked()
}

// issuedAfter reports whether a replaces b, both being certificates of one node.
func issuedAfter(a, b *certificate.Member) bool {
	if !a.NotBefore.Equal(b.NotBefore) {
		return a.NotBefore.After(b.NotBefore)
	}
	return a.Serial > b.Serial
}

func (t *Table) indexLocked(s *slot) {
	m := s.entry.Load().Member
	t.byKey.LoadOrStore(m.Public.WireGuard, s)
	for _, a := range m.Addresses() {
		if !a.IsValid() {
			continue
		}
		if v, taken := t.byAddress.Load(a); taken && !m.NotBefore.After(v.(*slot).entry.Load().Member.NotBefore) {
			continue
		}
		t.byAddress.Store(a, s)
	}
}

func (t *Table) unindexLocked(s *slot) {
	m := s.entry.Load().Member
	t.byKey.CompareAndDelete(m.Public.WireGuard, s)
	for _, a := range m.Addresses() {
		t.byAddress.CompareAndDelete(a, s)
	}
}

// Revoke marks the node as revoked, for good and whether or not it has been admitted yet: it is no longer found by key or address.
func (t *Table) Revoke(id identity.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.revoked[id] {
		return
	}
	t.revoked[id] = true
	if s := t.slot(id); s != nil {
		entry := *s.entry.Load()
		entry.Revoked = true
		t.unindexLocked(s)
		s.entry.Store(&entry)
	}
	t.changedLocked()
}

// Remove forgets a member that the mesh no longer lists. A revocation is not forgotten.
func (t *Table) Remove(id identity.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.slot(id); s != nil {
		t.unindexLocked(s)
		t.byID.Delete(id)
		t.changedLocked()
	}
}

// Update enters what a member says of itself; the caller has verified the record. It reports whether the record was newer than
// the one held. Records of nodes that are not members, or no longer, are refused.
func (t *Table) Update(r Record) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.slot(r.ID)
	if s == nil {
		return false
	}
	entry := *s.entry.Load()
	if entry.Revoked || entry.HasRecord && r.Sequence <= entry.Record.Sequence {
		return false
	}
	entry.Record, entry.HasRecord = r, true
	s.entry.Store(&entry)
	t.changedLocked()
	return true
}

// Get returns the member with the ID, revoked or not.
func (t *Table) Get(id identity.NodeID) (Entry, bool) {
	if s := t.slot(id); s != nil {
		return *s.entry.Load(), true
	}
	return Entry{}, false
}

// ByKey returns the member with the WireGuard key. Revoked members are not found: to the underlay they are strangers.
func (t *Table) ByKey(key identity.WireGuardKey) (Entry, bool) { return lookup(&t.byKey, key) }

// ByAddress returns the member with the overlay address, v4 or v6. Revoked members are not found.
func (t *Table) ByAddress(a netip.Addr) (Entry, bool) { return lookup(&t.byAddress, a.Unmap()) }

func lookup(index *sync.Map, key any) (Entry, bool) {
	v, ok := index.Load(key)
	if !ok {
		return Entry{}, false
	}
	// The slot may have been revoked since the index was read.
	entry := *v.(*slot).entry.Load()
	return entry, !entry.Revoked
}

func (t *Table) slot(id identity.NodeID) *slot {
	if v, ok := t.byID.Load(id); ok {
		return v.(*slot)
	}
	return nil
}

// All returns every member, revoked ones too, sorted by name and then by ID. The slice is shared: read it only.
func (t *Table) All() []Entry {
	if l := t.sorted.Load(); l != nil && l.version == t.version.Load() {
		return l.entries
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &listing{version: t.version.Load()}
	t.byID.Range(func(_, v any) bool {
		l.entries = append(l.entries, *v.(*slot).entry.Load())
		return true
	})
	slices.SortFunc(l.entries, func(a, b Entry) int {
		if c := strings.Compare(a.Member.Name, b.Member.Name); c != 0 {
			return c
		}
		return a.ID.Compare(b.ID)
	})
	t.sorted.Store(l)
	return l.entries
}

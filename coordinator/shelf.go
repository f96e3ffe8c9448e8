package coordinator

import (
	"crypto/sha256"
	"sync"
)

// shelfGeneration bounds a shelf: it keeps at most twice as many entries, of about 9 kB each.
const shelfGeneration = 4096

// Shelf lets the nodes of one process share the members' entries that they read: a thousand nodes that each hold a thousand members would hold 9 GB. What
// is on it was decoded, nothing more: each node verifies by its own state. An entry stands under the SHA-256 of its very bytes and is never changed. Only
// simulations have one; nil shares nothing.
type Shelf struct {
	mu         sync.Mutex // guards what follows
	young, old map[[32]byte]*Member
}

// NewShelf returns an empty one.
func NewShelf() *Shelf { return &Shelf{young: map[[32]byte]*Member{}} }

// member decodes an entry, or returns the one that was decoded from the same bytes before.
func (s *Shelf) member(body []byte) (*Member, error) {
	if s == nil {
		return decodeMember(body)
	}
	sum := sha256.Sum256(body)
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.young[sum]
	if ok {
		return m, nil
	}
	if m, ok = s.old[sum]; !ok {
		var err error
		if m, err = decodeMember(body); err != nil {
			return nil, err
		}
	}
	if len(s.young) >= shelfGeneration { // what nobody has asked for in a whole generation is forgotten
		s.old, s.young = s.young, map[[32]byte]*Member{}
	}
	s.young[sum] = m
	return m, nil
}

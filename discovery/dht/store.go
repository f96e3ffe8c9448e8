package dht

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"sync"

	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
)

// recordsMax bounds the values that a node keeps for others, at ValueMax some 50 MB at the very worst and 23 MB as values usually are. A node's fair
// share is bucketSize times members by servers; a member that stores everybody's values here all the same gets the farthest ones thrown out.
const recordsMax = 2048

// store keeps values in memory. kad-dht checks them before they come and throws out what is too old.
type store struct {
	*dssync.MutexDatastore
	self [sha256.Size]byte

	mu   sync.Mutex // held while Put makes room
	keys map[datastore.Key][sha256.Size]byte
	most int
}

func newStore(self string) *store {
	return &store{
		MutexDatastore: dssync.MutexWrap(datastore.NewMapDatastore()), self: sha256.Sum256([]byte(self)), most: recordsMax,
		keys: map[datastore.Key][sha256.Size]byte{},
	}
}

// Put keeps a value. When there are too many, the one whose key is farthest from our own place goes: others are responsible for it.
func (s *store) Put(ctx context.Context, k datastore.Key, v []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.MutexDatastore.Put(ctx, k, v); err != nil {
		return err
	}
	s.keys[k] = s.distance(k)
	if len(s.keys) <= s.most {
		return nil
	}
	far := k
	for other, d := range s.keys {
		if at := s.keys[far]; slices.Compare(d[:], at[:]) > 0 {
			far = other
		}
	}
	delete(s.keys, far)
	return s.MutexDatastore.Delete(ctx, far)
}

// Delete forgets a value.
func (s *store) Delete(ctx context.Context, k datastore.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, k)
	return s.MutexDatastore.Delete(ctx, k)
}

// Len is the number of values.
func (s *store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys)
}

// Batch is not there: it would go past the bound, and kad-dht does not ask for it.
func (s *store) Batch(context.Context) (datastore.Batch, error) {
	return nil, datastore.ErrBatchUnsupported
}

// distance is Kademlia's, the XOR of two hashes: of the key as lookups use it, which kad-dht keeps in base 32, and of our own peer ID.
func (s *store) distance(k datastore.Key) (d [sha256.Size]byte) {
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(k.BaseNamespace())
	if err != nil {
		key = k.Bytes()
	}
	h := sha256.Sum256(key)
	for i := range d {
		d[i] = h[i] ^ s.self[i]
	}
	return d
}

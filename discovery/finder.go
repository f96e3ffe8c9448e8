package discovery

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Source says where a hint comes from.
type Source uint8

// The sources of hints.
const (
	// SourceBook is the address book on disk.
	SourceBook Source = iota + 1
	// SourceToken is the invitation.
	SourceToken
	// SourceBootstrap is a configured bootstrap address.
	SourceBootstrap
	// SourceLAN is a beacon on the local network.
	SourceLAN
	// SourceDHT is a record in the mesh's DHT.
	SourceDHT
	// SourceMember is another member's word.
	SourceMember
)

var sourceNames = [...]string{"unknown", "book", "token", "bootstrap", "lan", "dht", "member"}

// String returns the source as logs show it.
func (s Source) String() string {
	if int(s) < len(sourceNames) {
		return sourceNames[s]
	}
	return sourceNames[0]
}

// Hint is where a node may be.
type Hint struct {
	// ID is the node; zero when only an address is known.
	ID identity.NodeID
	// Addrs are where it may be reached, the likeliest first; at most [AddrsMax].
	Addrs  []netip.AddrPort
	Source Source
	// At is when this was known to be so.
	At time.Time
}

// Finder is a way of finding nodes. It is safe for concurrent use.
type Finder interface {
	// Find gives what it knows, or learns until ctx ends, of where the node may be; of any members of the mesh when id is zero. It
	// returns when it has nothing more to give, or soon after ctx ended. give must not be called after that.
	Find(ctx context.Context, id identity.NodeID, give func(Hint)) error
}

// findersMax bounds the finders of one Collect: more ways than there are sources make no sense.
const findersMax = 16

// Collect asks finders side by side. give is called by one finder at a time. It returns when all have finished or soon after ctx
// ended, with the errors of those that failed, by their place in the list.
func Collect(ctx context.Context, finders []Finder, id identity.NodeID, give func(Hint)) map[int]error {
	var mu sync.Mutex
	var tasks sync.WaitGroup
	failed := map[int]error{}
	for i, f := range finders[:min(len(finders), findersMax)] {
		tasks.Go(func() {
			err := f.Find(ctx, id, func(h Hint) {
				mu.Lock()
				defer mu.Unlock()
				give(h)
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[i] = err
			}
		})
	}
	tasks.Wait()
	return failed
}

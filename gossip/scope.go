package gossip

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// Scope names a pool of the mesh: a region's name, or Wide. Pools of different scopes share keys, packets and streams' protocol, and nothing
// else: what is said in one is not heard in another, but for rumours, which whoever is in both carries over (rumour.go).
type Scope string

// Wide is the scope of the pool that bridges the regions. It is no region's name.
const Wide Scope = "*"

// scopeMax is the longest scope in bytes, that of a region's name.
const scopeMax = peer.RegionMax

// ErrScope says that something is no scope, or that a pool of the scope is open already.
var ErrScope = errors.New("gossip: unusable scope")

func (s Scope) check() error {
	if len(s) == 0 || len(s) > scopeMax {
		return fmt.Errorf("%w: %d bytes, 1 to %d are possible", ErrScope, len(s), scopeMax)
	}
	return nil
}

// tag is what a packet of the scope begins with: a byte that leads to the pool most likely meant. Which it is, the seal decides. Who does not
// know the mesh's ID learns from it at most that two packets are of different pools.
func (s Scope) tag(mesh identity.MeshID) byte {
	h := sha256.New()
	h.Write([]byte("phantommesh gossip scope v1"))
	h.Write(mesh[:])
	h.Write([]byte(s))
	return h.Sum(nil)[0]
}

// A stream begins with the scope of the pool that it is for, as its length in one byte and then itself.
func (s Scope) appendPreface(b []byte) []byte { return append(append(b, byte(len(s))), s...) }

// readPreface reads the beginning of a stream.
func readPreface(r io.Reader) (Scope, error) {
	var b [scopeMax]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return "", err
	}
	n := int(b[0])
	if n == 0 || n > scopeMax {
		return "", fmt.Errorf("%w: a scope of %d bytes", errStreamForm, n)
	}
	if _, err := io.ReadFull(r, b[:n]); err != nil {
		return "", err
	}
	return Scope(b[:n]), nil
}

// scopeGrace is how long a member that takes part in a pool still may after it is said to belong elsewhere: it learns of that as others do, a
// rumour's time apart, and stays for some seconds more to say that it goes. A coordinator that was voted out and in again is not torn out.
const scopeGrace = 30 * time.Second

// fence keeps out of a pool whom the mesh's state does not have there. Its lock comes after the roster's.
type fence struct {
	admits func(identity.NodeID) bool // nil: all members
	roster *roster

	mu     sync.Mutex                    // guards what follows
	lapsed map[identity.NodeID]time.Time // since when who takes part does not belong here; no more than there are members
}

func newFence(admits func(identity.NodeID) bool, r *roster) *fence {
	return &fence{admits: admits, roster: r, lapsed: map[identity.NodeID]time.Time{}}
}

// lets reports whether a member may take part.
func (f *fence) lets(id identity.NodeID, now time.Time) bool {
	if f.admits == nil {
		return true
	}
	belongs := f.admits(id)
	takesPart := !belongs && here(f.roster.state(id))
	f.mu.Lock()
	defer f.mu.Unlock()
	if !takesPart {
		delete(f.lapsed, id)
		return belongs
	}
	since, ok := f.lapsed[id]
	if !ok {
		since = now
		f.lapsed[id] = now
	}
	return now.Sub(since) < scopeGrace
}

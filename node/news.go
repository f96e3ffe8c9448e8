package node

import (
	"slices"
	"sync"
)

// heardMax is how many versions of the state a node remembers to have heard of; a rumour is news for seconds.
const heardMax = 16

// versionNews decides who tells the mesh of a new version of its state. Were it everybody, each change of the ledger would be as many rumours as
// there are members, each of which all pass on. So it is those to whom the log brings it, at most five, and of the others who has learned it in
// another way than by a rumour, which gossip passes on by itself. A member that lies about versions so keeps nobody but plain members from telling.
type versionNews struct {
	mu     sync.Mutex
	spread uint64   // highest version that we have told of, or need not
	heard  []uint64 // versions that rumours told of, newest last, at most heardMax
}

// hear notes that a rumour tells of a version.
func (v *versionNews) hear(version uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if slices.Contains(v.heard, version) {
		return
	}
	if len(v.heard) == heardMax {
		v.heard = slices.Delete(v.heard, 0, 1)
	}
	v.heard = append(v.heard, version)
}

// tell reports whether this node, which has the version now, is to spread it.
func (v *versionNews) tell(version uint64, voter bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if version <= v.spread {
		return false
	}
	v.spread = version
	return voter || !slices.Contains(v.heard, version)
}

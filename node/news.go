package node

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/peer"
)

// heardMax is how many versions of the state a node remembers to have heard of; a rumour is news for seconds.
const heardMax = 16

// versionNews decides who tells the mesh of a new version of its state. Were it everybody, each change of the ledger would be as many rumours as
// there are members, each of which all pass on. So it is those to whom the log brings it, at most five, and of the others who has learned it in
// another way than by a rumour, which gossip passes on by itself. What such a one starts with is no news: of a mesh that returns after a power cut all
// would tell all; if it is ahead after all, its record says so. A member that lies about versions so keeps nobody but plain members from telling.
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
	first := v.spread == 0
	v.spread = version
	return voter || !first && !slices.Contains(v.heard, version)
}

// hearRumour hands a rumour to whom it concerns.
func (m *membership) hearRumour(r gossip.Rumour) {
	switch {
	case r.Topic == topicState && len(r.Payload) == 8:
		version := binary.BigEndian.Uint64(r.Payload)
		m.news.hear(version)
		if version > m.group.State().Version {
			m.group.PullSoon(r.From)
		}
	case r.Topic == topicBulletin:
		m.abroad.hear(r.Payload)
	case r.Topic == topicLargeBulletin:
		m.abroad.fetchLarge(r.From, string(r.Payload))
	case r.Topic == topicRecord:
		m.abroad.hearRecord(r.From, r.Payload)
	case r.Topic == topicHorizon && r.Scope != "":
		m.abroad.hearHorizon(r.Payload)
	}
}

// tellRegions tells the regions what this node says of itself, if they need it and it is not what they were told; it returns what they were told.
func (m *membership) tellRegions(r, told peer.Record) peer.Record {
	state := m.group.State()
	switch {
	case !widePool(state) || !isNotable(state, m.node.ID()):
		return peer.Record{}
	case sameMatter(r, told):
		return told
	}
	m.abroad.hearRecord(m.node.ID(), m.gossip.Record())
	if err := m.gossip.Rumour(topicRecord, m.gossip.Record()); err != nil {
		m.node.log.Debug("rumour not spread", "err", err)
	}
	return r
}

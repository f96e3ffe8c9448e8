package node

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/gossip"
	"github.com/phantommesh/phantommesh/gossip/bulletin"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// what is what a node shares in gossip's exchanges: all bulletins, the records of those that everybody needs, and, in its region's pool, the
// region's horizon.
type what struct {
	wide, region             []byte
	wideDigest, regionDigest uint64
}

type sharedWire struct {
	_         struct{} `cbor:",toarray"`
	Bulletins [][]byte
	Records   []recordWire
	Horizon   []byte
}

type recordWire struct {
	_      struct{} `cbor:",toarray"`
	ID     identity.NodeID
	Signed []byte
}

// sharedMax bounds the bulletins and the records in an exchange: those of as many regions as have coordinators, and a few records for each.
const (
	sharedBulletinsMax = 512
	sharedRecordsMax   = 4 * sharedBulletinsMax
)

// share prepares what this node shares, after it has changed.
func (a *abroad) share() {
	var w sharedWire
	var out what
	w.Bulletins, w.Records, w.Horizon = [][]byte{}, []recordWire{}, []byte{}
	for _, n := range a.board.Notices() {
		w.Bulletins = append(w.Bulletins, n.Raw)
		out.wideDigest += digestOf([]byte(n.Region), n.Term, n.Number)
	}
	ids := slices.SortedFunc(maps.Keys(a.records), identity.NodeID.Compare)
	for _, id := range ids {
		w.Records = append(w.Records, recordWire{ID: id, Signed: a.records[id].signed})
		out.wideDigest += digestOf(id[:], a.records[id].sequence, 0)
	}
	w.Bulletins, w.Records = w.Bulletins[:min(len(w.Bulletins), sharedBulletinsMax)], w.Records[:min(len(w.Records), sharedRecordsMax)]
	out.regionDigest = out.wideDigest
	var err error
	if out.wide, err = wire.Marshal(&w); err != nil {
		a.m.node.log.Warn("bulletins are not shared", "err", err)
		return
	}
	h, raw := a.board.Horizon(a.own)
	if w.Horizon = raw; raw == nil {
		w.Horizon = []byte{}
	} else {
		out.regionDigest += digestOf([]byte("horizon"), h.Term, h.Number)
	}
	if out.region, err = wire.Marshal(&w); err != nil {
		a.m.node.log.Warn("bulletins are not shared", "err", err)
		return
	}
	old := a.shared.Swap(&out)
	if old == nil || old.regionDigest != out.regionDigest {
		a.m.gossip.SharedChanged()
	}
}

// digestOf need not withstand forgery, as in gossip: who lies gets an exchange that it could have asked for.
func digestOf(name []byte, a, b uint64) uint64 {
	x := a*0x9e3779b97f4a7c15 ^ b*0xd6e8feb86659fd93
	for len(name) > 0 {
		var chunk [8]byte
		n := copy(chunk[:], name)
		x, name = (x^binary.LittleEndian.Uint64(chunk[:]))*0xbf58476d1ce4e5b9, name[n:]
		x ^= x >> 31
	}
	return x
}

// State implements gossip.Shared.
func (a *abroad) State(s gossip.Scope) []byte {
	w := a.shared.Load()
	switch {
	case w == nil:
		return nil
	case s == gossip.Wide:
		return w.wide
	}
	return w.region
}

// Digest implements gossip.Shared.
func (a *abroad) Digest(s gossip.Scope) uint64 {
	w := a.shared.Load()
	switch {
	case w == nil:
		return 0
	case s == gossip.Wide:
		return w.wideDigest
	}
	return w.regionDigest
}

// Merge implements gossip.Shared.
func (a *abroad) Merge(_ gossip.Scope, b []byte) {
	select {
	case a.merges <- slices.Clone(b):
	default: // the digests will still differ
	}
}

// parseShared reads what another member shares.
func parseShared(b []byte) (sharedWire, error) {
	var w sharedWire
	if err := wire.Unmarshal(b, &w); err != nil {
		return w, err
	}
	if len(w.Bulletins) > sharedBulletinsMax || len(w.Records) > sharedRecordsMax || len(w.Horizon) > bulletin.HorizonMax {
		return w, errors.New("more than is ever shared")
	}
	return w, nil
}

// merge takes what another member shares. What is not new costs a look into a map.
func (a *abroad) merge(b []byte) {
	w, err := parseShared(b)
	if err != nil {
		a.counts.refused.Add(1)
		return
	}
	if len(w.Horizon) > 0 {
		a.hearHorizon(w.Horizon) // first: whom to believe of the others
	}
	for _, raw := range w.Bulletins {
		a.hear(raw)
	}
	for _, r := range w.Records {
		a.hearRecord(r.ID, r.Signed)
	}
}

// bulletinCounts is what became of bulletins.
type bulletinCounts struct{ taken, stale, ahead, refused atomic.Uint64 }

// note counts one, and reports whether it was of a newer state.
func (c *bulletinCounts) note(err error) (ahead bool) {
	switch {
	case err == nil:
		c.taken.Add(1)
	case errors.Is(err, bulletin.ErrStale):
		c.stale.Add(1)
	case errors.Is(err, bulletin.ErrAhead):
		c.ahead.Add(1)
		return true
	default:
		c.refused.Add(1)
	}
	return false
}

package gossip

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// announcement is a record of our own, and signed.
type announcement struct {
	record peer.Record
	signed []byte
}

// own is what this node says of itself, the same in all its pools.
type own struct {
	self      identity.NodeID
	key       *identity.Key
	now       func() time.Time // by the machine's clock
	announced atomic.Pointer[announcement]
	mu        sync.Mutex // guards the making of announced
}

// set makes a record the one that is announced. A sequence that is not above that of the last is replaced by one that is.
func (o *own) set(r peer.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.ID = o.self
	if last := o.announced.Load(); last != nil && r.Sequence <= last.record.Sequence {
		r.Sequence = max(last.record.Sequence+1, uint64(o.now().UnixMilli()))
	}
	signed, err := r.Sign(o.key)
	if err != nil {
		return fmt.Errorf("gossip: sign our record: %w", err)
	}
	// What was signed is what we say: Sign may have left endpoints out.
	if r, err = peer.ParseRecord(o.self, signed); err != nil {
		return fmt.Errorf("gossip: our record: %w", err)
	}
	o.announced.Store(&announcement{record: r, signed: signed})
	return nil
}

// heard looks at what is said of this node. A record of an earlier run that is ahead of ours (the clock was set back) would win everywhere,
// so ours takes a sequence above it; it reports whether it did. Called with memberlist's lock held.
func (o *own) heard(meta []byte) bool {
	theirs, err := peer.ParseRecord(o.self, meta)
	if err != nil || theirs.Sequence <= o.announced.Load().record.Sequence {
		return false
	}
	if _, err := peer.VerifyRecord(o.key.Public(), meta); err != nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.announced.Load().record
	if theirs.Sequence <= r.Sequence {
		return false
	}
	r.Sequence = theirs.Sequence + 1
	signed, err := r.Sign(o.key)
	if err != nil {
		return false
	}
	o.announced.Store(&announcement{record: r, signed: signed})
	return true
}

// SetRecord says something new of this node: it is signed and spread in all pools. A sequence that is not above that of the last record
// is replaced by one that is.
func (h *Host) SetRecord(r peer.Record) error {
	if err := h.own.set(r); err != nil {
		return err
	}
	h.announce()
	return nil
}

// Record returns what this node says of itself, signed.
func (h *Host) Record() []byte { return h.own.announced.Load().signed }

// announce has all pools spread our record.
func (h *Host) announce() {
	for _, p := range *h.pools.Load() {
		p.askToAnnounce()
	}
}

package coordinator

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// maxOutcomeBytes cuts what a refusal quotes.
const maxOutcomeBytes = 300

// AuditEntry is one decision: who asked, what was decided, when. Hash chains it to all before it:
// SHA-256(previous hash ‖ canonical encoding of the entry's other fields).
type AuditEntry struct {
	Index   uint64
	Time    time.Time
	Asker   identity.NodeID // zero: the group itself
	Action  string
	Subject string
	Outcome string
	Hash    [32]byte
}

// auditForm is what is hashed and stored.
type auditForm struct {
	_       struct{} `cbor:",toarray"`
	Index   uint64
	Time    int64
	Asker   identity.NodeID
	Action  string
	Subject string
	Outcome string
}

func (e AuditEntry) form() auditForm {
	return auditForm{Index: e.Index, Time: e.Time.UnixMilli(), Asker: e.Asker, Action: e.Action, Subject: e.Subject, Outcome: e.Outcome}
}

func (f auditForm) entry() AuditEntry {
	return AuditEntry{Index: f.Index, Time: time.UnixMilli(f.Time).UTC(), Asker: f.Asker, Action: f.Action, Subject: f.Subject, Outcome: f.Outcome}
}

func (e AuditEntry) chained(prev [32]byte) [32]byte {
	b, err := wire.Marshal(e.form())
	if err != nil {
		panic(fmt.Sprintf("coordinator: audit entry does not encode: %v", err))
	}
	return sha256.Sum256(append(prev[:], b...))
}

// auditChain keeps the last auditKept to 2*auditKept entries and, for all before them, the hash they ended in.
type auditChain struct {
	base    [32]byte // hash before entries[0]
	count   uint64   // entries ever
	entries []AuditEntry
}

func (c *auditChain) head() [32]byte {
	if len(c.entries) == 0 {
		return c.base
	}
	return c.entries[len(c.entries)-1].Hash
}

func (c *auditChain) append(e AuditEntry) {
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	e.Subject, e.Outcome = clean(e.Subject), clean(e.Outcome)
	e.Hash = e.chained(c.head())
	c.count++
	c.entries = append(c.entries, e)
	if len(c.entries) >= 2*auditKept {
		c.base = c.entries[auditKept-1].Hash
		c.entries = slices.Clone(c.entries[auditKept:]) // cloned: a snapshot may still read the old array
	}
}

func (c *auditChain) clone() auditChain {
	out := *c
	out.entries = slices.Clone(c.entries)
	return out
}

// clean cuts and keeps text valid: CBOR text must be UTF-8, and names come from outside.
func clean(s string) string {
	return string([]rune(s)[:min(len([]rune(s)), maxOutcomeBytes)])
}

// Audit is the chain as far as it is kept whole.
type Audit struct {
	Base    [32]byte // hash before the first entry
	Dropped uint64   // entries before it, known only by Base
	Entries []AuditEntry
}

// ErrAudit: an entry does not continue the chain.
var ErrAudit = errors.New("the audit log is broken")

// Verify recomputes the chain.
func (a Audit) Verify() error {
	prev := a.Base
	for _, e := range a.Entries {
		if e.chained(prev) != e.Hash {
			return fmt.Errorf("%w at entry %d of %s", ErrAudit, e.Index, e.Time.Format(time.RFC3339))
		}
		prev = e.Hash
	}
	return nil
}

// Count is the number of entries ever.
func (a Audit) Count() uint64 { return a.Dropped + uint64(len(a.Entries)) }

// HeadAt returns the hash that the first count entries ever end in; false if they end before what is kept, or later.
func (a Audit) HeadAt(count uint64) ([32]byte, bool) {
	switch {
	case count < a.Dropped || count > a.Count():
		return [32]byte{}, false
	case count == a.Dropped:
		return a.Base, true
	}
	return a.Entries[count-a.Dropped-1].Hash, true
}

// newest is the log without all but its last entries.
func (a Audit) newest(count int) Audit {
	if n := len(a.Entries) - count; n > 0 {
		a.Base, a.Dropped, a.Entries = a.Entries[n-1].Hash, a.Dropped+uint64(n), a.Entries[n:]
	}
	return a
}

func (c *auditChain) export() Audit {
	return Audit{Base: c.base, Dropped: c.count - uint64(len(c.entries)), Entries: slices.Clone(c.entries)}
}

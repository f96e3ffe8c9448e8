package coordinator

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

const (
	// relaysPerRegion bounds those of one region: with 256 registrations each (reach.DefaultCapacity), two to a member, they serve some two
	// thousand members that cannot be reached directly. Any member that offers to may be used beside them.
	relaysPerRegion = 16
	// maxRelays bounds the record to some 110 kB.
	maxRelays = 1024
)

// Relay is a member that was appointed to relay for one region.
type Relay struct {
	Region string // whose members it is for; it may be of another itself
	Node   identity.NodeID
	Since  time.Time
}

// Relays are those appointed for all regions, immutable. Whoever else offers to relay may be used too: an appointment says where to look first.
type Relays struct {
	List    []Relay // sorted by region, then node, each pair once
	Version uint64  // of the last change to any; 0: there never was one

	hash [32]byte // of the record
}

func compareRelays(a, b Relay) int {
	return cmp.Or(cmp.Compare(a.Region, b.Region), a.Node.Compare(b.Node))
}

// Of returns those of one region, sorted by node. The slice belongs to r.
func (r Relays) Of(region string) []Relay {
	from, _ := slices.BinarySearchFunc(r.List, Relay{Region: region}, compareRelays)
	to := from
	for to < len(r.List) && r.List[to].Region == region {
		to++
	}
	return r.List[from:to]
}

// Appointed tells whether a member was appointed to relay for a region.
func (r Relays) Appointed(region string, id identity.NodeID) bool {
	_, ok := slices.BinarySearchFunc(r.List, Relay{Region: region, Node: id}, compareRelays)
	return ok
}

func (s *State) withRelays(r Relays) *State {
	c := s.clone()
	c.Relays = r.hashed()
	c.Version = max(c.Version, r.Version)
	return c
}

// relayBody appoints a member to relay for a region, or dismisses it.
type relayBody struct {
	_       struct{} `cbor:",toarray"`
	Region  string
	Node    identity.NodeID
	Appoint bool
	Why     string // for the audit log
}

// relay changes who relays for a region.
func (l *Ledger) relay(s step[relayBody]) (Result, string) {
	b := s.body
	subject := fmt.Sprintf("%s for %s: %s", b.Node, b.Region, map[bool]string{true: "appointed", false: "dismissed"}[b.Appoint])
	if b.Why != "" {
		subject += " (" + b.Why[:min(len(b.Why), maxWhyBytes)] + ")"
	}
	if certificate.CheckLabel(b.Region) != nil {
		return refused(RefusedRequest, "%q is not a region", b.Region), ""
	}
	next := l.state.Relays
	at, known := slices.BinarySearchFunc(next.List, Relay{Region: b.Region, Node: b.Node}, compareRelays)
	next.Version = s.version
	switch {
	case !b.Appoint && !known, b.Appoint && known:
		return refused(refusedConflict, "the relays of %s changed meanwhile", b.Region), subject
	case !b.Appoint:
		next.List = slices.Delete(slices.Clone(next.List), at, at+1)
	case !l.state.Active(b.Node):
		return refused(refusedConflict, "%s is not an active member", b.Node.Short()), subject
	case l.state.activeRegions()[b.Region] == 0:
		return refused(refusedConflict, "region %s has no members", b.Region), subject
	case len(next.Of(b.Region)) >= relaysPerRegion || len(next.List) >= maxRelays:
		return refused(RefusedFull, "there are enough relays for %s already", b.Region), subject
	default:
		next.List = slices.Insert(slices.Clone(next.List), at, Relay{Region: b.Region, Node: b.Node, Since: s.at})
	}
	l.state = l.state.withRelays(next)
	return Result{}, subject
}

// relaysRecord holds all of them, as the record of the regions does.
type relaysRecord struct {
	_       struct{} `cbor:",toarray"`
	Relays  []relayRecord
	Version uint64
}

type relayRecord struct {
	_      struct{} `cbor:",toarray"`
	Region string
	Node   identity.NodeID
	Since  int64 // Unix ms
}

func newRelaysRecord(r Relays) relaysRecord {
	out := relaysRecord{Relays: make([]relayRecord, 0, len(r.List)), Version: r.Version}
	for _, x := range r.List {
		out.Relays = append(out.Relays, relayRecord{Region: x.Region, Node: x.Node, Since: x.Since.UnixMilli()})
	}
	return out
}

func parseRelaysRecord(body []byte) (Relays, error) {
	var rec relaysRecord
	if err := wire.Unmarshal(body, &rec); err != nil {
		return Relays{}, err
	}
	if rec.Version == 0 || len(rec.Relays) > maxRelays {
		return Relays{}, errors.New("not a list of relays")
	}
	out := Relays{Version: rec.Version}
	for i, x := range rec.Relays {
		next := Relay{Region: x.Region, Node: x.Node, Since: unixMilli(x.Since)}
		if certificate.CheckLabel(x.Region) != nil || x.Node.IsZero() || (i > 0 && compareRelays(out.List[i-1], next) >= 0) {
			return Relays{}, fmt.Errorf("relay %s of region %q is malformed or out of order", x.Node.Short(), x.Region)
		}
		out.List = append(out.List, next)
	}
	return out.hashed(), nil
}

func (r Relays) hashed() Relays {
	r.hash = sha256.Sum256(mustRecord(recordRelays, newRelaysRecord(r)))
	return r
}

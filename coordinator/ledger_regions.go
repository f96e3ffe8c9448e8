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

// DefaultRegion is the region of a member whose certificate names none.
const DefaultRegion = "default"

const (
	// maxRegions bounds the record of the regions to some 60 kB. Members of a region beyond it have no coordinator of their own, and ask
	// the voters.
	maxRegions = 512
	// regionTermsKept is the room that each generation of the ledger has for terms: those of a newer generation are all higher, so that a
	// branch of the mesh that a recovery has ended cannot have given out the same ones.
	regionTermsKept = 1_000_000
	// maxWhyBytes cuts the reason in the audit log.
	maxWhyBytes = 100
)

// Region is what the ledger says about one region that has members.
type Region struct {
	Name        string
	Coordinator identity.NodeID // zero: nobody of the region could be reached
	// Term grows with every change, and is the fence: what a coordinator says is refused by who knows of a higher term of its region. A
	// region that empties and returns goes on above all terms that were ever taken away.
	Term  uint64
	Since time.Time // when the term began
}

// Regions are the mesh's regions with their coordinators, immutable.
type Regions struct {
	List    []Region // sorted by name, each once
	Floor   uint64   // the highest term of a region that is no more
	Version uint64   // of the last change to any; 0: there never was one

	hash [32]byte // of the record
}

// Get finds a region.
func (r Regions) Get(name string) (Region, bool) {
	i, ok := slices.BinarySearchFunc(r.List, name, func(x Region, name string) int { return cmp.Compare(x.Name, name) })
	if !ok {
		return Region{}, false
	}
	return r.List[i], true
}

// nextTerm is the term of a region's next change.
func (s *State) nextTerm(region string) uint64 {
	term := s.Regions.Floor
	if r, ok := s.Regions.Get(region); ok {
		term = max(term, r.Term)
	}
	return max(term, uint64(s.Lineage().Generation)*regionTermsKept) + 1
}

// RegionOf returns the region of a member; empty for a node that never was one.
func (s *State) RegionOf(id identity.NodeID) string {
	m, ok := s.Member(id)
	switch {
	case !ok:
		return ""
	case m.Certificate.Region == "":
		return DefaultRegion
	}
	return m.Certificate.Region
}

// RegionCoordinator returns who coordinates a region and in which term. It is false while nobody does: nobody was elected yet, or who was
// has been revoked, has left, or has moved to another region. The term is known even then, if the region ever had one.
func (s *State) RegionCoordinator(region string) (id identity.NodeID, term uint64, ok bool) {
	r, _ := s.Regions.Get(region)
	if r.Coordinator.IsZero() || !s.Active(r.Coordinator) || s.RegionOf(r.Coordinator) != region {
		return identity.NodeID{}, r.Term, false
	}
	return r.Coordinator, r.Term, true
}

// Coordinates returns the region that a node coordinates, and the term.
func (s *State) Coordinates(id identity.NodeID) (region string, term uint64, ok bool) {
	region = s.RegionOf(id)
	who, term, ok := s.RegionCoordinator(region)
	return region, term, ok && who == id
}

// activeRegions counts the active members of every region that has any.
func (s *State) activeRegions() map[string]int {
	out := map[string]int{}
	for _, m := range s.Members {
		if m.Status == Active {
			out[s.RegionOf(m.ID)]++
		}
	}
	return out
}

// CountOf returns how many active members a region has.
func (s *State) CountOf(region string) (n int) {
	for _, m := range s.Members {
		if m.Status == Active && s.RegionOf(m.ID) == region {
			n++
		}
	}
	return n
}

// MembersOf returns the active members of every region that has any, sorted by node ID.
func (s *State) MembersOf() map[string][]identity.NodeID {
	out := map[string][]identity.NodeID{}
	for _, m := range s.Members { // sorted
		if m.Status == Active {
			region := s.RegionOf(m.ID)
			out[region] = append(out[region], m.ID)
		}
	}
	return out
}

func (s *State) withRegions(r Regions) *State {
	c := s.clone()
	c.Regions = r.hashed()
	c.Version = max(c.Version, r.Version)
	return c
}

// regionBody is a change of one region.
type regionBody struct {
	_           struct{} `cbor:",toarray"`
	Region      string
	Coordinator identity.NodeID // zero: nobody
	Term        uint64          // of this change: decided on the ledger in which it is the next
	Why         string          // for the audit log
}

// region elects a region's coordinator, or notes that there is none. A region without members is taken off the list.
func (l *Ledger) region(s step[regionBody]) (Result, string) {
	b := s.body
	subject := fmt.Sprintf("%s term %d: %s", b.Region, b.Term, b.coordinator())
	if b.Why != "" {
		subject += " (" + b.Why[:min(len(b.Why), maxWhyBytes)] + ")"
	}
	switch {
	case certificate.CheckLabel(b.Region) != nil:
		return refused(RefusedRequest, "%q is not a region", b.Region), ""
	case b.Term != l.state.nextTerm(b.Region):
		return refused(refusedConflict, "the coordinator of %s changed meanwhile", b.Region), subject
	case !b.Coordinator.IsZero() && !l.state.Active(b.Coordinator):
		return refused(refusedConflict, "%s is not an active member", b.Coordinator.Short()), subject
	case !b.Coordinator.IsZero() && l.state.RegionOf(b.Coordinator) != b.Region:
		return refused(refusedConflict, "%s is not of region %s", b.Coordinator.Short(), b.Region), subject
	}
	next := l.state.Regions
	i, known := slices.BinarySearchFunc(next.List, b.Region, func(x Region, name string) int { return cmp.Compare(x.Name, name) })
	next.List, next.Version = slices.Clone(next.List), s.version
	switch {
	case l.state.activeRegions()[b.Region] == 0:
		if !known {
			return refused(RefusedRequest, "region %s has no members", b.Region), subject
		}
		next.List, next.Floor = slices.Delete(next.List, i, i+1), max(next.Floor, b.Term)
		subject = fmt.Sprintf("%s has no members", b.Region)
	case known:
		next.List[i] = b.region(s.at)
	case len(next.List) == maxRegions:
		return refused(RefusedFull, "%d regions have coordinators already", maxRegions), subject
	default:
		next.List = slices.Insert(next.List, i, b.region(s.at))
	}
	l.state = l.state.withRegions(next)
	return Result{}, subject
}

func (b regionBody) region(at time.Time) Region {
	return Region{Name: b.Region, Coordinator: b.Coordinator, Term: b.Term, Since: at}
}

func (b regionBody) coordinator() string {
	if b.Coordinator.IsZero() {
		return "nobody"
	}
	return b.Coordinator.String()
}

// regionsRecord holds all of them: a mesh has a few, and one that is gone must be gone everywhere.
type regionsRecord struct {
	_       struct{} `cbor:",toarray"`
	Regions []regionRecord
	Floor   uint64
	Version uint64
}

type regionRecord struct {
	_           struct{} `cbor:",toarray"`
	Name        string
	Coordinator identity.NodeID
	Term        uint64
	Since       int64 // Unix ms
}

func newRegionsRecord(r Regions) regionsRecord {
	out := regionsRecord{Regions: make([]regionRecord, 0, len(r.List)), Floor: r.Floor, Version: r.Version}
	for _, x := range r.List {
		out.Regions = append(out.Regions, regionRecord{Name: x.Name, Coordinator: x.Coordinator, Term: x.Term, Since: x.Since.UnixMilli()})
	}
	return out
}

func parseRegionsRecord(body []byte) (Regions, error) {
	var rec regionsRecord
	if err := wire.Unmarshal(body, &rec); err != nil {
		return Regions{}, err
	}
	if rec.Version == 0 || len(rec.Regions) > maxRegions {
		return Regions{}, errors.New("not a list of regions")
	}
	out := Regions{Floor: rec.Floor, Version: rec.Version}
	for i, x := range rec.Regions {
		if certificate.CheckLabel(x.Name) != nil || x.Term == 0 || (i > 0 && rec.Regions[i-1].Name >= x.Name) {
			return Regions{}, fmt.Errorf("region %q is malformed or out of order", x.Name)
		}
		out.List = append(out.List, Region{Name: x.Name, Coordinator: x.Coordinator, Term: x.Term, Since: unixMilli(x.Since)})
	}
	return out.hashed(), nil
}

func (r Regions) hashed() Regions {
	r.hash = sha256.Sum256(mustRecord(recordRegions, newRegionsRecord(r)))
	return r
}

package coordinator

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Status is what the ledger says about a member.
type Status uint8

// The statuses. Values are part of the stored format.
const (
	Active  Status = 1
	Revoked Status = 2
	Left    Status = 3
)

// String names the status as the contract does.
func (s Status) String() string {
	switch s {
	case Active:
		return "active"
	case Revoked:
		return "revoked"
	case Left:
		return "left"
	}
	return "unknown"
}

// Mesh is what never changes after founding.
type Mesh struct {
	ID     identity.MeshID
	Name   string
	Root   identity.RootPublic
	IPv4   netip.Prefix
	Holder identity.NodeID // keeps root.key
}

// Member is one entry of the ledger, immutable.
type Member struct {
	ID          identity.NodeID
	Certificate *certificate.Member
	Raw         []byte // the certificate as signed
	Status      Status
	Version     uint64    // raft index of its last change
	Since       time.Time // when the status began
	Revocation  []byte    // signed, unless active
	Invitation  string    // which admitted it, empty for the founder
	hash        [32]byte  // of its record
}

// Issuer is a member that may sign certificates, immutable.
type Issuer struct {
	ID      identity.NodeID
	Depth   uint8
	Raw     []byte
	Version uint64
	hash    [32]byte
}

// Keyring holds the gossip keys, the first is the one to seal with.
type Keyring struct {
	Keys    [][]byte
	Version uint64
}

// Coordinators is the group as last known: by a voter from its own raft, by others from their last pull.
type Coordinators struct {
	Quorum bool
	Leader identity.NodeID // zero: unknown
	Term   uint64
	Voters []identity.NodeID // sorted
	AsOf   time.Time         // when a coordinator said so
}

// Voter tells whether id votes.
func (c Coordinators) Voter(id identity.NodeID) bool { return slices.Contains(c.Voters, id) }

// State is the replicated state every member may hold, immutable: readers need no lock.
// Members and Issuers are sorted by node ID.
type State struct {
	Mesh         Mesh
	Version      uint64 // of the last change to anything below (Lineage.version), 0 before the first pull
	Members      []*Member
	Issuers      []*Issuer
	Keyring      Keyring
	Policy       *Policy // nil: none was ever set
	Regions      Regions
	Relays       Relays
	Recovery     *Recovery // the last one; nil: the group has never lost its quorum for good
	Coordinators Coordinators

	trust *certificate.Trust
	head  []byte // signed head of this very version, if we have one
}

// Member finds a member of any status.
func (s *State) Member(id identity.NodeID) (*Member, bool) {
	i, ok := slices.BinarySearchFunc(s.Members, id, func(m *Member, id identity.NodeID) int { return m.ID.Compare(id) })
	if !ok {
		return nil, false
	}
	return s.Members[i], true
}

// Active tells whether id is a member in good standing.
func (s *State) Active(id identity.NodeID) bool {
	m, ok := s.Member(id)
	return ok && m.Status == Active
}

// Issuer finds the issuer certificate of a node.
func (s *State) Issuer(id identity.NodeID) (*Issuer, bool) {
	i, ok := slices.BinarySearchFunc(s.Issuers, id, func(x *Issuer, id identity.NodeID) int { return x.ID.Compare(id) })
	if !ok {
		return nil, false
	}
	return s.Issuers[i], true
}

// MaySpeakRaft tells whether id is an active member that the root, directly or not, made an issuer.
func (s *State) MaySpeakRaft(id identity.NodeID, now time.Time) bool {
	if s.trust == nil || !s.Active(id) {
		return false
	}
	_, issuer := s.trust.IssuerDepth(id, now)
	return issuer
}

// addIssuer verifies who signed an issuer certificate and adds it, in place of the node's other one. Times are not looked at, so that
// neither the clock here nor the moment of replay decide over what the set holds; whoever uses it checks that it is valid then.
func addIssuer(t *certificate.Trust, raw []byte) (*certificate.Issuer, *certificate.Trust, error) {
	issuer, err := certificate.ParseIssuer(raw)
	if err != nil {
		return nil, nil, err
	}
	t, err = t.WithChosenIssuer(raw)
	return issuer, t, err
}

func (s *State) activeRaw() [][]byte {
	var out [][]byte
	for _, m := range s.Members {
		if m.Status == Active {
			out = append(out, m.Raw)
		}
	}
	return out
}

// ActiveMembers counts members in good standing.
func (s *State) ActiveMembers() int {
	n := 0
	for _, m := range s.Members {
		if m.Status == Active {
			n++
		}
	}
	return n
}

// Revocations returns the signed revocations, sorted by node.
func (s *State) Revocations() [][]byte {
	var out [][]byte
	for _, m := range s.Members {
		if len(m.Revocation) > 0 {
			out = append(out, m.Revocation)
		}
	}
	return out
}

// Trust is what this state lets us verify with; nil before the mesh is known.
func (s *State) Trust() *certificate.Trust { return s.trust }

// clone copies the struct; slices are shared until a with method replaces them.
func (s *State) clone() *State {
	c := *s
	c.head = nil
	return &c
}

func (s *State) withMember(m *Member) *State {
	c := s.clone()
	m.hash = sha256.Sum256(mustRecord(recordMember, newMemberRecord(m)))
	c.Members = insert(s.Members, m, func(a, b *Member) int { return a.ID.Compare(b.ID) })
	c.Version = max(c.Version, m.Version)
	return c
}

func (s *State) withIssuer(i *Issuer, trust *certificate.Trust) *State {
	c := s.clone()
	i.hash = sha256.Sum256(mustRecord(recordIssuer, issuerRecord{Raw: i.Raw, Version: i.Version}))
	c.Issuers = insert(s.Issuers, i, func(a, b *Issuer) int { return a.ID.Compare(b.ID) })
	c.trust = trust
	c.Version = max(c.Version, i.Version)
	return c
}

func (s *State) withKeyring(k Keyring) *State {
	c := s.clone()
	c.Keyring = k
	c.Version = max(c.Version, k.Version)
	return c
}

func (s *State) withPolicy(p *Policy) *State {
	c := s.clone()
	c.Policy = p
	c.Version = max(c.Version, p.Version)
	return c
}

func (s *State) withTrust(t *certificate.Trust) *State {
	c := s.clone()
	c.trust = t
	return c
}

// withCoordinators keeps the head: the view is not part of what a head covers.
func (s *State) withCoordinators(v Coordinators) *State {
	c := *s
	c.Coordinators = v
	return &c
}

func (s *State) withHead(head []byte) *State {
	c := *s
	c.head = head
	return &c
}

// insert returns a new sorted slice with x in place of its equal, if any.
func insert[T any](list []T, x T, order func(a, b T) int) []T {
	i, found := slices.BinarySearchFunc(list, x, order)
	out := make([]T, 0, len(list)+1)
	out = append(append(out, list[:i]...), x)
	if found {
		i++
	}
	return append(out, list[i:]...)
}

// Digest covers all of the replicated state but the view of coordinators: SHA-256 over version, mesh, keyring and the hash of
// every record in order, then the policy, the regions, the relays and the
// recovery, where there are such. Two members with the same digest hold the same state.
func (s *State) Digest() [32]byte {
	h := sha256.New()
	h.Write([]byte("phantommesh state v1"))
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], s.Version)
	h.Write(n[:])
	h.Write(mustRecord(recordMesh, newMeshRecord(s.Mesh)))
	h.Write(mustRecord(recordKeyring, keyringRecord{Keys: s.Keyring.Keys, Version: s.Keyring.Version}))
	binary.BigEndian.PutUint64(n[:], uint64(len(s.Issuers)))
	h.Write(n[:])
	for _, i := range s.Issuers {
		h.Write(i.hash[:])
	}
	for _, m := range s.Members {
		h.Write(m.hash[:])
	}
	if s.Policy != nil { // a mesh that never had one keeps the digest it had before there were policies
		h.Write([]byte("policy"))
		h.Write(s.Policy.hash[:])
	}
	if s.Regions.Version > 0 {
		h.Write([]byte("regions"))
		h.Write(s.Regions.hash[:])
	}
	if s.Relays.Version > 0 {
		h.Write([]byte("relays"))
		h.Write(s.Relays.hash[:])
	}
	if s.Recovery != nil {
		h.Write([]byte("recovery"))
		h.Write(s.Recovery.hash[:])
	}
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

// sortedIDs returns ids sorted, as a new slice.
func sortedIDs(ids []identity.NodeID) []identity.NodeID {
	out := slices.Clone(ids)
	slices.SortFunc(out, identity.NodeID.Compare)
	return out
}

func (c Coordinators) equal(o Coordinators) bool {
	return c.Quorum == o.Quorum && c.Leader == o.Leader && c.Term == o.Term && slices.Equal(c.Voters, o.Voters)
}

// improvesIssuer tells whether an issuer certificate that is valid at a moment is better than the one its node has: that one is none then
// (it has ended, its parent was revoked, or a wrong clock wrote it and it has not begun), has fewer rights, or a shorter life.
func (s *State) improvesIssuer(i *certificate.Issuer, at time.Time) bool {
	depth, usable := s.trust.IssuerDepth(i.NodeID(), at)
	if !usable {
		return true
	}
	end, _ := s.trust.IssuerEnd(i.NodeID())
	return cmp.Or(cmp.Compare(i.Depth, depth), i.NotAfter.Compare(end)) > 0
}

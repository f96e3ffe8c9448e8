package coordinator

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// A group that has lost its quorum for good decides nothing ever again. Then a person makes one surviving member the only voter: a
// recovery (recover.go). The mesh's history may fork there, as the lost voters may not be lost after all and may have decided on. Which
// branch holds is not left to chance: a recovery begins a new lineage of the ledger, and of two lineages the newer holds, on every node.

// Lineage names a branch of the ledger by the recovery it began with; the zero value is the founding's.
type Lineage struct {
	Generation uint16          // how many recoveries led here
	By         identity.NodeID // whose the last was
}

// A version orders the states of a mesh. Within a lineage it counts raft's indices; a newer lineage's are all higher, so that whoever
// compares versions, as gossip does, finds the newer lineage:
//
//	63        54 53            38 37              0
//	+-----------+----------------+-----------------+
//	| generation| rank           | raft index      |
//	+-----------+----------------+-----------------+
//
// The rank is the complement of the first 16 bits of By: of two recoveries of one generation the lower node ID's holds. That two have
// the same 16 bits is left to newer, which compares all of them.
const (
	generationMax = 1<<10 - 1
	indexBits     = 38
	indexMask     = 1<<indexBits - 1
	rankBits      = 16
)

func (l Lineage) version(index uint64) uint64 {
	if l.Generation == 0 {
		return index & indexMask
	}
	rank := ^binary.BigEndian.Uint16(l.By[:2])
	return uint64(l.Generation)<<(indexBits+rankBits) | uint64(rank)<<indexBits | index&indexMask
}

// newer tells whether l holds against o.
func (l Lineage) newer(o Lineage) bool {
	if l.Generation != o.Generation {
		return l.Generation > o.Generation
	}
	return l.By.Compare(o.By) < 0
}

// Lineage tells which branch of the mesh's history a state is of.
func (s *State) Lineage() Lineage {
	if s.Recovery == nil {
		return Lineage{}
	}
	return s.Recovery.Lineage
}

// supersedes tells whether s is to be used instead of old.
func (s *State) supersedes(old *State) bool {
	if ours, theirs := s.Lineage(), old.Lineage(); ours != theirs {
		return ours.newer(theirs)
	}
	return s.Version > old.Version
}

// Recovery is the beginning of a lineage, immutable: a member's signed word that it has made itself the only voter.
type Recovery struct {
	Lineage
	At   time.Time
	Lost []identity.NodeID // the servers of the group before, without By
	// What the new lineage goes on from: the last entry of the audit chain before it. What others decided after it is void.
	AuditCount uint64
	AuditHead  [32]byte

	Raw     []byte // signed
	Version uint64
	hash    [32]byte // of its record
}

const recoveryContext = "phantommesh recovery v1"

type recoveryClaim struct {
	_          struct{} `cbor:",toarray"`
	Mesh       identity.MeshID
	Generation uint16
	By         identity.NodeID
	At         int64 // Unix ms
	Lost       []identity.NodeID
	AuditCount uint64
	AuditHead  [32]byte
}

type signedRecovery struct {
	_         struct{} `cbor:",toarray"`
	Body      []byte
	Signature []byte
}

type recoveryRecord struct {
	_       struct{} `cbor:",toarray"`
	Raw     []byte
	Version uint64
}

// recoverBody is the command's.
type recoverBody struct {
	_   struct{} `cbor:",toarray"`
	Raw []byte   // signedRecovery
}

// recoveryMax bounds a signed recovery in bytes: 16 lost servers of 33, 130 of other fields, and 3,373 of signature.
const recoveryMax = 8 << 10

func signRecovery(key *identity.Key, mesh identity.MeshID, r Recovery) ([]byte, error) {
	body, err := wire.Marshal(recoveryClaim{Mesh: mesh, Generation: r.Generation, By: r.By, At: r.At.UnixMilli(), Lost: r.Lost,
		AuditCount: r.AuditCount, AuditHead: r.AuditHead})
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(recoveryContext, body)
	if err != nil {
		return nil, err
	}
	return wire.Marshal(signedRecovery{Body: body, Signature: sig})
}

// parseRecovery decodes without verifying.
func parseRecovery(raw []byte) (*Recovery, recoveryClaim, error) {
	var s signedRecovery
	var c recoveryClaim
	if len(raw) > recoveryMax {
		return nil, c, fmt.Errorf("a recovery of %d bytes is over the bound of %d", len(raw), recoveryMax)
	}
	if err := wire.Unmarshal(raw, &s); err != nil {
		return nil, c, err
	}
	if err := wire.Unmarshal(s.Body, &c); err != nil {
		return nil, c, err
	}
	if c.Generation == 0 || c.Generation > generationMax || c.By.IsZero() || len(c.Lost) > maxServers {
		return nil, c, errors.New("not a recovery")
	}
	return &Recovery{Lineage: Lineage{Generation: c.Generation, By: c.By}, At: unixMilli(c.At), Lost: c.Lost,
		AuditCount: c.AuditCount, AuditHead: c.AuditHead, Raw: raw}, c, nil
}

func newRecoveryRecord(r *Recovery) recoveryRecord {
	return recoveryRecord{Raw: r.Raw, Version: r.Version}
}

func parseRecoveryRecord(body []byte) (*Recovery, error) {
	var rec recoveryRecord
	if err := wire.Unmarshal(body, &rec); err != nil {
		return nil, err
	}
	r, _, err := parseRecovery(rec.Raw)
	if err != nil {
		return nil, err
	}
	r.Version = rec.Version
	return r.hashed(), nil
}

func (r *Recovery) hashed() *Recovery {
	r.hash = sha256.Sum256(mustRecord(recordRecovery, newRecoveryRecord(r)))
	return r
}

var errRecovery = errors.New("coordinator: the recovery does not verify")

// verify checks that one whom the mesh has made an issuer signed the recovery. It may have been revoked since: the state that holds the
// recovery is answered for by who signed its head.
func (r *Recovery) verify(s *State) error {
	_, claim, err := parseRecovery(r.Raw)
	if err != nil {
		return fmt.Errorf("%w: %w", errRecovery, err)
	}
	m, member := s.Member(r.By)
	_, issuer := s.Issuer(r.By)
	if claim.Mesh != s.Mesh.ID || !member || !issuer || r.Version&^indexMask != r.version(0) {
		return fmt.Errorf("%w: %s could not sign it", errRecovery, r.By.Short())
	}
	var signed signedRecovery
	if err := wire.Unmarshal(r.Raw, &signed); err != nil {
		return fmt.Errorf("%w: %w", errRecovery, err)
	}
	if err := m.Certificate.Public.Verify(recoveryContext, signed.Body, signed.Signature); err != nil {
		return fmt.Errorf("%w: %w", errRecovery, err)
	}
	return nil
}

func (s *State) withRecovery(r *Recovery) *State {
	c := s.clone()
	c.Recovery = r.hashed()
	c.Version = max(c.Version, r.Version)
	return c
}

// recover begins a lineage. It is the first entry after the snapshot that a recovery makes, and nobody else proposes it.
func (l *Ledger) recover(s step[recoverBody]) (Result, string) {
	r, _, err := parseRecovery(s.body.Raw)
	if err != nil {
		return refused(RefusedRequest, "the recovery does not decode"), ""
	}
	subject := fmt.Sprintf("generation %d by %s, who alone votes now; what the other coordinators decided after entry %d of this log is void",
		r.Generation, r.By, r.AuditCount)
	if r.Generation != l.state.Lineage().Generation+1 || r.By != s.asker {
		return refused(RefusedRequest, "a recovery is signed by who makes it, for the next generation"), subject
	}
	if refusal := l.state.mayRecover(r.By, s.at); refusal != nil {
		return Result{Refused: refusal}, subject
	}
	r.Version = r.version(s.version)
	if err := r.verify(l.state); err != nil {
		return refused(RefusedRequest, "the recovery does not verify: %v", err), subject
	}
	l.state = l.state.withRecovery(r)
	return Result{}, subject
}

// mayRecover refuses who must not make itself the only voter.
func (s *State) mayRecover(id identity.NodeID, at time.Time) *Refused {
	m, ok := s.Member(id)
	switch {
	case !ok:
		return refuse(RefusedNoMember, "%s is not a member of this mesh", id.Short())
	case m.Status != Active:
		return outcast(m)
	case at.After(m.Certificate.NotAfter.Add(RenewalGrace)):
		return refuse(RefusedNotAllowed, "this machine's certificate expired on %s, more than %s ago, so the other members would not follow it; "+
			"recover on another machine, or restore a backup", m.Certificate.NotAfter.Format(time.DateOnly), span(RenewalGrace))
	case !s.MaySpeakRaft(id, at):
		return refuse(RefusedNotAllowed, "the mesh has not made this machine one that may decide (a coordinator or the one that stands by), so the "+
			"other members would not follow it; recover on another machine, or restore a backup (phantom restore FILE)")
	}
	return nil
}

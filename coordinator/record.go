package coordinator

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/netip"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/policy"
)

// State files, raft snapshots and pulls are one format: a sequence of records, each a length-prefixed CBOR array
// [kind, body bytes], closed by an end record that holds the count and the SHA-256 of all encoded records before it.
const (
	recordMesh       = 1
	recordIssuer     = 2
	recordMember     = 3
	recordKeyring    = 4
	recordHead       = 5  // signed head of the version the records lead to
	recordView       = 6  // coordinators as last known
	recordLedger     = 7  // snapshots only: counters and the head of the audit chain
	recordInvitation = 8  // snapshots only
	recordAudit      = 9  // snapshots only
	recordEnd        = 10 // count and checksum
	recordPolicy     = 11 // the policy in force
	recordPolicyKept = 12 // snapshots only: the versions of the policy, oldest first
	recordRecovery   = 13 // the last recovery, signed
	recordRegions    = 14 // all regions and their coordinators
	recordOffice     = 15 // pulls only: what the answerer is to the asker's region
	recordRelays     = 16 // who was appointed to relay, for all regions
)

// Bounds of a sequence: the largest record is a policy; a revoked member is about 12 KiB, half certificate and half revocation.
const (
	maxRecordBytes = policy.TextMax + 4<<10
	maxRecords     = 200_000 // members (maxMembers), issuers, invitations, audit entries, twice over
)

type record struct {
	_    struct{} `cbor:",toarray"`
	Kind uint8
	Body []byte
}

type meshRecord struct {
	_      struct{} `cbor:",toarray"`
	Name   string
	Root   identity.RootPublic
	IPv4   netip.Prefix
	Holder identity.NodeID
}

type issuerRecord struct {
	_       struct{} `cbor:",toarray"`
	Raw     []byte
	Version uint64
}

type memberRecord struct {
	_          struct{} `cbor:",toarray"`
	Raw        []byte
	Status     Status
	Version    uint64
	Since      int64 // Unix ms
	Revocation []byte
	Invitation string
}

type keyringRecord struct {
	_       struct{} `cbor:",toarray"`
	Keys    [][]byte
	Version uint64
}

type viewRecord struct {
	_      struct{} `cbor:",toarray"`
	Quorum bool
	Leader identity.NodeID
	Term   uint64
	Voters []identity.NodeID
	AsOf   int64 // Unix ms
}

type officeRecord struct {
	_      struct{} `cbor:",toarray"`
	Region string
	Term   uint64
	Node   identity.NodeID
}

type endRecord struct {
	_     struct{} `cbor:",toarray"`
	Count uint64
	Sum   [32]byte
}

func newMeshRecord(m Mesh) meshRecord {
	return meshRecord{Name: m.Name, Root: m.Root, IPv4: m.IPv4, Holder: m.Holder}
}

func newMemberRecord(m *Member) memberRecord {
	return memberRecord{Raw: m.Raw, Status: m.Status, Version: m.Version, Since: m.Since.UnixMilli(),
		Revocation: m.Revocation, Invitation: m.Invitation}
}

func newViewRecord(c Coordinators) viewRecord {
	return viewRecord{Quorum: c.Quorum, Leader: c.Leader, Term: c.Term, Voters: c.Voters, AsOf: c.AsOf.UnixMilli()}
}

// mustRecord encodes one of our own records; failing to is a bug in this file.
func mustRecord(kind uint8, body any) []byte {
	b, err := wire.Marshal(body)
	if err == nil {
		b, err = wire.Marshal(record{Kind: kind, Body: b})
	}
	if err != nil {
		panic(fmt.Sprintf("coordinator: record kind %d does not encode: %v", kind, err))
	}
	return b
}

// recordWriter writes a sequence.
type recordWriter struct {
	w     io.Writer
	sum   hash.Hash
	count uint64
	err   error
}

func newRecordWriter(w io.Writer) *recordWriter { return &recordWriter{w: w, sum: sha256.New()} }

func (w *recordWriter) put(kind uint8, body any) {
	if w.err != nil {
		return
	}
	b, err := wire.Marshal(body)
	if err != nil {
		w.err = fmt.Errorf("coordinator: encode record kind %d: %w", kind, err)
		return
	}
	r := record{Kind: kind, Body: b}
	w.err = wire.WriteMessage(w.w, r, maxRecordBytes)
	w.sum.Write([]byte{kind})
	w.sum.Write(b)
	w.count++
}

// end closes the sequence and returns the first error of all puts.
func (w *recordWriter) end() error {
	e := endRecord{Count: w.count}
	w.sum.Sum(e.Sum[:0])
	w.put(recordEnd, e)
	return w.err
}

var errChecksum = errors.New("checksum does not match")

// readRecords calls each for every record up to the end record and checks count and checksum. Records of a kind
// unknown to this program are refused: formats are versioned by their first record's reader, not guessed.
func readRecords(r io.Reader, each func(kind uint8, body []byte) error) error {
	sum := sha256.New()
	for count := uint64(0); count <= maxRecords; count++ {
		var rec record
		if err := wire.ReadMessage(r, &rec, maxRecordBytes); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("record %d: %w", count, err)
		}
		if rec.Kind == recordEnd {
			var e endRecord
			if err := wire.Unmarshal(rec.Body, &e); err != nil {
				return fmt.Errorf("end record: %w", err)
			}
			if e.Count != count || !bytes.Equal(e.Sum[:], sum.Sum(nil)) {
				return errChecksum
			}
			return nil
		}
		sum.Write([]byte{rec.Kind})
		sum.Write(rec.Body)
		if err := each(rec.Kind, rec.Body); err != nil {
			return fmt.Errorf("record %d of kind %d: %w", count, rec.Kind, err)
		}
	}
	return fmt.Errorf("more than %d records", maxRecords)
}

// writeState puts the replicated state, without an end, in the order readers need: mesh, issuers (by depth, so that each
// one's signer is known before it), keyring, members, head, view.
func writeState(w *recordWriter, s *State, since uint64) {
	// Since 0 is everything, also what a joiner holds at version 0 until its first pull.
	newer := func(version uint64) bool { return version > since || since == 0 }
	w.put(recordMesh, newMeshRecord(s.Mesh))
	for _, i := range issuersByDepth(s.Issuers) {
		if newer(i.Version) {
			w.put(recordIssuer, issuerRecord{Raw: i.Raw, Version: i.Version})
		}
	}
	if newer(s.Keyring.Version) {
		w.put(recordKeyring, keyringRecord{Keys: s.Keyring.Keys, Version: s.Keyring.Version})
	}
	if s.Recovery != nil { // always: it says what the versions of all the others count from
		w.put(recordRecovery, newRecoveryRecord(s.Recovery))
	}
	if s.Policy != nil && newer(s.Policy.Version) {
		w.put(recordPolicy, newPolicyRecord(s.Policy))
	}
	if s.Regions.Version > 0 && newer(s.Regions.Version) {
		w.put(recordRegions, newRegionsRecord(s.Regions))
	}
	if s.Relays.Version > 0 && newer(s.Relays.Version) {
		w.put(recordRelays, newRelaysRecord(s.Relays))
	}
	for _, m := range s.Members {
		if newer(m.Version) {
			w.put(recordMember, newMemberRecord(m))
		}
	}
	if len(s.head) > 0 {
		w.put(recordHead, s.head)
	}
	w.put(recordView, newViewRecord(s.Coordinators))
}

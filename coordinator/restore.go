package coordinator

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/seal"
	"github.com/phantommesh/phantommesh/internal/durable"
)

// A backup is old: since it was made its node may have given votes and confirmed entries that its log there does not show. So neither log,
// term nor vote of a replica is ever brought back. Two ways lead on:
//
//   - As a member: the state alone, marked as of one that has forgotten what it promised (hasForgotten). The node gets no vote until the
//     group's leader has confirmed that it has none; what was decided since it pulls from the others.
//   - As the only coordinator, after all others are lost for good: the ledger becomes the snapshot of a new log, at an index and in a term
//     beyond whatever the lost group can have reached, with this node as the only voter, and a new lineage begins (recovery.go). Members take
//     its state because a newer lineage holds; a voter of the old group that turns up after all throws its log away. Whoever knows of a revocation
//     that is newer than the backup asks for it again.

// Restoring is what to restore, and where.
type Restoring struct {
	Dir      string // the state folder, without a mesh
	Key      *identity.Key
	RootKey  []byte // as the file root.key held it; nil if it is not in the backup
	Snapshot Snapshot
	// AsOnlyCoordinator founds the group anew on this node.
	AsOnlyCoordinator bool
	Now               time.Time
	NoSync            bool // see Config
}

// ErrNotCoordinator: the mesh cannot be founded anew on what this backup holds.
var ErrNotCoordinator = errors.New("this backup holds neither the mesh's root key nor a coordinator's right to sign, so that the mesh's members would " +
	"not accept what this machine decides; restore the backup of a machine that was a coordinator, or of the one that founded the mesh")

// Restore makes the mesh's folder from a backup. Like founding, it leaves either nothing or a member on disk. Errors: ErrExists, *Refused for a
// node that was revoked or left, ErrNotCoordinator, *DamagedError.
func Restore(r Restoring) error {
	state := r.Snapshot.latest()
	m, ok := state.Member(r.Key.ID())
	switch {
	case !ok:
		return errOtherNode
	case m.Status != Active:
		return outcast(m)
	}
	root, err := r.rootKey()
	if err != nil {
		return err
	}
	var ledger *Ledger
	if r.AsOnlyCoordinator {
		if ledger, err = refound(r.Snapshot, r.Key, root, r.Now); err != nil {
			return err
		}
	}
	d := durable.OS{} // no node runs on it
	path, err := beginDir(d, r.Dir)
	if err != nil {
		return foundError(r.Dir, err)
	}
	if err := r.fill(d, path, ledger); err != nil {
		return foundError(r.Dir, errors.Join(err, d.RemoveAll(path)))
	}
	if err := commitDir(d, r.Dir); err != nil {
		return foundError(r.Dir, err)
	}
	return nil
}

func (r Restoring) rootKey() (*identity.RootKey, error) {
	if len(r.RootKey) == 0 {
		return nil, nil
	}
	secret, err := seal.Unwrap(rootKind, r.RootKey)
	if err != nil {
		return nil, fmt.Errorf("coordinator: the root key in the backup: %w", err)
	}
	root, err := identity.UnmarshalRoot(secret)
	if err != nil {
		return nil, fmt.Errorf("coordinator: the root key in the backup: %w", err)
	}
	if root.ID() != r.Snapshot.Mesh().ID {
		return nil, errors.New("coordinator: the root key in the backup is of another mesh than its state")
	}
	return root, nil
}

// fill writes the mesh's files into a folder that nobody reads yet; a ledger to found the group anew on, or nil.
func (r Restoring) fill(d durable.Disk, path string, ledger *Ledger) error {
	if len(r.RootKey) > 0 {
		if err := d.Create(filepath.Join(path, rootName), r.RootKey); err != nil {
			return err
		}
	}
	if err := markVoter(d, path); err != nil {
		return err
	}
	if ledger == nil {
		return writeStateFile(d, filepath.Join(path, stateName), r.Snapshot.latest())
	}
	term := nextTerm(r.Snapshot.State.Coordinators.Term, r.Now)
	if err := seedReplica(d, filepath.Join(path, raftName), seed{ledger, r.Key.ID(), term, r.NoSync}); err != nil {
		return err
	}
	view := Coordinators{Term: term, Voters: []identity.NodeID{r.Key.ID()}, AsOf: r.Now}
	return writeStateFile(d, filepath.Join(path, stateName), ledger.State().withCoordinators(view))
}

// Beyond the lost group: on average it decided less than decisionsPerSecond and elected less than once a second since 1970, so the clock is ahead
// of both, also of a group that was founded anew before. A clock that stands is made up for by a margin over what the backup saw.
const (
	decisionsPerSecond = 16
	indexMargin        = 1 << 24
	termMargin         = 1 << 16
)

func nextIndex(seen uint64, now time.Time) uint64 {
	return max(seen+indexMargin, uint64(max(now.Unix(), 0))*decisionsPerSecond)
}

func nextTerm(seen uint64, now time.Time) uint64 {
	return max(seen+termMargin, uint64(max(now.Unix(), 0)))
}

// refound makes the ledger that a group founded anew on one node goes on from.
func refound(s Snapshot, key *identity.Key, root *identity.RootKey, now time.Time) (*Ledger, error) {
	l := s.Ledger
	if l == nil || l.state.Version < s.State.Version {
		l = ledgerOf(s.State) // a plain member's: without invitations and the past
	}
	if l.frozen != nil {
		return nil, l.frozen
	}
	l = l.clone()
	self, before := key.ID(), max(l.applied, l.state.Version&indexMask)
	index := nextIndex(before, now)
	depth, issuer := l.state.trust.IssuerDepth(self, now)
	switch {
	case root != nil && (!issuer || depth < certificate.DepthParent):
		raw, err := certificate.SignIssuerByRoot(root, certificate.Issuer{Public: *key.Public(), Mesh: l.state.Mesh.ID, Depth: certificate.DepthParent,
			NotBefore: now, NotAfter: now.Add(certificate.IssuerLife), Serial: serial(now, 0)})
		if err != nil {
			return nil, err
		}
		signed, trust, err := addIssuer(l.state.trust, raw)
		if err != nil {
			return nil, err
		}
		l.state = l.state.withIssuer(&Issuer{ID: self, Depth: signed.Depth, Raw: raw, Version: l.state.Lineage().version(index)}, trust)
	case !issuer:
		return nil, ErrNotCoordinator
	}
	m, ok := l.state.Member(self)
	if !ok || m.Status != Active {
		return nil, errOtherNode
	}
	certified, raw, err := signedAnew(key, m.Certificate, now)
	if err != nil {
		return nil, err
	}
	next := *m
	next.Certificate, next.Raw, next.Version = certified, raw, l.state.Lineage().version(index)
	l.put(&next)
	l.applied = index
	l.audit.append(AuditEntry{Index: index, Time: now, Asker: self, Action: "restore", Outcome: "done",
		Subject: fmt.Sprintf("group founded anew on %s from version %d", self.Short(), before)})
	return l, l.begin(key, s.State.Coordinators.Voters, now)
}

// begin begins a new lineage of the ledger, as a recovery does (recover.go): so that no voter of the lost group can ever decide beside this one,
// and that who knows of a revocation that is not in the backup asks for it again instead of refusing the mesh that has forgotten it.
func (l *Ledger) begin(key *identity.Key, voters []identity.NodeID, now time.Time) error {
	self, generation := key.ID(), l.state.Lineage().Generation
	if generation == generationMax {
		return refuse(RefusedFull, "the mesh was recovered %d times, which is all there can be", generationMax)
	}
	lost := without(voters, self)
	raw, err := signRecovery(key, l.state.Mesh.ID, Recovery{Lineage: Lineage{Generation: generation + 1, By: self}, At: now,
		Lost: lost[:min(len(lost), maxServers)], AuditCount: l.audit.count, AuditHead: l.audit.head()})
	if err != nil {
		return err
	}
	command, err := newCommand(KindRecover, now, self, recoverBody{Raw: raw})
	if err != nil {
		return err
	}
	return l.Apply(command, l.applied+1).Err()
}

// signedAnew is a coordinator's own certificate with a new life: the backup's may have ended.
func signedAnew(key *identity.Key, m *certificate.Member, now time.Time) (*certificate.Member, []byte, error) {
	next := *m
	next.NotBefore, next.NotAfter, next.Serial = now, now.Add(certificate.MemberLife), serial(now, m.Serial)
	raw, err := certificate.SignMember(key, next)
	if err != nil {
		return nil, nil, err
	}
	parsed, _, err := certificate.ParseMember(raw)
	return parsed, raw, err
}

// ledgerOf makes a ledger of a state.
func ledgerOf(s *State) *Ledger {
	l := NewLedger()
	l.state, l.applied = s.withHead(nil).withCoordinators(Coordinators{}), s.Version&indexMask
	if s.Policy != nil {
		l.policies = []*Policy{s.Policy}
	}
	for _, m := range s.Members {
		l.index(m)
	}
	return l
}

// seed is what a log begins with.
type seed struct {
	ledger *Ledger
	self   identity.NodeID
	term   uint64
	noSync bool
}

// seedReplica writes a replica whose log begins with a snapshot, and whose only voter is self.
func seedReplica(d durable.Disk, dir string, s seed) error {
	if _, err := logLineage(d, dir, s.ledger.state.Lineage()); err != nil {
		return err
	}
	store, err := openLog(filepath.Join(dir, logFile), s.noSync)
	if err != nil {
		return err
	}
	if err := errors.Join(store.SetUint64([]byte(currentTermKey), s.term), store.Close()); err != nil {
		return err
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, newRaftLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	configuration := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: serverID(s.self), Address: serverAddress(s.self)}}}
	// The transport only writes the address down.
	_, transport := raft.NewInmemTransport("")
	sink, err := snapshots.Create(1, s.ledger.applied, s.term, configuration, s.ledger.applied, transport)
	if err != nil {
		return err
	}
	if err := s.ledger.Encode(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return errors.Join(sink.Close(), d.SyncDir(dir))
}

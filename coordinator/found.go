package coordinator

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/seal"
)

// DefaultIPv4 is the prefix of a mesh that is founded without one.
var DefaultIPv4 = netip.MustParsePrefix("10.86.0.0/16")

const rootKind = "phantommesh root key"

// Founding says what to found.
type Founding struct {
	MeshName string
	IPv4     netip.Prefix // zero: DefaultIPv4
	NodeName string
	Region   string
}

// Found makes a mesh with this node as its only member and voter. It is safe against a crash at any moment: all files are made
// in mesh.new, synced, and appear by one rename. The founding entry is already in the log, so that a started replica has
// nothing to propose.
func Found(cfg Config, f Founding) (*Group, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if !f.IPv4.IsValid() {
		f.IPv4 = DefaultIPv4
	}
	if err := checkPrefix(f.IPv4); err != nil {
		return nil, err
	}
	f.MeshName, f.NodeName = cleanName(f.MeshName), cleanName(f.NodeName)
	path, err := beginDir(cfg.Disk, cfg.Dir)
	if err != nil {
		return nil, foundError(cfg.Dir, err)
	}
	if err := fillFounding(cfg, f, path); err != nil {
		return nil, foundError(cfg.Dir, errors.Join(err, cfg.Disk.RemoveAll(path)))
	}
	if err := commitDir(cfg.Disk, cfg.Dir); err != nil {
		return nil, foundError(cfg.Dir, err)
	}
	return open(cfg)
}

func foundError(dir string, err error) error {
	if errors.Is(err, ErrExists) {
		return ErrExists
	}
	return fmt.Errorf("nothing was written: cannot make the mesh's files in %s: %w%s", dir, err, diskHint(err))
}

func fillFounding(cfg Config, f Founding, path string) error {
	root, err := identity.GenerateRoot(cfg.Rand)
	if err != nil {
		return err
	}
	command, err := foundingCommand(cfg, f, root)
	if err != nil {
		return err
	}
	// What every voter will make of the entry, we make of it here: a mistake shows before anything is committed.
	ledger := NewLedger()
	if err := ledger.Apply(command, foundingIndex).Err(); err != nil {
		return fmt.Errorf("coordinator: founding: %w", err)
	}
	secret, err := root.MarshalBinary()
	if err != nil {
		return err
	}
	if err := cfg.Disk.Create(filepath.Join(path, rootName), seal.Wrap(rootKind, secret)); err != nil {
		return err
	}
	state := ledger.State().withCoordinators(Coordinators{Voters: []identity.NodeID{cfg.Key.ID()}, AsOf: cfg.Now()})
	if err := writeStateFile(cfg.Disk, filepath.Join(path, stateName), state); err != nil {
		return err
	}
	if err := markVoter(cfg.Disk, path); err != nil {
		return err
	}
	return bootstrap(cfg, command, filepath.Join(path, raftName))
}

func foundingCommand(cfg Config, f Founding, root *identity.RootKey) (Command, error) {
	now := cfg.Now()
	self, mesh := *cfg.Key.Public(), root.ID()
	issuer, err := certificate.SignIssuerByRoot(root, certificate.Issuer{Public: self, Mesh: mesh, Depth: certificate.DepthParent,
		NotBefore: now, NotAfter: now.Add(certificate.IssuerLife), Serial: 1})
	if err != nil {
		return Command{}, err
	}
	member, err := certificate.SignMember(cfg.Key, certificate.Member{Public: self, Mesh: mesh, Name: f.NodeName, IPv4: f.IPv4.Addr().Next(),
		Region: f.Region, NotBefore: now, NotAfter: now.Add(certificate.MemberLife), Serial: serial(now, 0)})
	if err != nil {
		return Command{}, err
	}
	gossip := make([]byte, gossipKeyBytes)
	if _, err := io.ReadFull(cfg.Rand, gossip); err != nil {
		return Command{}, fmt.Errorf("coordinator: read randomness: %w", err)
	}
	return newCommand(KindFound, now, cfg.Key.ID(), foundBody{Name: f.MeshName, Root: root.Public(), IPv4: f.IPv4, Holder: cfg.Key.ID(),
		Issuer: issuer, Member: member, GossipKey: gossip})
}

// serial of a member certificate: later ones are higher, also within one millisecond.
func serial(now time.Time, replaced uint64) uint64 {
	return max(uint64(now.UnixMilli()), replaced+1)
}

// The first entries of every log: raft's configuration, then the founding.
const (
	foundingTerm  = 1
	foundingIndex = 2
)

// bootstrap writes the log with its first two entries. They are committed as soon as the only voter has won its first election.
func bootstrap(cfg Config, command Command, dir string) error {
	if err := cfg.Disk.MkdirAll(dir); err != nil {
		return err
	}
	store, err := openLog(filepath.Join(dir, logFile), cfg.NoSync)
	if err != nil {
		return err
	}
	data, err := command.encode()
	if err == nil {
		self := cfg.Key.ID()
		configuration := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
			{Suffrage: raft.Voter, ID: serverID(self), Address: serverAddress(self)}}})
		err = errors.Join(
			store.SetUint64([]byte(currentTermKey), foundingTerm),
			store.StoreLogs([]*raft.Log{
				{Index: 1, Term: foundingTerm, Type: raft.LogConfiguration, Data: configuration, AppendedAt: cfg.Now()},
				{Index: foundingIndex, Term: foundingTerm, Type: raft.LogCommand, Data: data, AppendedAt: cfg.Now()},
			}))
	}
	return errors.Join(err, store.Close(), cfg.Disk.SyncDir(dir))
}

// readRootKey reads the founder's key; nil where there is none.
func readRootKey(path string, mesh identity.MeshID) (*identity.RootKey, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	next := "restore it from a backup, or move it away: the mesh goes on, but nobody can then make parent issuers"
	if err != nil {
		return nil, fmt.Errorf("coordinator: read the root key: %w", err)
	}
	secret, err := seal.Unwrap(rootKind, b)
	if err != nil {
		return nil, &DamagedError{Path: path, Err: err, Next: next}
	}
	root, err := identity.UnmarshalRoot(secret)
	if err == nil && root.ID() != mesh {
		err = errors.New("it is the key of another mesh")
	}
	if err != nil {
		return nil, &DamagedError{Path: path, Err: err, Next: next}
	}
	return root, nil
}

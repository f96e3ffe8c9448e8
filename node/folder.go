package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/seal"
	"github.com/phantommesh/phantommesh/internal/durable"
)

// The names in a state folder, beside the coordinator group's own (mesh/). Files are 0600, folders 0700.
const (
	lockFile     = "lock"         // held with flock while a node runs
	identityFile = "identity.key" // sealed envelope of the identity, made once
	bookFile     = "addresses"    // address book
	sequenceFile = "sequence"     // highest record sequence that may have been used
)

// identityKind names the identity's envelope, so that no other sealed file is taken for it.
const identityKind = "identity"

// What can be wrong with a state folder.
var (
	// ErrFolderInUse: another process holds the folder's lock.
	ErrFolderInUse = errors.New("another phantom process uses this state folder")
	// ErrDamaged: a file does not hold what was once written to it.
	ErrDamaged = errors.New("damaged")
)

// folder is the state folder of a running node: it holds the lock until it is closed.
type folder struct {
	disk durable.Disk
	path string
	lock *os.File
}

// openFolder makes the folder if need be, with its lock taken. A folder that others may read is refused rather than mended: what was in
// it may have been read already, and the person should know.
func openFolder(disk durable.Disk, path string) (*folder, error) {
	if path == "" {
		return nil, errors.New("there is no state folder: this user has no home; name one with --state DIR")
	}
	if err := disk.MkdirAll(path); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("state folder %s may be read by other users (mode %04o): run chmod 700 %s", path, mode, path)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockFile), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%w: %s", ErrFolderInUse, path)
	}
	return &folder{disk: disk, path: path, lock: lock}, nil
}

// Close gives the lock back.
func (f *folder) Close() error { return f.lock.Close() }

func (f *folder) file(name string) string { return filepath.Join(f.path, name) }

// loadIdentity reads the identity, or makes it on the very first start. A damaged file is never replaced: it is the node's membership.
func (f *folder) loadIdentity(rand io.Reader) (*identity.Key, error) {
	path := f.file(identityFile)
	sealed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f.makeIdentity(path, rand)
	}
	if err != nil {
		return nil, fmt.Errorf("read the identity: %w", err)
	}
	body, err := seal.Unwrap(identityKind, sealed)
	if err != nil {
		return nil, damagedIdentity(path, err)
	}
	key, err := identity.UnmarshalKey(body)
	if err != nil {
		return nil, damagedIdentity(path, err)
	}
	return key, nil
}

func damagedIdentity(path string, err error) error {
	return fmt.Errorf("%s is %w (%w): restore it from a backup, or remove the state folder %s and join again with a new invitation",
		path, ErrDamaged, err, filepath.Dir(path))
}

func (f *folder) makeIdentity(path string, rand io.Reader) (*identity.Key, error) {
	if coordinator.Exists(f.path) {
		return nil, fmt.Errorf("%s is missing, but %s holds a mesh's state: restore the file from a backup, or remove the state folder and join again",
			path, f.path)
	}
	key, err := identity.Generate(rand)
	if err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	body, err := key.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	// Synced and renamed: a node whose identity is half written would be another node after a crash.
	if err := f.disk.WriteFile(path, seal.Wrap(identityKind, body)); err != nil {
		return nil, fmt.Errorf("keep the identity: %w", err)
	}
	return key, nil
}

// sequenceStep is how many record sequences one write of the sequence file reserves: a node that publishes every second writes it once in
// a quarter of an hour, and a crash skips at most that many numbers of 2^64.
const sequenceStep = 1000

// sequenceMax is above what counting or a clock can reach, so that a damaged file cannot use the numbers up.
const sequenceMax = 1 << 62

// sequence hands out record sequences that grow across restarts, whatever the clock does.
type sequence struct {
	disk     durable.Disk
	path     string
	next     uint64
	reserved uint64 // numbers below are ours to use
}

func (f *folder) openSequence(now time.Time) (*sequence, error) {
	s := &sequence{disk: f.disk, path: f.file(sequenceFile)}
	b, err := os.ReadFile(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.next = 1
		return s, nil
	case err != nil:
		return nil, fmt.Errorf("read the record sequence: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n >= sequenceMax {
		// Nothing is lost with it but where counting stopped: the time in milliseconds is far above any count of records.
		n = uint64(now.UnixMilli())
	}
	s.next, s.reserved = n, n
	return s, nil
}

// take gives the next sequence. On a full disk it goes on counting without a reservation: being heard now matters more than the gap
// after a crash, which the next reservation closes.
func (s *sequence) take() (uint64, error) {
	var err error
	if s.next >= s.reserved {
		if err = s.disk.WriteFile(s.path, strconv.AppendUint(nil, s.next+sequenceStep, 10)); err == nil {
			s.reserved = s.next + sequenceStep
		}
	}
	n := s.next
	s.next++
	return n, err
}

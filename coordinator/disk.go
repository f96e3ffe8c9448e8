package coordinator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/phantommesh/phantommesh/internal/durable"
)

// The layout below Config.Dir. Everything of the mesh is in one folder, so that it comes into being by one rename and goes by one.
const (
	meshDir   = "mesh"
	stateName = "state.cbor"
	rootName  = "root.key"
	raftName  = "raft"
	voterName = "voter"    // present while this node has promised votes: see hasForgotten
	newDir    = "mesh.new" // being made; deleted at the next start
	oldDir    = "mesh.old" // being deleted
	termName  = "term"     // of the last replica that was wiped: see keepTerm
	wipedName = "raft.old" // being deleted
)

// RootKeyPath is where the founder of a mesh keeps its root key, below the state folder.
const RootKeyPath = meshDir + "/" + rootName

func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func diskHint(err error) string {
	if isDiskFull(err) {
		return " (the disk is full: make room, then repeat)"
	}
	return ""
}

// commitDir makes the finished folder newDir the mesh folder: the one moment at which a node becomes a member on disk.
func commitDir(d durable.Disk, dir string) error {
	if err := d.SyncDir(filepath.Join(dir, newDir)); err != nil {
		return err
	}
	if err := d.Rename(filepath.Join(dir, newDir), filepath.Join(dir, meshDir)); err != nil {
		return err
	}
	return d.SyncDir(dir)
}

// beginDir clears leftovers of an interrupted start and makes an empty newDir.
func beginDir(d durable.Disk, dir string) (string, error) {
	if _, err := os.Stat(filepath.Join(dir, meshDir)); err == nil {
		return "", ErrExists
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := d.MkdirAll(dir); err != nil {
		return "", err
	}
	if err := sweepDir(d, dir); err != nil {
		return "", err
	}
	path := filepath.Join(dir, newDir)
	return path, d.Mkdir(path)
}

func sweepDir(d durable.Disk, dir string) error {
	temps, _ := filepath.Glob(filepath.Join(dir, meshDir, ".*")) // of renameio, cut short
	for _, t := range temps {
		_ = d.Remove(t)
	}
	return errors.Join(d.RemoveAll(filepath.Join(dir, newDir)), d.RemoveAll(filepath.Join(dir, oldDir)),
		d.RemoveAll(filepath.Join(dir, meshDir, wipedName)))
}

// Forget removes all of the mesh from the folder, root key included: after this node has left. The node's identity is not here.
func Forget(d durable.Disk, dir string) error {
	if err := sweepDir(d, dir); err != nil {
		return err
	}
	err := d.Rename(filepath.Join(dir, meshDir), filepath.Join(dir, oldDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, d.SyncDir(dir), d.RemoveAll(filepath.Join(dir, oldDir)))
}

// Exists tells whether the folder belongs to a mesh.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, meshDir))
	return err == nil
}

// markVoter is written before the first vote can be promised.
func markVoter(d durable.Disk, mesh string) error {
	path := filepath.Join(mesh, voterName)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return errors.Join(d.Create(path, nil), d.SyncDir(mesh))
}

// hasForgotten tells whether this node once had a vote and has lost its log: what it promised is gone, so it must not vote before
// the group has taken it out and let it in anew. Else two leaders could win the same term.
func hasForgotten(mesh string) bool {
	_, marked := os.Stat(filepath.Join(mesh, voterName))
	_, log := os.Stat(filepath.Join(mesh, raftName, logFile))
	return marked == nil && log != nil
}

// keepTerm remembers the term of a replica that is about to be wiped. A later replica begins with it: to leaders of older terms,
// cut off since, this node has promised not to follow, and without it some such nodes together could complete their majority.
func keepTerm(d durable.Disk, mesh string, term uint64) error {
	return d.WriteFile(filepath.Join(mesh, termName), []byte(strconv.FormatUint(term, 10)+"\n"))
}

// restoreTerm raises a new replica's term to the kept one.
func restoreTerm(store raft.StableStore, mesh string) error {
	path := filepath.Join(mesh, termName)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("coordinator: read the last term: %w", err)
	}
	kept, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return &DamagedError{Path: path, Err: err, Next: "remove this node's vote by revoking it, or wait until the group has replaced it, then remove the file"}
	}
	term, err := store.GetUint64([]byte(currentTermKey))
	if err != nil && err.Error() != raftboltdb.ErrKeyNotFound.Error() {
		return fmt.Errorf("coordinator: read the term: %w", err)
	}
	if term >= kept {
		return nil
	}
	return store.SetUint64([]byte(currentTermKey), kept)
}

// wipeReplica removes log and promises, once the group's leader has confirmed that this node is not a voter.
func wipeReplica(d durable.Disk, mesh string) error {
	old := filepath.Join(mesh, wipedName)
	if err := d.RemoveAll(old); err != nil {
		return err
	}
	if err := d.Rename(filepath.Join(mesh, raftName), old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := d.Remove(filepath.Join(mesh, voterName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(d.SyncDir(mesh), d.RemoveAll(old))
}

// A bbolt file begins with two meta pages, the older and the newer (go.etcd.io/bbolt/internal/common, Meta; integers in the machine's order):
//
//	0       16      20        24          28      32    48         56                 64     72
//	+-------+-------+---------+-----------+-------+-----+----------+------------------+------+
//	| page  | magic | version | page size | flags | root| freelist | pages in the file| txid |
//	+-------+-------+---------+-----------+-------+-----+----------+------------------+------+
const (
	boltMagic    = 0xED0CDAED
	boltMetaSize = 72
	boltPageMax  = 1 << 16 // the largest page of any system bbolt runs on
)

// checkLength finds a bbolt file that was cut short. bbolt itself reads past the end of such a file through its mapping, which the kernel answers
// with a fault, at a moment when locks are held that nobody will ever give back. A file that does not exist, or is no bbolt file, is left for
// bbolt to judge.
func checkLength(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var first [boltMetaSize]byte
	if _, err := f.ReadAt(first[:], 0); err != nil {
		return nil
	}
	page := int64(binary.NativeEndian.Uint32(first[24:]))
	if page <= 0 || page > boltPageMax {
		return nil
	}
	for _, at := range []int64{0, page} {
		var meta [boltMetaSize]byte
		if _, err := f.ReadAt(meta[:], at); err != nil || binary.NativeEndian.Uint32(meta[16:]) != boltMagic {
			continue
		}
		if pages := binary.NativeEndian.Uint64(meta[56:]); pages > uint64(info.Size()/page) {
			return fmt.Errorf("it was cut short: it holds %d bytes of %d", info.Size(), pages*uint64(page))
		}
	}
	return nil
}

package node

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/seal"
	"github.com/phantommesh/phantommesh/internal/durable"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// A backup is a tar archive of these files, in this order; the command seals it with a passphrase (age), so that standard tools open it too.
// None but the manifest and the identity need be there.
const (
	manifestName = "manifest.json"
	identityName = identityFile
	rootKeyName  = coordinator.RootKeyPath
	settingsName = "settings.yaml"
	bookName     = bookFile
	snapshotName = "mesh/snapshot" // the state, and on a coordinator the whole ledger: coordinator.Snapshot
)

// backupFormat is the newest layout this program reads.
const backupFormat = 1

// backupMax are the bounds of its files in bytes: keys are below 16 KiB, the address book below 4 MiB, a state of 10,000 members is 90 MB.
var backupMax = map[string]int64{
	manifestName: 64 << 10, identityName: 64 << 10, rootKeyName: 64 << 10, settingsName: 1 << 20, bookName: 16 << 20, snapshotName: 512 << 20,
}

// What can be wrong with a backup.
var (
	errNotBackup    = errors.New("it is not a backup of phantom, or it is damaged")
	errBackupNewer  = errors.New("it was made by a newer version of phantom; update phantom on this machine")
	errBackupAbsent = errors.New("the identity is missing in it")
)

// PackBackup writes what makes this machine a member, from the state folder dir and a snapshot of the mesh (localapi.Backup tells what it is).
func PackBackup(dir string, snapshot []byte, version string, to io.Writer) (*localapi.Backup, error) {
	sealed, key, err := readIdentity(dir)
	if err != nil {
		return nil, err
	}
	snap, err := coordinator.ReadSnapshot(bytes.NewReader(snapshot))
	if err != nil {
		return nil, err
	}
	member, ok := snap.State.Member(key.ID())
	if !ok {
		return nil, errors.New("the mesh's state does not list this node yet; try again in some seconds")
	}
	b := &localapi.Backup{Format: backupFormat, Made: time.Now().UTC().Truncate(time.Second), Version: version, Mesh: snap.Mesh().Name,
		MeshID: snap.Mesh().ID.String(), Node: member.Certificate.Name, ID: key.ID().String(), Holds: localapi.BackupState,
		StateVersion: snap.State.Version, OnlyCoordinator: snap.OnlyCoordinator(key.ID())}
	if snap.Ledger != nil {
		b.Holds = localapi.BackupLedger
	}
	files := map[string][]byte{identityName: sealed, snapshotName: snapshot}
	for _, name := range []string{rootKeyName, settingsName, bookName} {
		content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err == nil {
			files[name] = content
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	_, b.RootKey = files[rootKeyName]
	if files[manifestName], err = json.MarshalIndent(b, "", "  "); err != nil {
		return nil, err
	}
	return b, writeArchive(to, files, b.Made)
}

func writeArchive(to io.Writer, files map[string][]byte, at time.Time) error {
	w := tar.NewWriter(to)
	for _, name := range []string{manifestName, identityName, rootKeyName, settingsName, bookName, snapshotName} {
		content, ok := files[name]
		if !ok {
			continue
		}
		if int64(len(content)) > backupMax[name] {
			return fmt.Errorf("%s has %d bytes, a backup takes %d", name, len(content), backupMax[name])
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(content)), ModTime: at}); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	return w.Close()
}

// readArchive reads what writeArchive wrote: known names, each once, the manifest first, each within its bound.
func readArchive(from io.Reader) (*localapi.Backup, map[string][]byte, error) {
	r := tar.NewReader(from)
	files := map[string][]byte{}
	var b localapi.Backup
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, unreadable(err)
		}
		most, known := backupMax[h.Name]
		if _, twice := files[h.Name]; !known || twice || h.Typeflag != tar.TypeReg || h.Size > most || (len(files) == 0) != (h.Name == manifestName) {
			return nil, nil, fmt.Errorf("%w: unexpected %q of %d bytes", errNotBackup, h.Name, h.Size)
		}
		if files[h.Name], err = io.ReadAll(io.LimitReader(r, most)); err != nil {
			return nil, nil, unreadable(err)
		}
		if h.Name != manifestName {
			continue
		}
		if err := json.Unmarshal(files[h.Name], &b); err != nil || b.Format < 1 {
			return nil, nil, errNotBackup
		}
		if b.Format > backupFormat {
			return nil, nil, errBackupNewer
		}
	}
	if len(files) == 0 {
		return nil, nil, errNotBackup
	}
	// To the end, so that what was cut off behind the archive is noticed by whoever decrypts.
	if _, err := io.Copy(io.Discard, from); err != nil {
		return nil, nil, unreadable(err)
	}
	return &b, files, nil
}

func unreadable(err error) error { return fmt.Errorf("%w: %w", errNotBackup, err) }

func readIdentity(dir string) (sealed []byte, key *identity.Key, err error) {
	path := filepath.Join(dir, identityFile)
	if sealed, err = os.ReadFile(path); err != nil {
		return nil, nil, err
	}
	if key, err = openIdentity(sealed); err != nil {
		return nil, nil, damagedIdentity(path, err)
	}
	return sealed, key, nil
}

func openIdentity(sealed []byte) (*identity.Key, error) {
	body, err := seal.Unwrap(identityKind, sealed)
	if err != nil {
		return nil, err
	}
	return identity.UnmarshalKey(body)
}

// Snapshot writes what this node knows of its mesh, for a backup.
func (n *Node) Snapshot(_ context.Context, w io.Writer) error {
	m, err := n.membership("make a backup")
	if err != nil {
		return err
	}
	return failed("cannot make a backup", m.group.WriteSnapshot(w))
}

// FolderSnapshot is Snapshot of the stopped node of a state folder.
func FolderSnapshot(dir string, w io.Writer) error {
	const what = "cannot make a backup"
	if _, err := os.Stat(dir); err != nil {
		return localapi.Fail(localapi.Failed, what, coordinator.ErrNoMesh, "is it another state folder? name it with --state DIR")
	}
	f, err := openFolder(durable.OS{}, dir)
	if err != nil {
		return failed(what, err)
	}
	defer f.Close()
	return failed(what, coordinator.WriteFolderSnapshot(dir, w))
}

// RestoreOptions says how to restore.
type RestoreOptions struct {
	// AsOnlyCoordinator founds the group of coordinators anew on this node, because all of them are lost.
	AsOnlyCoordinator bool
	// AsMember restores a node that was the only coordinator as a plain member, because another coordinates since.
	AsMember bool
}

// Restore makes the state folder dir out of an archive. It refuses a folder that holds an identity or a mesh. An attempt that was interrupted can be
// repeated.
func Restore(dir string, from io.Reader, o RestoreOptions) (*localapi.Restored, error) {
	const what = "cannot restore"
	b, files, err := readArchive(from)
	if err != nil {
		return nil, failed(what, err)
	}
	f, err := openFolder(durable.OS{}, dir)
	if errors.Is(err, ErrFolderInUse) {
		return nil, localapi.Fail(localapi.Failed, what, err, "stop the node first (phantom down), or restore into another folder with --state DIR")
	}
	if err != nil {
		return nil, failed(what, err)
	}
	defer f.Close()
	out, err := f.restore(b, files, o)
	if errors.Is(err, coordinator.ErrExists) {
		return nil, occupied(dir)
	}
	return out, failed(what, err)
}

func occupied(dir string) error {
	return localapi.Fail(localapi.Failed, "cannot restore", fmt.Errorf("the state folder %s belongs to a member already", dir),
		"stop its node (phantom down) and move the folder away, or restore into another one with --state DIR")
}

func (f *folder) restore(b *localapi.Backup, files map[string][]byte, o RestoreOptions) (*localapi.Restored, error) {
	if files[identityName] == nil || files[snapshotName] == nil {
		return nil, errBackupAbsent
	}
	key, err := openIdentity(files[identityName])
	if err != nil {
		return nil, unreadable(err)
	}
	if there, err := os.ReadFile(f.file(identityFile)); !errors.Is(err, fs.ErrNotExist) && !bytes.Equal(there, files[identityName]) || coordinator.Exists(f.path) {
		return nil, occupied(f.path)
	}
	snap, err := coordinator.ReadSnapshot(bytes.NewReader(files[snapshotName]))
	if err != nil {
		return nil, unreadable(err)
	}
	if snap.OnlyCoordinator(key.ID()) && !o.AsOnlyCoordinator && !o.AsMember {
		return nil, localapi.Fail(localapi.Usage, "cannot restore", errors.New("this machine was the mesh's only coordinator when the backup was made"),
			"if no other machine coordinates by now (phantom coordinators on any member tells), restore it with --as-only-coordinator; else with --as-member")
	}
	now := time.Now()
	// The identity first: a mesh folder without one could not be told apart from damage.
	for name, content := range map[string][]byte{identityFile: files[identityName], settingsName: files[settingsName], bookFile: files[bookName],
		// Others remember this node's records by a sequence that went on after the backup: the clock is beyond it.
		sequenceFile: strconv.AppendInt(nil, now.UnixMilli(), 10)} {
		if content == nil {
			continue
		}
		if err := f.disk.WriteFile(f.file(name), content); err != nil {
			return nil, err
		}
	}
	err = coordinator.Restore(coordinator.Restoring{Dir: f.path, Key: key, RootKey: files[rootKeyName], Snapshot: snap,
		AsOnlyCoordinator: o.AsOnlyCoordinator, Now: now})
	if err != nil {
		return nil, errors.Join(err, f.clear())
	}
	role := localapi.RestoredMember
	if o.AsOnlyCoordinator {
		role = localapi.RestoredCoordinator
	}
	return &localapi.Restored{Backup: *b, Role: role}, nil
}

// clear takes back what a restore that failed has written, so that the folder is as empty as before.
func (f *folder) clear() error {
	var errs []error
	for _, name := range []string{identityFile, settingsName, bookFile, sequenceFile} {
		if err := f.disk.Remove(f.file(name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

package node

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/durable"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// founded is the state folder of a stopped founder.
func founded(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	f, err := openFolder(durable.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	key, err := f.loadIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	g, err := coordinator.Found(coordinator.Config{Key: key, Streams: quietStreams{}, Dir: dir}, coordinator.Founding{MeshName: "lab", NodeName: "atlas"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Close(), os.WriteFile(f.file(settingsName), []byte("region: home\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// pack is the archive of a stopped node.
func pack(t *testing.T, dir string) []byte {
	t.Helper()
	var snapshot, out bytes.Buffer
	if err := FolderSnapshot(dir, &snapshot); err != nil {
		t.Fatal(err)
	}
	b, err := PackBackup(dir, snapshot.Bytes(), "v1", &out)
	if err != nil {
		t.Fatal(err)
	}
	if b.Mesh != "lab" || b.Node != "atlas" || b.Holds != localapi.BackupLedger || !b.RootKey || !b.OnlyCoordinator {
		t.Errorf("the manifest says %+v", b)
	}
	return out.Bytes()
}

func TestABackupBringsBackIdentityRootKeyAndSettings(t *testing.T) {
	dir := founded(t)
	archive := pack(t, dir)
	to := filepath.Join(t.TempDir(), "back")
	_, err := Restore(to, bytes.NewReader(archive), RestoreOptions{})
	var f *localapi.Failure
	if !errors.As(err, &f) || !strings.Contains(f.Next, "--as-only-coordinator") {
		t.Fatalf("the only coordinator was restored without saying as what: %v", err)
	}
	r, err := Restore(to, bytes.NewReader(archive), RestoreOptions{AsOnlyCoordinator: true})
	if err != nil || r.Role != localapi.RestoredCoordinator {
		t.Fatalf("restored %+v, %v", r, err)
	}
	for _, name := range []string{identityFile, coordinator.RootKeyPath, settingsName} {
		was, err1 := os.ReadFile(filepath.Join(dir, name))
		is, err2 := os.ReadFile(filepath.Join(to, name))
		if errors.Join(err1, err2) != nil || !bytes.Equal(was, is) {
			t.Errorf("%s differs: %v %v", name, err1, err2)
		}
		if info, err := os.Stat(filepath.Join(to, name)); err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	for _, finding := range CheckFolder(to) {
		if !finding.OK {
			t.Errorf("doctor finds %+v", finding)
		}
	}
	if s, err := (&folder{path: to}).openSequence(time.Now()); err != nil || s.next < uint64(time.Now().Add(-time.Hour).UnixMilli()) {
		t.Errorf("record sequence goes on at %d, which others may have seen: %v", s.next, err)
	}
	if _, err := Restore(to, bytes.NewReader(archive), RestoreOptions{AsOnlyCoordinator: true}); !errors.As(err, &f) || !strings.Contains(f.Why, "belongs to a member") {
		t.Errorf("restored over a member: %v", err)
	}
}

// repack makes an archive of other files.
func repack(t *testing.T, archive []byte, change func(name string, content []byte) []byte) []byte {
	t.Helper()
	_, files, err := readArchive(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if files[name] = change(name, content); files[name] == nil {
			delete(files, name)
		}
	}
	var out bytes.Buffer
	if err := writeArchive(&out, files, time.Now()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWhatIsWrongWithABackupIsSaid(t *testing.T) {
	one, other := pack(t, founded(t)), pack(t, founded(t))
	_, theirs, err := readArchive(bytes.NewReader(other))
	if err != nil {
		t.Fatal(err)
	}
	swap := func(which string) []byte {
		return repack(t, one, func(name string, content []byte) []byte {
			if name == which {
				return theirs[name]
			}
			return content
		})
	}
	for what, c := range map[string]struct {
		archive []byte
		says    string
	}{
		"nothing":              {nil, "not a backup"},
		"something else":       {bytes.Repeat([]byte("x"), 4096), "not a backup"},
		"cut short":            {one[:len(one)/2], "not a backup"},
		"a newer format":       {repack(t, one, newer), "newer version"},
		"another node's state": {swap(snapshotName), "other node"},
		"another mesh's root":  {swap(rootKeyName), "another mesh"},
		"no identity":          {repack(t, one, without(identityName)), "identity is missing"},
	} {
		dir := filepath.Join(t.TempDir(), "back")
		_, err := Restore(dir, bytes.NewReader(c.archive), RestoreOptions{AsOnlyCoordinator: true})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 1 { // the lock
			t.Errorf("%s: left %v behind", what, left)
		}
	}
}

func newer(name string, content []byte) []byte {
	if name == manifestName {
		return []byte(`{"format": 2}`)
	}
	return content
}

func without(missing string) func(string, []byte) []byte {
	return func(name string, content []byte) []byte {
		if name == missing {
			return nil
		}
		return content
	}
}

func FuzzReadArchive(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{manifestName, identityName} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: 12}); err != nil {
			f.Fatal(err)
		}
		w.Write([]byte(`{"format":1}`))
	}
	w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, files, err := readArchive(bytes.NewReader(b))
		if err == nil && (m == nil || files[manifestName] == nil) {
			t.Error("an archive without a manifest was read")
		}
	})
}

// quietStreams is a network without anybody.
type quietStreams struct{}

var errAlone = errors.New("nobody is there")

func (quietStreams) Open(context.Context, identity.NodeID, string) (coordinator.Stream, error) {
	return nil, errAlone
}
func (quietStreams) Handle(string, bool, func(context.Context, coordinator.Stream)) {}

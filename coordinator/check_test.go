package coordinator

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/durable"
)

// foundedFolder is the state folder of a founder that never ran, and the founder's ID.
func foundedFolder(t *testing.T) (string, identity.NodeID) {
	t.Helper()
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path, err := beginDir(durable.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Key: key, Dir: dir, Rand: rand.Reader, Now: time.Now, Disk: durable.OS{}}
	if err := fillFounding(cfg, Founding{MeshName: "lab", IPv4: DefaultIPv4, NodeName: "atlas", Region: "home"}, path); err != nil {
		t.Fatal(err)
	}
	if err := commitDir(durable.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	return dir, key.ID()
}

func TestCheckFolderFindsWhatADiskDidToAStoppedNode(t *testing.T) {
	spoil := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, meshDir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil func(*testing.T, string)
		file  string // of the damage; empty: none
	}{
		"a sound folder": {func(*testing.T, string) {}, ""},
		"no mesh":        {func(_ *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, meshDir)) }, ""},
		"the state":      {spoil(stateName), stateName},
		"no state":       {func(_ *testing.T, dir string) { os.Remove(filepath.Join(dir, meshDir, stateName)) }, stateName},
		"the root key":   {spoil(rootName), rootName},
	} {
		t.Run(name, func(t *testing.T) {
			dir, self := foundedFolder(t)
			c.spoil(t, dir)
			err := CheckFolder(dir, self)
			var damaged *DamagedError
			switch {
			case c.file == "" && err != nil:
				t.Error(err)
			case c.file != "" && (!errors.As(err, &damaged) || filepath.Base(damaged.Path) != c.file || damaged.Next == ""):
				t.Errorf("got %v, want the damage of %s", err, c.file)
			}
		})
	}
	dir, _ := foundedFolder(t)
	if err := CheckFolder(dir, identity.NodeID{1}); !errors.Is(err, errOtherNode) {
		t.Errorf("the state of another node: %v", err)
	}
	if err := CheckFolder(dir, identity.NodeID{}); err != nil {
		t.Errorf("an identity that is not known: %v", err)
	}
}

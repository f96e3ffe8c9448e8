package coordinator

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/durable"
)

// foundingDir tells the child process of the next test where to found.
const foundingDir = "COORDINATOR_TEST_FOUND"

func TestMain(m *testing.M) {
	if dir := os.Getenv(foundingDir); dir != "" {
		foundForever(dir)
	}
	os.Exit(m.Run())
}

// foundForever founds, closes, forgets, again and again, until it is killed.
func foundForever(dir string) {
	key, err := identity.UnmarshalKey(mustRead(filepath.Join(dir, "identity")))
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("ready\n")
	for {
		g, err := Found(Config{Key: key, Streams: newFabric().port(key.ID()), Dir: dir}, Founding{MeshName: "lab", NodeName: "atlas"})
		if err != nil {
			panic(err)
		}
		g.Close()
		if err := Forget(durable.OS{}, dir); err != nil {
			panic(err)
		}
	}
}

func mustRead(path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return b
}

func TestKilledFoundingLeavesNothingOrAMesh(t *testing.T) {
	key := testKey(0)
	secret, err := key.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	meshes := 0
	for i := range 12 {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "identity"), secret, 0o600); err != nil {
			t.Fatal(err)
		}
		killChild(t, dir, time.Duration(3+i*7)*time.Millisecond)
		cfg := Config{Key: key, Streams: newFabric().port(key.ID()), Dir: dir}
		g, err := Open(cfg)
		if errors.Is(err, ErrNoMesh) {
			if g, err = Found(cfg, Founding{MeshName: "lab", NodeName: "atlas"}); err != nil {
				t.Fatalf("founding after a kill: %v", err)
			}
		} else if meshes++; err != nil {
			t.Fatalf("half a mesh: %v", err)
		}
		if g.root == nil || g.Chain() == nil || g.State().ActiveMembers() != 1 {
			t.Error("a mesh without its root key or founder")
		}
		g.Close()
	}
	t.Logf("%d of 12 kills left a mesh", meshes)
}

func killChild(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), foundingDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(after) // the moment of the kill is the test's parameter
	child.Process.Kill()
	child.Wait()
}

func TestFoundRefusesASecondMesh(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		first := l.node(0)
		first.found()
		cfg := first.config()
		if _, err := Found(cfg, Founding{MeshName: "other"}); !errors.Is(err, ErrExists) {
			t.Error(err)
		}
		for name, mode := range map[string]os.FileMode{RootKeyPath: 0o600, meshDir + "/" + stateName: 0o600, meshDir: 0o700 | os.ModeDir} {
			info, err := os.Stat(filepath.Join(first.dir, name))
			if err != nil || info.Mode() != mode {
				t.Errorf("%s: %v %v", name, info.Mode(), err)
			}
		}
	})
}

func FuzzRecord(f *testing.F) {
	l, _ := founded(f, "10.0.0.0/28")
	setPolicy(f, l, 3, pingOnly)
	var buf bytes.Buffer
	if err := encodeState(&buf, l.state); err != nil {
		f.Fatal(err)
	}
	err := readRecords(bytes.NewReader(buf.Bytes()[len(stateMagic):]), func(kind uint8, body []byte) error {
		f.Add(kind, body)
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		b := newBuilder(l.state)
		if _, err := b.add(kind, body); err != nil {
			return
		}
		if s, err := b.build(); err == nil {
			_ = b.verifyMembers(s, day0)
			s.Digest()
		}
		_ = NewLedger().add(kind, body, new(uint64))
	})
}

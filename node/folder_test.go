package node

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/durable"
)

func opened(t *testing.T, path string) *folder {
	t.Helper()
	f, err := openFolder(durable.OS{}, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestAStateFolderHasOneOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	opened(t, path)
	if _, err := openFolder(durable.OS{}, path); !errors.Is(err, ErrFolderInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("opened twice: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestAFolderThatOthersMayReadIsRefused(t *testing.T) {
	path := t.TempDir()
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := openFolder(durable.OS{}, path); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("%v", err)
	}
}

func TestTheIdentityIsMadeOnceAndNeverReplaced(t *testing.T) {
	f := opened(t, filepath.Join(t.TempDir(), "state"))
	first, err := f.loadIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.loadIdentity(rand.Reader)
	if err != nil || again.ID() != first.ID() {
		t.Fatalf("%v, %v after %v", again, err, first)
	}
	path := f.file(identityFile)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.loadIdentity(rand.Reader); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Errorf("damaged: %v", err)
	}
}

func TestSequencesGrowAcrossCrashesAndDamage(t *testing.T) {
	f := opened(t, filepath.Join(t.TempDir(), "state"))
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	last := uint64(0)
	take := func(n int) {
		t.Helper()
		s, err := f.openSequence(now)
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			got, err := s.take()
			if err != nil || got <= last {
				t.Fatalf("%d after %d, %v", got, last, err)
			}
			last = got
		}
	}
	take(3)
	take(sequenceStep + 5) // as after a kill: what was reserved is not used again
	take(1)
	for _, damage := range []string{"", "not a number", "18446744073709551615"} {
		if err := os.WriteFile(f.file(sequenceFile), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Hour)
		take(2)
	}
}

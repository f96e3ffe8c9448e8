package sim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// onDisk runs a test on a machine's disk in virtual time.
func onDisk(t *testing.T, test func(m *machineDisk, root string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newMachineDisk(1), t.TempDir()) })
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func TestAPowerCutLosesWhatWasNotSynced(t *testing.T) {
	onDisk(t, func(m *machineDisk, root string) {
		d := m.mount(root)
		file := filepath.Join(root, "a")
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(d.WriteFile(file, []byte("one")))
		must(d.SyncDir(root))
		must(d.WriteFile(file, []byte("two")))
		must(d.WriteFile(file, []byte("three")))
		seen := map[string]bool{}
		for range 100 { // what is left is up to chance, within what may be left
			kept := t.TempDir()
			must(copyFolder(kept, root))
			m.cut(kept)
			seen[content(t, filepath.Join(kept, "a"))] = true
		}
		if len(seen) != 3 || !seen["one"] || !seen["two"] || !seen["three"] {
			t.Errorf("cuts left %v", seen)
		}
		must(d.SyncDir(root))
		if m.cut(root) != 0 || content(t, file) != "three" {
			t.Errorf("what was synced is lost: %q", content(t, file))
		}
		must(d.Rename(file, file+".old"))
		must(d.Remove(file + ".old"))
		time.Sleep(flushAfter + time.Second)
		if m.cut(root) != 0 || content(t, file+".old") != "" {
			t.Error("the system has not written for longer than it would")
		}
	})
}

func TestAWriteThatThePowerCutMeetsIsDoneOrNotOrInPart(t *testing.T) {
	onDisk(t, func(m *machineDisk, root string) {
		m.set(diskFaults{Slow: time.Second})
		seen := map[string]bool{}
		for i := range 60 {
			at := filepath.Join(root, string(rune('A'+i)))
			if err := os.Mkdir(at, 0o700); err != nil {
				t.Fatal(err)
			}
			d := m.mount(at)
			done := make(chan error)
			go func() { done <- d.Create(filepath.Join(at, "f"), []byte("whole")) }()
			time.Sleep(50 * time.Millisecond)
			kept := t.TempDir()
			if err := copyFolder(kept, at); err != nil {
				t.Fatal(err)
			}
			m.cut(kept)
			seen[content(t, filepath.Join(kept, "f"))] = true
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if len(seen) != 3 || !seen[""] || !seen["wh"] || !seen["whole"] {
			t.Errorf("cuts left %v", seen)
		}
	})
}

func TestAFullDiskTakesNothingAndABrokenOneNotEvenThat(t *testing.T) {
	onDisk(t, func(m *machineDisk, root string) {
		d := m.mount(root)
		file := filepath.Join(root, "a")
		if err := d.Create(file, []byte("x")); err != nil {
			t.Fatal(err)
		}
		m.set(diskFaults{Full: true})
		wrote := false
		for name, err := range map[string]error{
			"write": d.WriteFile(file, []byte("y")), "create": d.Create(file+"2", nil), "mkdir": d.Mkdir(file + "3"),
			"a library": d.Write(file, func() error { wrote = true; return nil }),
		} {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s on a full disk: %v", name, err)
			}
		}
		if err := d.Remove(file); err != nil || wrote {
			t.Errorf("nothing can be removed from a full disk: %v", err)
		}
		m.set(diskFaults{Fail: true})
		for name, err := range map[string]error{"sync": d.SyncDir(root), "rename": d.Rename(root, root+"2"), "write": d.WriteFile(file, nil)} {
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("%s on a broken disk: %v", name, err)
			}
		}
	})
}

func TestASlowDiskTakesItsTime(t *testing.T) {
	onDisk(t, func(m *machineDisk, root string) {
		d := m.mount(root)
		m.set(diskFaults{Slow: time.Second})
		for range 50 {
			begin := time.Now()
			if err := d.WriteFile(filepath.Join(root, "a"), nil); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took < 100*time.Millisecond || took > time.Second {
				t.Errorf("a write took %s", took)
			}
		}
	})
}

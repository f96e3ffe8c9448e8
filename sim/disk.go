package sim

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/phantommesh/phantommesh/internal/durable"
)

// A machine's disk is a real folder, one for each life of its node, behind faults. What the node writes is there at once, as in an operating
// system's cache; what a power cut may take back is kept beside:
//
//   - a write that takes time is done at its beginning or at its end, as the seed says; one that the cut meets in the middle is done, not done, or,
//     where no rename protects it, done in part;
//   - a name that was made, changed or removed in a folder that was not synced since: of each folder the last few of such changes are undone,
//     so that none is missing before one that is there. After flushAfter the system has written them by itself.

// flushAfter is how long a system keeps changes in memory at most: what Linux does with dirty pages by default.
const flushAfter = 30 * time.Second

// diskFaults are what is wrong with a disk.
type diskFaults struct {
	Slow time.Duration // a write takes up to this long, and at least a tenth of it
	Full bool          // nothing can be written, only removed
	Fail bool          // nothing can be written or removed
}

// machineDisk is a machine's, whatever runs on it. Safe from any goroutine.
type machineDisk struct {
	mu      sync.Mutex // never held while anything takes time
	faults  diskFaults
	rand    *rand.Rand
	lasting bool   // constant: no power cut will come, so that nothing is kept to be taken back
	under   string // the state folder that is in use
	changes []change
	writing map[*change]struct{}
}

// change is one that a power cut may undo.
type change struct {
	at     time.Time
	folder string // whose names it changes, relative to the state folder
	undo   func(root string)
	torn   func(root string) // what the cut leaves of it in the middle; nil: nothing
}

func newMachineDisk(seed uint64) *machineDisk {
	return &machineDisk{rand: rand.New(rand.NewPCG(seed, 11)), writing: map[*change]struct{}{}}
}

// set changes what is wrong.
func (m *machineDisk) set(f diskFaults) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = f
}

// mount begins the use of a state folder, all of which is written.
func (m *machineDisk) mount(root string) durable.Disk {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.under, m.changes = root, nil
	clear(m.writing)
	return &mounted{of: m, root: root}
}

// mounted is a machine's disk as one process sees it.
type mounted struct {
	durable.OS
	of   *machineDisk
	root string
}

func (d *mounted) name(path string) string {
	if rel, err := filepath.Rel(d.root, path); err == nil {
		return rel
	}
	return path
}

// room is what an operation needs.
type room bool

const (
	takesRoom room = true
	freesRoom room = false
)

// do carries out one operation with what is wrong with the disk; c is how to take it back, if it can be.
func (d *mounted) do(op, path string, needs room, c *change, act func() error) error {
	m := d.of
	m.mu.Lock()
	f, early := m.faults, true
	var takes time.Duration
	switch {
	case f.Fail:
		m.mu.Unlock()
		return &os.PathError{Op: op, Path: path, Err: syscall.EIO}
	case f.Full && needs == takesRoom:
		m.mu.Unlock()
		return &os.PathError{Op: op, Path: path, Err: syscall.ENOSPC}
	case f.Slow > 0:
		takes = f.Slow/10 + time.Duration(m.rand.Int64N(int64(f.Slow-f.Slow/10)+1))
		early = m.rand.IntN(2) == 0
	}
	if c != nil {
		c.at = time.Now()
		m.writing[c] = struct{}{}
	}
	m.mu.Unlock()
	if !early {
		time.Sleep(takes)
	}
	err := act()
	m.mu.Lock()
	delete(m.writing, c)
	if c != nil && err == nil && m.under == d.root {
		m.changes = append(slices.DeleteFunc(m.changes, func(old change) bool { return time.Since(old.at) > flushAfter }), *c)
	}
	m.mu.Unlock()
	if early {
		time.Sleep(takes)
	}
	return err
}

// before reads what a name stands for, to put it back.
func before(path string) (content []byte, there bool) {
	content, err := os.ReadFile(path)
	return content, err == nil
}

// restored is a change's undo that puts a file back as it was; nil where nothing is ever undone.
func (d *mounted) restored(path string) *change {
	if d.of.lasting {
		return nil
	}
	content, there := before(path)
	rel := d.name(path)
	return &change{folder: filepath.Dir(rel), undo: func(root string) {
		if !there {
			_ = os.Remove(filepath.Join(root, rel))
			return
		}
		_ = os.WriteFile(filepath.Join(root, rel), content, 0o600)
	}}
}

// WriteFile implements durable.Disk.
func (d *mounted) WriteFile(path string, content []byte) error {
	c := d.restored(path)
	if c != nil {
		rel := d.name(path)
		c.torn = func(root string) { // what renameio leaves beside
			_ = os.WriteFile(filepath.Join(root, filepath.Dir(rel), "."+filepath.Base(rel)+"1234567890"), content[:len(content)/2], 0o600)
		}
	}
	return d.do("write", path, takesRoom, c, func() error { return d.OS.WriteFile(path, content) })
}

// Create implements durable.Disk.
func (d *mounted) Create(path string, content []byte) error {
	c := d.restored(path)
	if c != nil {
		rel := d.name(path)
		c.torn = func(root string) { _ = os.WriteFile(filepath.Join(root, rel), content[:len(content)/2], 0o600) }
	}
	return d.do("create", path, takesRoom, c, func() error { return d.OS.Create(path, content) })
}

// Mkdir implements durable.Disk.
func (d *mounted) Mkdir(path string) error {
	rel := d.name(path)
	c := &change{folder: filepath.Dir(rel), undo: func(root string) { _ = os.RemoveAll(filepath.Join(root, rel)) }}
	return d.do("mkdir", path, takesRoom, c, func() error { return d.OS.Mkdir(path) })
}

// MkdirAll implements durable.Disk.
func (d *mounted) MkdirAll(path string) error {
	if i, err := os.Stat(path); err == nil && i.IsDir() {
		return nil
	}
	rel := d.name(path)
	c := &change{folder: filepath.Dir(rel), undo: func(root string) { _ = os.RemoveAll(filepath.Join(root, rel)) }}
	return d.do("mkdir", path, takesRoom, c, func() error { return d.OS.MkdirAll(path) })
}

// Rename implements durable.Disk.
func (d *mounted) Rename(from, to string) error {
	was, is := d.name(from), d.name(to)
	c := &change{folder: filepath.Dir(is), undo: func(root string) { _ = os.Rename(filepath.Join(root, is), filepath.Join(root, was)) }}
	return d.do("rename", from, freesRoom, c, func() error { return d.OS.Rename(from, to) })
}

// Remove implements durable.Disk.
func (d *mounted) Remove(path string) error {
	return d.do("remove", path, freesRoom, d.restored(path), func() error { return d.OS.Remove(path) })
}

// RemoveAll implements durable.Disk. It is what tidies up: what comes back is tidied up again.
func (d *mounted) RemoveAll(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return d.do("remove", path, freesRoom, nil, func() error { return d.OS.RemoveAll(path) })
}

// SyncDir implements durable.Disk.
func (d *mounted) SyncDir(path string) error {
	rel := d.name(path)
	return d.do("sync", path, freesRoom, nil, func() error {
		d.of.mu.Lock()
		defer d.of.mu.Unlock()
		d.of.changes = slices.DeleteFunc(d.of.changes, func(c change) bool { return c.folder == rel })
		return nil
	})
}

// Write implements durable.Disk: what a library says it has written lasts, what it was about to may be there or not.
func (d *mounted) Write(path string, write func() error) error {
	return d.do("write", path, takesRoom, nil, write)
}

// cut does to a copy of the state folder what a power cut does to the disk.
func (m *machineDisk) cut(root string) (undone int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	folders := map[string][]change{}
	for _, c := range m.changes {
		if time.Since(c.at) <= flushAfter {
			folders[c.folder] = append(folders[c.folder], c)
		}
	}
	var names []string
	for name := range folders {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		of := folders[name]
		kept := m.rand.IntN(len(of) + 1)
		for _, c := range slices.Backward(of[kept:]) {
			c.undo(root)
			undone++
		}
	}
	var torn []*change
	for c := range m.writing {
		if c.torn != nil {
			torn = append(torn, c)
		}
	}
	slices.SortFunc(torn, func(a, b *change) int { return a.at.Compare(b.at)*2 + strings.Compare(a.folder, b.folder) })
	for _, c := range torn {
		if m.rand.IntN(2) == 0 {
			c.torn(root)
		}
	}
	return undone
}

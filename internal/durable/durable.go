package durable

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Disk is a file system below a state folder. Its methods are safe for concurrent use, and may take long: never call them with a mutex held that
// others wait for.
type Disk interface {
	// WriteFile replaces a file, so that at any moment, and after any crash, either the old content is there or the new.
	WriteFile(path string, content []byte) error
	// Create makes a file that is not there yet. After a crash in the middle it may hold a part of its content.
	Create(path string, content []byte) error
	// Mkdir makes a folder whose parent exists; MkdirAll the parents too, and is content with one that is there.
	Mkdir(path string) error
	MkdirAll(path string) error
	// Rename renames within a folder.
	Rename(from, to string) error
	// Remove removes a file, or says fs.ErrNotExist; RemoveAll whatever there is.
	Remove(path string) error
	RemoveAll(path string) error
	// SyncDir makes the names in a folder last.
	SyncDir(path string) error
	// Write has a library write to a file of its own and make that last.
	Write(path string, write func() error) error
}

// OS is the operating system's. Files are 0600, folders 0700.
type OS struct{}

// WriteFile implements Disk: a new file beside the old one, synced, then renamed over it.
func (OS) WriteFile(path string, content []byte) error {
	return renameio.WriteFile(path, content, 0o600, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(0o600))
}

// Create implements Disk.
func (OS) Create(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// Mkdir implements Disk.
func (OS) Mkdir(path string) error { return os.Mkdir(path, 0o700) }

// MkdirAll implements Disk.
func (OS) MkdirAll(path string) error { return os.MkdirAll(path, 0o700) }

// Rename implements Disk.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements Disk.
func (OS) Remove(path string) error { return os.Remove(path) }

// RemoveAll implements Disk.
func (OS) RemoveAll(path string) error { return os.RemoveAll(path) }

// SyncDir implements Disk.
func (OS) SyncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Write implements Disk.
func (OS) Write(_ string, write func() error) error { return write() }

var _ Disk = OS{}

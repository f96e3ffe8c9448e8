package discovery

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/phantommesh/phantommesh/internal/durable"
)

// Disk is where the book is kept: the file system, or a simulated one.
type Disk interface {
	// Read returns a file of at most max bytes; fs.ErrNotExist if there is none.
	Read(path string, max int64) ([]byte, error)
	// Replace writes the file so that at any moment, and after any crash, either the old content is there or the new.
	Replace(path string, b []byte) error
	// SetAside renames the file.
	SetAside(path, to string) error
}

// OSDisk is the operating system's file system. What is written goes through On; nil: durable.OS.
type OSDisk struct{ On durable.Disk }

func (d OSDisk) on() durable.Disk {
	if d.On == nil {
		return durable.OS{}
	}
	return d.On
}

// Read implements Disk. It also removes what a crash left of an unfinished Replace.
func (OSDisk) Read(path string, max int64) ([]byte, error) {
	removeLeftovers(path)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%w: more than %d bytes", errForm, max)
	}
	return b, nil
}

// removeLeftovers deletes the temporary files of earlier runs: "." + name + digits, as renameio names them.
func removeLeftovers(path string) {
	names, err := filepath.Glob(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"*"))
	if err != nil {
		return
	}
	for _, name := range names {
		number := strings.TrimPrefix(filepath.Base(name), "."+filepath.Base(path))
		if number != "" && strings.Trim(number, "0123456789") == "" {
			_ = os.Remove(name)
		}
	}
}

// Replace implements Disk.
func (d OSDisk) Replace(path string, b []byte) error { return d.on().WriteFile(path, b) }

// SetAside implements Disk.
func (d OSDisk) SetAside(path, to string) error { return d.on().Rename(path, to) }

var _ Disk = OSDisk{}

// missing reports whether an error says that there is no file.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

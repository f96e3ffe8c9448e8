package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// prepareState makes the state folder private before anything secret goes into it. A folder that holds a node already is left as it is:
// the node refuses one that others could have read.
func prepareState(dir string) error {
	failed := func(err error) error {
		next := "check the permissions of the folder above, or use --state"
		if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
			next = "run the command as root, or name a folder of yours with --state"
		}
		return localapi.Fail(localapi.Failed, "cannot use the state folder", err, next)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return failed(err)
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return failed(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return failed(err)
	}
	if fi.Mode().Perm()&0o077 != 0 && len(entries) == 0 {
		if err := os.Chmod(filepath.Clean(dir), 0o700); err != nil {
			return failed(err)
		}
	}
	return nil
}

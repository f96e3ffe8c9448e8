package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// fakeBackups stand for package node's: the archive is the snapshot itself.
func fakeBackups() {
	packBackup = func(_ string, snapshot []byte, version string, to io.Writer) (*localapi.Backup, error) {
		_, err := to.Write(snapshot)
		return &localapi.Backup{Format: 1, Mesh: "lab", Node: "atlas", Holds: localapi.BackupLedger, RootKey: true, StateVersion: 7, Version: version}, err
	}
	folderSnapshot = func(dir string, w io.Writer) error {
		if _, err := os.Stat(filepath.Join(dir, "mesh.json")); err != nil {
			return &localapi.Failure{Class: localapi.Failed, What: "cannot make a backup", Why: "this machine belongs to no mesh yet"}
		}
		_, err := io.WriteString(w, "snapshot")
		return err
	}
	restoreBackup = func(dir string, from io.Reader, how restoreHow) (*api.Restored, error) {
		b, err := io.ReadAll(from)
		if err != nil {
			return nil, localapi.Fail(localapi.Failed, "cannot restore", err, "")
		}
		if string(b) != "snapshot" {
			return nil, errors.New("another archive")
		}
		r := &api.Restored{Backup: api.Backup{Mesh: "lab", Node: "atlas", Made: time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)}, Role: localapi.RestoredMember}
		if how.asOnlyCoordinator {
			r.Role = localapi.RestoredCoordinator
		}
		return r, os.WriteFile(filepath.Join(dir, "mesh.json"), []byte(`{"ID":"","Name":"lab"}`), 0o600)
	}
}

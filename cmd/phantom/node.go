package main

import (
	"context"
	"io"
	"log/slog"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/node"
)

// runner is a node as this command sees it: it runs until it is told to stop, and answers questions meanwhile.
type runner interface {
	api.Backend
	// Run takes part in the mesh of the state folder, or in none until Enter is asked for, and serves until the context ends or Down or
	// Leave was asked. Nil: it stopped because it was told to.
	Run(ctx context.Context) error
	// Ready is closed once Run takes part in the mesh of the state folder, or knows that there is none: from then on Enter may be asked for.
	Ready() <-chan struct{}
}

// newNode makes the node of a state folder and takes the folder's lock. It is a variable so that the tests of the command line can run
// without a network.
var newNode = func(settings config.Settings, log *slog.Logger) (runner, error) {
	return node.New(node.Config{Settings: settings, Version: buildVersion(), Log: log})
}

// checkState looks at the files of a state folder while no node runs; doctor asks. A variable for the same reason.
var checkState = func(dir string) []api.Finding { return node.CheckFolder(dir) }

// What backup and restore do with the state folder; variables for the same reason.
var (
	packBackup     = node.PackBackup
	folderSnapshot = node.FolderSnapshot
	restoreBackup  = func(dir string, from io.Reader, how restoreHow) (*api.Restored, error) {
		return node.Restore(dir, from, node.RestoreOptions{AsOnlyCoordinator: how.asOnlyCoordinator, AsMember: how.asMember})
	}
)

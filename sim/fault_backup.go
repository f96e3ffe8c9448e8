package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/phantommesh/phantommesh/node"
)

// errNoBackup: there is nothing to restore.
var errNoBackup = errors.New("no backup was made of this machine")

// Backup makes a backup of the host's node, as phantom backup does, and keeps it elsewhere.
func (h *Host) Backup(ctx context.Context) error {
	n := h.Node()
	if n == nil {
		return fmt.Errorf("no node runs on %s", h.name)
	}
	var snapshot, archive bytes.Buffer
	if err := n.Snapshot(ctx, &snapshot); err != nil {
		return err
	}
	if _, err := node.PackBackup(h.folder, snapshot.Bytes(), "sim", &archive); err != nil {
		return err
	}
	h.backup = archive.Bytes()
	return nil
}

// Restore puts the host's last backup in place of its disk, which is lost together with the node that ran on it, and starts a node.
func (h *Host) Restore() error {
	if h.backup == nil {
		return errNoBackup
	}
	if err := h.Kill(); err != nil {
		return err
	}
	h.restores++
	dir := fmt.Sprintf("%s.restored%d", h.world.folder(h.name, h.lives), h.restores)
	if _, err := node.Restore(dir, bytes.NewReader(h.backup), node.RestoreOptions{}); err != nil {
		return err
	}
	h.folder = dir
	return h.Start()
}

// backUp makes backups.
type backUp struct{ lasting }

func (backUp) Kind() string { return "backup" }
func (backUp) begin(p *play, who []*Host) {
	ctx, cancel := context.WithTimeout(p.world.life, askMax)
	defer cancel()
	for _, h := range who {
		if err := h.Backup(ctx); err != nil {
			p.world.Record(h.name, "refused", "backup: %v", err)
		}
	}
}

// restore gives machines a new disk with what was on it when the last backup was made.
type restore struct{ lasting }

func (restore) Kind() string { return "restore" }
func (restore) begin(p *play, who []*Host) {
	for _, h := range who {
		if err := h.Restore(); err != nil {
			p.world.Record(h.name, "refused", "restore: %v", err)
		}
	}
}

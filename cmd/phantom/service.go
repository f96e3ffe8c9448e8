package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// serviceUnit is the systemd unit of the package.
const serviceUnit = "phantommesh.service"

// unitFolders are where units come from, systemd.unit(5).
var unitFolders = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// hasService tells whether the service manager should start the node: there is one, it has our unit, we may use it, and it is about the
// state folder the unit serves.
func (a *app) hasService(s config.Settings) bool {
	if os.Geteuid() != 0 || a.configFile != "" || s.State != config.Defaults().State {
		return false
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return false // sd_booted(3)
	}
	for _, dir := range unitFolders {
		if _, err := os.Stat(filepath.Join(dir, serviceUnit)); err == nil {
			return true
		}
	}
	return false
}

// startService has the service manager start or restart the node and returns when the unit is ready.
func startService(ctx context.Context, verb string) error {
	out, err := exec.CommandContext(ctx, "systemctl", verb, serviceUnit).CombinedOutput()
	if err == nil {
		return nil
	}
	if said := strings.TrimSpace(string(out)); said != "" {
		err = errors.New(said)
	}
	return localapi.Fail(localapi.Failed, "the service manager could not start the node", err, "see journalctl -u "+serviceUnit)
}

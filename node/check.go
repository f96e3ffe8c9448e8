package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/phantommesh/phantommesh/coordinator"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/crypto/seal"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// CheckFolder looks at the files of a stopped node's state folder, for doctor. It changes nothing.
func CheckFolder(dir string) []localapi.Finding {
	if _, err := os.Stat(dir); err != nil {
		return nil // a finding of the folder's own check
	}
	var d findings
	self, err := checkIdentity(dir)
	if err != nil {
		d.add(damage("identity", err))
	}
	var damaged *coordinator.DamagedError
	switch err := coordinator.CheckFolder(dir, self); {
	case errors.As(err, &damaged):
		d.add(localapi.Finding{Check: "mesh", Severity: localapi.SeverityError, What: damaged.Path + " cannot be used", Why: damaged.Err.Error(),
			Next: damaged.Next})
	case err != nil:
		d.add(damage("mesh", err))
	}
	if b, err := os.ReadFile(filepath.Join(dir, sequenceFile)); err == nil {
		if _, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err != nil {
			d.add(localapi.Finding{Check: "sequence", Severity: localapi.SeverityError, What: filepath.Join(dir, sequenceFile) + " is damaged",
				Why: "it does not hold a number", Next: "remove it; others may not hear this node's new addresses for some minutes"})
		}
	}
	if len(d.Findings) == 0 {
		what := "this machine is in no mesh yet"
		if coordinator.Exists(dir) {
			what = "the identity and the mesh's state can be read"
		}
		d.add(localapi.Finding{Check: "files", OK: true, Severity: localapi.SeverityInfo, What: what})
	}
	return d.Findings
}

func damage(check string, err error) localapi.Finding {
	return localapi.Finding{Check: check, Severity: localapi.SeverityError, What: "a file in the state folder cannot be used", Why: err.Error(),
		Next: "restore it from a backup, or remove the state folder and join again with a new invitation"}
}

// checkIdentity reads the identity, where there is one, and gives its node ID. A mesh without an identity is damage.
func checkIdentity(dir string) (identity.NodeID, error) {
	path := filepath.Join(dir, identityFile)
	sealed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if coordinator.Exists(dir) {
			return identity.NodeID{}, errors.New(path + " is missing")
		}
		return identity.NodeID{}, nil
	}
	if err != nil {
		return identity.NodeID{}, err
	}
	body, err := seal.Unwrap(identityKind, sealed)
	if err != nil {
		return identity.NodeID{}, errors.New(path + ": " + err.Error())
	}
	key, err := identity.UnmarshalKey(body)
	if err != nil {
		return identity.NodeID{}, errors.New(path + ": " + err.Error())
	}
	return key.ID(), nil
}

package coordinator

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// errOtherNode: the state does not list the node whose identity lies beside it.
var errOtherNode = errors.New("it is of another node")

// CheckFolder looks at what a stopped node keeps of its mesh in the state folder dir, for doctor: whether the state and, on the founder, the
// root key can be read, and whether the state is about the node self (zero: not known). It returns nil if there is no mesh, a *DamagedError for
// what cannot be used, or what the system said. The log of a voter is not read: only a node that runs may open it.
func CheckFolder(dir string, self identity.NodeID) error {
	mesh := filepath.Join(dir, meshDir)
	if _, err := os.Stat(mesh); os.IsNotExist(err) {
		return nil
	}
	s, err := readStateFile(filepath.Join(mesh, stateName), nil)
	if err != nil {
		return err
	}
	if _, err := readRootKey(filepath.Join(mesh, rootName), s.Mesh.ID); err != nil {
		return err
	}
	if _, ok := s.Member(self); !ok && !self.IsZero() {
		return &DamagedError{Path: filepath.Join(mesh, stateName), Err: errOtherNode,
			Next: "bring back the identity.key that belongs to it, or remove the state folder and join again"}
	}
	return nil
}

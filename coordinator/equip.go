package coordinator

import (
	"bytes"
	"errors"
	"path/filepath"

	"github.com/phantommesh/phantommesh/internal/durable"
)

// Outfit is what a member keeps of its mesh, made by another: the state, signed, as the content of state.cbor.
type Outfit []byte

// Outfit is this node's state as a member keeps it that has just pulled it. Only a coordinator can make one.
func (g *Group) Outfit() (Outfit, error) {
	s := g.State()
	head := g.headOf(s)
	if head == nil {
		return nil, errNotLeader
	}
	var buf bytes.Buffer
	err := encodeState(&buf, s.withHead(head))
	return buf.Bytes(), err
}

// Equip makes the mesh's folder in the state folder of a member that does not run and is in the outfit. It leaves either nothing or a member on disk.
func (o Outfit) Equip(d durable.Disk, dir string) error {
	path, err := beginDir(d, dir)
	if err != nil {
		return foundError(dir, err)
	}
	if err := d.WriteFile(filepath.Join(path, stateName), o); err != nil {
		return foundError(dir, errors.Join(err, d.RemoveAll(path)))
	}
	if err := commitDir(d, dir); err != nil {
		return foundError(dir, err)
	}
	return nil
}

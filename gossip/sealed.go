package gossip

import (
	"crypto/rand"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// Seal seals a packet to a member as a pool of the scope does, and Open opens one that was sealed to a member: for simulations of members gone
// bad, who have the gossip key and say with it what memberlist never would.
func Seal(mesh identity.MeshID, scope Scope, to identity.NodeID, key, plain []byte) ([]byte, error) {
	var ring keyring
	if err := ring.use([][]byte{key}); err != nil {
		return nil, err
	}
	return newSeal(rand.Reader, &ring, mesh, to, scope).close(to, plain)
}

// Open returns what is in a packet of the scope that was sealed to a member under one of the keys.
func Open(mesh identity.MeshID, scope Scope, to identity.NodeID, keys [][]byte, sealed []byte) ([]byte, error) {
	var ring keyring
	if err := ring.use(keys); err != nil {
		return nil, err
	}
	return newSeal(rand.Reader, &ring, mesh, to, scope).open(sealed)
}

// Preface is what a stream for a pool of the scope begins with.
func (s Scope) Preface() []byte { return s.appendPreface(nil) }

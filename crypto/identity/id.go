package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// idSize is the size of a node or mesh ID in bytes: a whole SHA-256.
const idSize = 32

// shortSize is how many characters of a node ID are shown where short is enough: 40 bits, with which a mesh of 10,000 nodes has a chance of
// one in 20,000 of an ambiguity, and ambiguity is reported.
const shortSize = 8

// idText is lower-case base32 (RFC 4648 §6) without padding: 52 characters for an ID, safe in names, URLs and double-clicks.
var idText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ErrID: text that is no ID in its full form.
var ErrID = errors.New("identity: not an ID")

const nodePrefix = "n-"

// NodeID names a node: the SHA-256 of its canonical public keys.
type NodeID [idSize]byte

// String gives the full form: "n-" and 52 characters.
func (n NodeID) String() string { return nodePrefix + idText.EncodeToString(n[:]) }

// Short gives "n-" and the first 8 characters, for people.
func (n NodeID) Short() string { return n.String()[:len(nodePrefix)+shortSize] }

// IsZero reports whether n names nobody.
func (n NodeID) IsZero() bool { return n == NodeID{} }

// Compare orders IDs by their bytes.
func (n NodeID) Compare(o NodeID) int { return bytes.Compare(n[:], o[:]) }

// MarshalText gives the full form.
func (n NodeID) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads the full form.
func (n *NodeID) UnmarshalText(b []byte) (err error) {
	*n, err = ParseNodeID(string(b))
	return err
}

// MarshalBinary gives the 32 bytes of the ID.
func (n NodeID) MarshalBinary() ([]byte, error) { return n[:], nil }

// UnmarshalBinary reads the 32 bytes of an ID.
func (n *NodeID) UnmarshalBinary(b []byte) error { return setID(n[:], b) }

// ParseNodeID reads the full form of a node ID, in lower case as it is written.
func ParseNodeID(s string) (NodeID, error) {
	rest, ok := strings.CutPrefix(s, nodePrefix)
	if !ok {
		return NodeID{}, fmt.Errorf("%w of a node: %q does not begin with %s", ErrID, s, nodePrefix)
	}
	b, err := parseID(rest)
	return NodeID(b), err
}

// MeshID names a mesh: the SHA-256 of the public half of its root key.
type MeshID [idSize]byte

// String gives the 52 characters of the ID.
func (m MeshID) String() string { return idText.EncodeToString(m[:]) }

// Short gives the first 8 characters: the mesh's fingerprint, for people.
func (m MeshID) Short() string { return m.String()[:shortSize] }

// IsZero reports whether m names no mesh.
func (m MeshID) IsZero() bool { return m == MeshID{} }

// MarshalText gives the full form.
func (m MeshID) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the full form.
func (m *MeshID) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMeshID(string(b))
	return err
}

// MarshalBinary gives the 32 bytes of the ID.
func (m MeshID) MarshalBinary() ([]byte, error) { return m[:], nil }

// UnmarshalBinary reads the 32 bytes of an ID.
func (m *MeshID) UnmarshalBinary(b []byte) error { return setID(m[:], b) }

// ParseMeshID reads the full form of a mesh ID.
func ParseMeshID(s string) (MeshID, error) {
	b, err := parseID(s)
	return MeshID(b), err
}

func parseID(s string) (id [idSize]byte, err error) {
	b, err := idText.DecodeString(s)
	if err != nil || len(b) != idSize || idText.EncodeToString(b) != s {
		return id, fmt.Errorf("%w: %q", ErrID, s)
	}
	return [idSize]byte(b), nil
}

func setID(to, b []byte) error {
	if len(b) != idSize {
		return fmt.Errorf("%w: %d bytes, want %d", ErrID, len(b), idSize)
	}
	copy(to, b)
	return nil
}

// OverlayIPv6 gives a node's address in the mesh: fd, 40 bits of the mesh ID, 80 bits of the node ID (a unique local address, RFC 4193). It needs
// nobody's leave, so it is valid with no coordinator in reach.
func OverlayIPv6(mesh MeshID, node NodeID) netip.Addr {
	a := overlayBase(mesh)
	copy(a[6:], node[:10])
	return netip.AddrFrom16(a)
}

// OverlayPrefix gives the /48 that holds every node of the mesh.
func OverlayPrefix(mesh MeshID) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16(overlayBase(mesh)), 48)
}

func overlayBase(mesh MeshID) (a [16]byte) {
	a[0] = 0xfd
	copy(a[1:6], mesh[:5])
	return a
}

func hashID(b []byte) [idSize]byte { return sha256.Sum256(b) }

package dht

import (
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	mh "github.com/multiformats/go-multihash"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// addressCode is the number of `/phantom` in multiaddrs, from the range for private use of the multicodec table.
const addressCode = 0x300056

// everywhere is the address of every node: a transport that needs the node ID only has no use for another.
var everywhere = newEverywhere()

func newEverywhere() ma.Multiaddr {
	p := ma.Protocol{Name: "phantom", Code: addressCode, VCode: ma.CodeToVarint(addressCode)}
	if err := ma.AddProtocol(p); err != nil {
		panic("dht: " + err.Error())
	}
	return ma.StringCast("/phantom")
}

// peerIDOf is the node ID in libp2p's form: a multihash, of the identity's SHA-256 kind.
func peerIDOf(id identity.NodeID) peer.ID {
	b, err := mh.Encode(id[:], mh.SHA2_256)
	if err != nil {
		panic("dht: " + err.Error()) // 32 bytes always encode
	}
	return peer.ID(b)
}

// nodeIDOf is the node behind a peer ID; false if there can be none.
func nodeIDOf(p peer.ID) (id identity.NodeID, ok bool) {
	h, err := mh.Decode([]byte(p))
	if err != nil || h.Code != mh.SHA2_256 || len(h.Digest) != len(id) {
		return id, false
	}
	copy(id[:], h.Digest)
	return id, !id.IsZero()
}

// Package dht is the mesh's own distributed hash table: who was where, asked of members instead of gossip. It is Kademlia
// (go-libp2p-kad-dht) under a protocol prefix that belongs to one mesh, over streams of the control plane.
//
// What is where:
//
//   - value.go: what is stored, `/phantom/<NodeID>`: the node's signed [peer.Record] and the certificates that prove it to be a member; and
//     who checks it.
//   - store.go: where the values of others are kept: in memory, bounded, the farthest from our own ID make room.
//   - messenger.go, serve.go, frame.go: one question and one answer on a stream of its own, bounded in size, number and pace.
//   - host.go, stream.go: what kad-dht wants to see of a libp2p host. There is no swarm, no transport, no identify and no relay behind it: who is
//     at the other end, encryption, multiplexing and the reuse of connections are control's matter.
//   - dht.go: the Kademlia node and its lookups ([DHT.Find], a discovery.Finder).
//   - publish.go: when the own record is stored anew, and searches in the background ([DHT.Seek]).
//
// A libp2p peer ID is the node ID in a multihash, so one is the other without a table. Every peer has the same libp2p address, `/phantom`:
// how a node ID becomes a path is the underlay's matter, and no physical address is in anything but the signed records, which only members see.
//
// The way of a lookup: whom gossip holds for alive and reachable is put into the routing table, which costs no packet; Kademlia asks the members
// closest to the key, a few at a time; every value that comes back is verified against the mesh's trust before it counts, the one with the
// highest sequence wins; the member and its record go into the peer table and the addresses to the caller as a hint. A lie costs a refused value.
//
// A member that serves stores values for others: one value a member, at most [recordsMax]. Provider records, which would let a member store
// any number of keys, are off; who is alive at all is answered by a lookup of the mesh ID, which ends at members that have just answered.
//
// Goroutines, ended by [DHT.Close]: one that publishes, one that seeks; some ten of kad-dht and its peer store; one for each request that is being
// served, which control starts. It trusts control for who is there and certificate.Trust for who is a member; it trusts no value.
package dht

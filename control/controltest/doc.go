// Package controltest is a mesh in memory for the tests of everything that stands on control: packets addressed by WireGuard key
// without sockets, and Hosts with identities and certificates of one mesh.
//
// The flow: [NewNetwork] carries packets between [Port]s, loses them where it is told to ([Network.Cut], [Port.Vanish]) and never
// waits; [New] makes a mesh of nodes on one network, each with a Host, a table of peers and its chain. Everything is closed by the
// test's own cleanup. The network starts no goroutine; those of a Host are the Host's.
package controltest

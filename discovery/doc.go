// Package discovery answers: where might this node, or this mesh, be? It gives hints, never paths: only the underlay's own check
// makes an address a path, and only the control channel proves who is there. So a lie costs a packet and no more.
//
// What is here:
//
//   - [Book], the address book on disk: which nodes there were, where, and when they were last seen. With it a node that was off for
//     a week, or cut off by a partition of any length, still knows whom to look for.
//   - [Finder], the seam into which ways of finding plug: the address book is one, the DHT is another.
//   - [LAN], beacons by multicast DNS: which meshes there are in the networks that this machine is plugged into, and which machines look
//     for one. It stands on the DNS message parser and the multicast sockets of golang.org/x/net.
//   - [FirstAnswer], which tries a list of "host:port" side by side and takes the first that answers.
//
// The way of a hint:
//
//  1. A finder yields it, with its source and time.
//  2. [Collect] asks several finders side by side and stops at a time limit.
//  3. The caller gives the addresses to the underlay as candidates.
//
// One goroutine belongs to an open Book: it writes the file some time after a change, and ends with Close. To an open LAN
// belong a reader for each address family and one that repeats the beacon; they end with Close too. Collect and FirstAnswer
// return only when every goroutine they started has ended. The book's file is trusted no more than the network: it is strictly
// read, a damaged one is kept aside, and nothing in it gives anyone a right.
package discovery

// Package netchange tells when this machine's network has changed, or when the machine was asleep, so that what was learned about
// the network (mapped addresses, port mappings, paths) is learned anew at once and not at the next interval.
//
// The flow:
//
//  1. Something says that the network may have changed: a netlink message on Linux, a timer elsewhere.
//  2. After a quarter of a second, in which the rest of the change arrives, a snapshot of addresses and routes is taken and compared
//     with the one before. Only a difference is an event, so neither the refresh of a router advertisement nor anything on an
//     ignored interface (our own tunnel's addresses and routes) is one.
//  3. A clock that counts sleep is compared with one that does not; when they drift apart, the machine was suspended.
//
// What is not looked at: loopback and link-local addresses (containers come and go with them), interfaces without a carrier,
// routing tables other than main.
//
// Watch owns one goroutine, and on Linux a second that reads the netlink socket; both end with the context. Nothing here crosses a
// network, and the kernel is trusted.
package netchange

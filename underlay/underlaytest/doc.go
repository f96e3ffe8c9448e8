// Package underlaytest is a network in memory for tests: hosts with IP addresses whose sockets are conn.Binds, NATs in front of them,
// and TCP. It works inside a testing/synctest bubble: packets take virtual time, and nothing but the test's own goroutines and timers
// runs.
//
//  1. A test makes a [Network] and a [Host] for each node, and gives the host to underlay.Open as Config.Bind. A host behind a [NAT]
//     is made by that; NATs stand behind NATs.
//  2. Send looks the destination up in the sender's own network, then in those around it, each NAT on the way rewriting the source;
//     asks the hooks for loss and latency; and queues a copy of the packet at its destination, if the NATs on the way in let it pass.
//  3. The ReceiveFunc takes what is queued, a batch at a time.
//  4. DialTCP and ListenTCP give streams that follow the same routes (stream.go).
//
// It starts no goroutine; delayed packets are timers. Loopback addresses lead back to the sending host.
package underlaytest

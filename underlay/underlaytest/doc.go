// Package underlaytest is a network in memory for tests: hosts with IP addresses whose sockets are conn.Binds. It works inside a
// testing/synctest bubble: packets take virtual time, and nothing but the test's own goroutines and timers runs.
//
//  1. A test makes a [Network] and a [Host] for each node, and gives the host to underlay.Open as Config.Bind.
//  2. Send looks the destination up, asks the network's hooks for loss and latency, and queues a copy of the packet there.
//  3. The ReceiveFunc takes what is queued, a batch at a time.
//
// It starts no goroutine; delayed packets are timers. Loopback addresses lead back to the sending host.
package underlaytest

// Package underlaytest is a network in memory for tests: hosts with IP addresses whose sockets are conn.Binds, NATs in front of them,
// and TCP. It works inside a testing/synctest bubble: packets take virtual time, and nothing but the test's own goroutines and timers
// runs.
//
//  1. A test makes a [Network] and a [Host] for each node, and gives the host, or a [Process] on it, to underlay.Open as Config.Bind. A host
//     behind a [NAT] is made by that; NATs stand behind NATs. Hosts have more interfaces with [Host.Attach].
//  2. Send looks the destination up in the sender's own network, then in those around it, each NAT on the way rewriting the source;
//     asks the hooks for loss and latency; and queues a copy of the packet at its destination, if the NATs on the way in let it pass.
//  3. Every [Link] on the way has its say: that of the host, of each NAT's outer side, between two of [Network.Region], and of the receiver.
//     What a link draws comes from the network's seed and its own name: who sends the same packets in the same order has the same ones lost.
//  4. The ReceiveFunc takes what is queued, a batch at a time.
//  5. DialTCP and ListenTCP give streams whose segments follow the same routes (stream.go).
//
// Faults: [Host.Crash], [Host.Pause], [Process.Kill], [Host.Move], [Network.Cut], [Network.Partition], [NAT.Reboot], [NAT.Renumber],
// and links that are changed while packets cross them. Who wants to see everything opens a [Network.Tap]; [Network.Deliver] forges packets.
//
// It starts no goroutine; one timer carries on whatever is due. Loopback addresses lead back to the sending host.
package underlaytest

// Package underlay is the node's one UDP port: it knows where every other node is now, and lets everything above it address a peer by
// who it is. WireGuard, QUIC and gossip never see an IP address of the physical network.
//
// What arrives goes through these stages; 1 to 4 run in the goroutine that read, one for each address family:
//
//  1. The real conn.Bind fills a batch of buffers: the WireGuard device's own while one is attached, else the pump's (reader.go).
//  2. The first bytes say what a packet is (classify.go); its source address says whose it is, if that address has given a keyed
//     answer to a challenge of ours (sources.go, no lock).
//  3. WireGuard packets of members stay in place and get their node's endpoint, a pointer that never changes (receive.go, node.go).
//     From anybody else they are dropped.
//  4. Everything else is taken out of the batch: QUIC of validated sources to [Socket.PacketConn], gossip to [Socket.Gossip], answers
//     to path checks are verified at once, requests are queued for the owner.
//  5. The owner goroutine answers requests, runs searches for paths (connect.go, [nat.CheckPlan]) and the upkeep of paths
//     (a pure core: choose.go, report.go for what arrives of our data, mtu.go, keep.go), and publishes the active path of every node behind an atomic pointer.
//
// What is sent: the device and the control plane hand packets to a node; it forwards them to the real Bind with the endpoint of the
// active path, which remembers the local address that the last check arrived on.
//
// Where UDP does not pass, a pipe takes the same packets over TLS and TCP (pipe.go). It is a [Link], as are channels through relays and
// spare sockets: what arrives on it goes through stages 2 to 5 ([Socket.Deliver]).
//
// For others this node takes relay frames from member to member (relay.go), each member its share (fairqueue.go, a pure core), and never over a
// path that is relayed itself. As a client of relays it wraps packets into such frames (channel.go).
//
// Goroutines, all ended by [Socket.Close]: one pump for each family, the owner, one that reports orphans, one that calls Config.Assist, the relay's forwarder, one that keeps the pipes; two
// for each pipe, one for each TCP listener, handshake and dial, one for each spare socket. While a device is
// attached its goroutines do the pumps' work; they are the device's to end.
//
// Trust: nothing that arrives is trusted. A source address without a validated path gets STUN answers only, never more bytes than it
// sent, and is rationed before any curve operation (limit.go, checks.go). What a keyed answer proves is that the holder of a key
// receives at an address; who that is, QUIC's TLS proves, and the peer table says who is a member.
package underlay

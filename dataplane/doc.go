// Package dataplane carries IP packets between this host and the members of the mesh: a WireGuard device whose peers exist only while
// they are used, and only with a post-quantum preshared key.
//
// A packet's way out:
//
//  1. The host writes it to an [Interface]: a Linux TUN ([OpenTUN]), a TCP/IP stack in this process ([OpenUserspace]), or a program
//     ([OpenPipe]).
//  2. hostSide, our tun.Device around it, reads a batch and finds each packet's tunnel by its destination. If the tunnel is open the
//     packet goes on untouched. Otherwise it waits in a small queue and the conductor is told.
//     What is larger than the path carries is answered with ICMP (mtu.go).
//  3. The conductor runs the tunnel's policy (tunnel.go, a pure machine): it begins a key exchange over the control channel
//     (exchange.go), configures the WireGuard peer with the key it gives (device.go), and opens the gate.
//  4. The device encrypts and sends through wireSide, our conn.Bind around the underlay's. A peer's endpoint is its node ID.
//
// And in: the underlay's batch passes wireSide into the device, which decrypts it and checks each source address against the peer's
// own; hostSide notes that the tunnel is in use and hands the batch to the interface.
//
// Promises:
//
//   - No packet leaves under a classical-only key. A peer is configured in one operation with its key, never without; the device
//     starts it only at the end of that operation.
//   - A rotation never stalls traffic: sessions outlive the change of the key. See exchange.go for the moments.
//   - Nothing is allocated for a packet on an open tunnel, and no lock is taken.
//   - Every queue is bounded: packets that wait (wait.go), packets in flight (credit.go), exchanges under way, connections of proxies.
//
// Goroutines: the device's own; the conductor, which alone changes tunnels and peers; one for each exchange under way; one that
// watches the device's end; those of proxies and forwards. [Plane.Close] ends and awaits them all.
//
// It trusts the control channel to have authenticated the member at the other end of a stream, the table of peers for who is a
// member, and the underlay to lead a node ID to that node. It trusts nothing in a packet.
//
// In a synctest bubble, keep every *device.Peer reachable until the process ends ([Config].OnPeer): wireguard-go drains a peer's queues
// in finalizers, and these run outside of the bubble, where its channels may not be touched.
package dataplane

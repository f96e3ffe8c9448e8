// Package firewall is the packet filter of a node: it lets pass what the mesh's policy allows, and what answers it.
//
// A packet's way through [Firewall.Allow]:
//
//  1. packet.go reads its headers: strictly, within bounds, without keeping or allocating anything. What cannot be read is dropped.
//  2. The address at the other end leads to the peer: one map access in an immutable book, which holds the rules compiled for this node.
//  3. Packets of a flow that has passed in this second pass again (quick.go). Else the peer's table of flows is asked under its lock. A packet of a known flow passes, in both directions. Else the rules decide
//     whether it may open one; the sender asks what it may open there, the receiver what may be opened here.
//
// Each peer has a table of its own with its own bound: a member that opens a flood of flows drives out its own, and nobody else's. The
// tables together are bounded too; who has few flows takes the room from who has most.
//
// A new policy takes effect with the next packet: a flow remembers under which book it was judged, and is judged again under another.
//
// Fragments pass when the first one did, which has to come first and to hold the whole transport header (RFC 1858, RFC 3128, RFC 7112).
// ICMP errors pass when they quote a packet of a known flow, and never otherwise.
//
// TCP is not followed byte by byte: sequence numbers are the hosts' business. A segment that is no SYN may open a flow where a rule
// allows the connection, so that connections survive a restart of the node. For the first two minutes of a firewall they also survive
// if the other side speaks first.
//
// It has no goroutine. Source addresses it may trust: the WireGuard device has checked them against the peer.
package firewall

// Package node builds a node out of its parts, runs it, and owns its state folder. It is the one place where the parts meet.
//
//  1. New takes the state folder's lock, reads or makes the identity, and opens the UDP port and the control channel. A node that is in no mesh
//     yet stays there: it can be told over the local API to found one or to join one (Enter).
//  2. With a mesh, the membership is assembled (membership.go): the coordinator group with the ledger or its copy, the tunnel device, gossip.
//  3. A few loops join the parts (follow.go, publish.go): the ledger's members go into the peer table, gossip's news into the address book and to
//     the underlay, changes of the ledger spread as rumours and are pulled, and what this node says of itself is kept true.
//  4. Run serves until its context ends or Down is asked for, then hands duties over and takes everything down in the opposite order.
//
// The node is also the Backend of the local API (status.go, decisions.go, ping.go, wait.go, doctor.go).
//
// Goroutines: Run owns those of the loops, through one wait group of the membership; every part owns its own. Trust: the parts verify what comes
// from the network; the node adds nothing to that, and never acts on a gossip message but by asking for signed state.
package node

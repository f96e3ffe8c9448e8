// Package gossip tells who is alive. It runs one memberlist (SWIM with Lifeguard) over this mesh's own transport and adds what
// memberlist leaves open: who may be a member, who may say what, and how a mesh that fell apart finds itself again.
//
// Everything is addressed by node ID. A node's memberlist name is its NodeID in text, its memberlist address is its overlay IPv6
// address with a constant port: unique, never physical, never used to send anything. Packets travel as sealed gossip packets of
// the underlay, push/pull and fallback pings as control streams named "gossip".
//
// A node takes part in several pools side by side: a [Host] has a [Pool] for each scope (scope.go), each with a memberlist of its own. Who may
// be in a pool, the node's state says.
//
// The way of a packet in:
//
//  1. host (one goroutine): takes it from the underlay, finds the pool that it is for and opens the seal (seal.go), which binds it to
//     that pool. What does not open is counted and gone. The pool's transport refuses whom the pool does not admit and what
//     memberlist should never see (packet.go), and hands the rest to memberlist. A packet of a member that is not alive here
//     has the rejoiner look for it at once.
//  2. memberlist's packet goroutines: SWIM. They call the delegates (delegate.go), some with memberlist's lock held: a delegate
//     judges (admission.go), writes the verdict into a bounded set and returns. It never calls out and never waits.
//  3. publisher (one goroutine, pool.go): settles from a snapshot what memberlist did not say (roster.go, snapshot.go), carries the
//     changed states into the peer table, then offers an Event to the reader.
//  4. rumour reader (one goroutine of the host, rumour.go): checks the origin's signature, delivers once, passes on in all pools.
//
// Beside them run, for each pool, the announcer (one goroutine; spreads our own record, own.go) and the rejoiner (one goroutine and at most
// [rejoinParallel] attempts; rejoin.go), which synchronises with members that just became known and with all those of the address
// book that are not alive, for as long as it takes. [Host.Open] starts all of them, [Pool.Close] stops all of them; memberlist's own
// timers end at the latest one stretched probe interval afterwards.
//
// While nothing happens most of memberlist's probes are answered here instead of being sent, and digests in those that are stand in for
// regular exchanges of everything (calm.go). Probes travel in a short form (short.go).
//
// What is trusted: that a packet opens under the mesh's gossip key proves that the sender had the key, nothing else. What a node
// says of itself (its record) and rumours carry their author's Ed25519 signature and are refused without it. Streams are mutually
// authenticated by the control channel and are not sealed again. What SWIM leaves to trust between members stays so: a member
// can accuse another of being dead (the accused refutes), and a member that was revoked can listen and accuse until the gossip key
// is changed, which is why a revocation is to be followed by [Host.SetKeyring].
//
// Memberlist's own encryption is off and ours is on, always and for every packet, for three reasons: its sealed form lets any
// member crash any other (an empty or badly padded plaintext panics), one random 96-bit nonce space under one key for the whole
// mesh is used up too early, and what it has not decrypted nobody can check or count. See seal.go.
package gossip

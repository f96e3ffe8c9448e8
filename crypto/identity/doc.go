// Package identity is who a node is: its three key pairs, the names derived from them, and what it signs.
//
//  1. A Key is made once (Generate) and kept by the node: Ed25519 and ML-DSA-65 for signatures, X25519 for WireGuard and path checks.
//  2. Its Public half, in its one canonical form, hashes to the NodeID; everything above the underlay speaks of nodes by that.
//  3. Signatures that must hold against a quantum computer are hybrid: both algorithms sign, and both must verify. Every signature is made
//     under a context, so that one made for one purpose is worth nothing for another.
//  4. The founder's RootKey signs like a Key, has no X25519 half, and its public half hashes to the MeshID.
//
// The package does no I/O, reads no clock and starts no goroutine. Randomness is an argument. Private keys redact themselves in fmt and slog.
package identity

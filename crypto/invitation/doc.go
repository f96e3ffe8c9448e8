// Package invitation is how a machine is let into a mesh: the token that a person carries, and the request that a joiner makes with it.
//
//  1. phantom invite makes a Token: the mesh, up to three members and where they were, and a 128-bit secret. Its text is what people paste.
//  2. The ledger keeps the token's ID and the Key derived from its secret; neither leads back to the secret.
//  3. The joiner sends a Request signed with the keys of its new identity, holding a Proof: an HMAC under the token's key over the mesh and that
//     identity. A member that passes the request on learns nothing with which another identity could join.
//
// The package does no I/O, reads no clock and starts no goroutine.
package invitation

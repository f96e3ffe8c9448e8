// Package certificate says who belongs to a mesh, who may say so, and who no longer does: member certificates, issuer certificates and revocations,
// and the Trust that verifies them.
//
//  1. The root key signs issuer certificates of depth 1; such an issuer may sign issuers of depth 0; both sign members. A chain holds at most
//     three certificates.
//  2. A document is signed once, with both algorithms, over its canonical bytes, and those same bytes (an envelope of body, signer and signature)
//     are stored, passed on and shown everywhere. Whoever carries them cannot change them.
//  3. A Trust is an immutable set: the mesh's root, its issuers, its revocations. It verifies members at a time that the caller gives.
//  4. A Chain is what a node shows to another that may know nothing but the mesh ID: root, issuers, member.
//
// Revocation is of a node. What a revoked issuer has signed is void from then on, or its holder could go on making members with old dates. Two
// exceptions keep the mesh whole: certificates that this node had adopted into its Trust before (WithMembers) stay good until they are
// re-issued; and an issuer that left in good order (Revocation.Left) stands for what it signed before it left, for at most one life of a
// member certificate. Revocations themselves hold whoever of the issuers signed them, in whatever order they come.
//
// A Trust is built in this order: issuers from the root down, revocations, adopted members.
//
// The package does no I/O, reads no clock and starts no goroutine.
package certificate

// Package pairing lets a machine without an invitation and a member of a mesh find out, with the help of a person who compares six
// digits, that nobody stands between them. It has no I/O, no clock and no randomness of its own.
//
//  1. The joiner sends a [Hello]: a commitment to a nonce, bound to both node IDs and to the TLS exporter of the connection.
//  2. The member answers with an [Offer]: its mesh and a nonce of its own.
//  3. The joiner opens its commitment with a [Reveal], and adds its signed enrolment request.
//  4. Both compute the same [Session.Code] from the nonces, the identities, the mesh and the exporter, and show it.
//  5. [Notice] messages follow: the request waits, or is decided.
//
// A machine in the middle has two sessions with different identities and exporters. On the one side it must send its nonce before it
// knows the joiner's, on the other commit to one before it knows the member's: whatever the order, the second code is a number that it
// can neither compute in advance nor choose, so that it equals the first with a chance of one in a million. How many attempts it gets
// is the business of whoever takes requests in.
package pairing

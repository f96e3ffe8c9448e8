// Package nat is what a node knows about NATs. It speaks STUN (RFC 8489): the plain Binding exchange that tells a node how the world
// sees it, and the keyed checks by which two nodes prove to each other that an address is theirs. From what servers say it concludes
// how the NAT in front of the node behaves ([Discovery], [Assess], in the terms of RFC 4787), and from two nodes' situations how they
// get through ([Choose], and the plans: [CheckPlan], [FanInPlan], [FanOutPlan]). It owns no socket, starts no goroutine and reads no clock: the
// underlay gives it the bytes that arrived and sends the bytes it returns.
//
// A keyed check between the nodes A and B goes
//
//  1. A sends [CheckRequest.Encode]: its own public key and, unless B's key is still unknown to it, MESSAGE-INTEGRITY-SHA256 under
//     the key of the pair; padded to [OpeningSize].
//  2. B parses it ([Parse]), finds or computes the key of the pair, checks the integrity ([Message.Verify]) and answers with
//     [CheckResponse.Encode]: A's address as B sees it, B's key, and whether B has itself validated that address.
//  3. If it has not, B sends a challenge of its own: the same request without the padding, [ChallengeSize].
//  4. A answers that. Now each has had an answer, keyed and from the address it asked: the path is validated both ways.
//
// The address of a request proves nothing (anybody can forge or replay one), so what B sends in stages 2 and 3 is never more, IP and
// UDP headers included, than what it received in stage 1: the sizes below are chosen for that, and [Budget] enforces it.
//
// Nothing of a message may be trusted before [Message.Verify] has accepted it. Parsing is strict: one length, known attributes in
// a fixed form, integrity last.
package nat

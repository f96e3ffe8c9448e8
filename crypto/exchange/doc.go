// Package exchange agrees on the post-quantum key of a tunnel: a pure machine, one for each peer, that turns messages into preshared keys.
//
//  1. Who wants a key sends an Offer: a fresh X-Wing public key (X25519 and ML-KEM-768, draft-connolly-cfrg-xwing-kem) and the epoch it is for.
//  2. The other encapsulates to it and answers with an Accept. Both now hold the X-Wing secret.
//  3. Each derives the PSK from that secret and the TLS exporter of the channel the messages went over, bound to both node IDs and the epoch. So
//     a key is as strong as the stronger of X-Wing and the channel, and cannot be moved to another pair, epoch or connection.
//  4. The Confirm shows that the first side holds the same key. Only then does the second use it.
//  5. The second side's word that the key is in place, or the first WireGuard handshake under it, shows the first side the same (Proven).
//
// The state is two independent halves and the keys they lead to:
//
//	ours:    idle ──Start──▶ offered ──HandleAccept──▶ idle, the key is current
//	                         offered ──Abandon, or a peer's offer that goes on──▶ idle
//	theirs:  none ──HandleOffer──▶ pending ──HandleConfirm or Proven──▶ none, the key is current
//	                               pending ──a newer key──▶ none
//	keys:    current ──a newer key──▶ previous ──a newer key──▶ wiped
//
// When both sides offer at once, the offer of the lower node ID goes on and the other is given up (ErrYield), once: a peer that offers again
// has not seen ours, so then ours is given up. Likewise a side that has answered gives way with its own start, once, to the Confirm it waits for.
//
// Nothing that gets lost strands a pair. A lost Offer or Accept: the next offer has a higher epoch. A lost Confirm: the first side is one epoch
// ahead; the second takes up the pending key when a WireGuard handshake proves it (Proven), else the next offer replaces it, and until then
// both have the earlier key (Current here, Previous there). A lost state: the restarted side says so in its offer (Fresh), which is taken at any
// epoch, and so are the later ones of its series even if none was confirmed. There is no key without an X-Wing secret in it, and none to fall back to.
//
// Keys of the current, the previous and the pending epoch are held; older ones, seeds and secrets are overwritten as far as Go allows: a
// stack that grew, and the libraries' own variables, may still hold a copy until they are reused.
//
// The machine has no clock, does no I/O and starts no goroutine; it is not safe for concurrent use. It trusts nothing in a message beyond what the
// channel has authenticated: that the peer sent it.
package exchange

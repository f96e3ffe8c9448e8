// Package exchange agrees on the post-quantum key of a tunnel: a pure machine, one for each peer, that turns messages into preshared keys.
//
//  1. Who wants a key sends an Offer: a fresh X-Wing public key (X25519 and ML-KEM-768, draft-connolly-cfrg-xwing-kem) and the epoch it is for.
//  2. The other encapsulates to it and answers with an Accept. Both now hold the X-Wing secret.
//  3. Each derives the PSK from that secret and the TLS exporter of the channel the messages went over, bound to both node IDs and the epoch. So
//     a key is as strong as the stronger of X-Wing and the channel, and cannot be moved to another pair, epoch or connection.
//  4. The Confirm shows that the first side holds the same key. Only then does the second use it.
//
// When both sides offer at once, the offer of the lower node ID goes on and the other is given up (ErrYield). A side that has lost its state says so
// in its offer (Fresh) and begins again at any epoch. Keys of the current and the previous epoch are held, older ones are wiped.
//
// The machine has no clock, does no I/O and starts no goroutine; it is not safe for concurrent use. It trusts nothing in a message beyond what the
// channel has authenticated: that the peer sent it.
package exchange

// Package control carries everything that nodes tell each other outside the tunnels: authenticated QUIC connections by node ID,
// streams by protocol name.
//
// A connection comes to be in stages, the same for who dials and who is dialed:
//
//  1. The underlay finds a path (Network.Connect). QUIC sees no IP address, only an underlay.Addr, the peer's WireGuard key.
//  2. QUIC handshake, TLS 1.3 with X25519MLKEM768 and nothing else; each side shows a self-signed Ed25519 certificate that says
//     nothing but its key (tls.go). A peer with classical groups only is refused here, in both directions.
//  3. Hello, on the first stream (hello.go, handshake.go): each side proves with an ML-DSA signature over the TLS exporter that the
//     connection ends at its identity, and shows its member certificate. The dialer speaks first; a node shows its certificate
//     chain to who dialed it only after that one has proven to be a member.
//  4. The connection enters the pool (pool.go). All streams to a peer share one connection. When both sides dialed at once both
//     choose the same one of the two for what is opened from then on; the other ends by itself when its streams have.
//  5. A stream opens with the name of its protocol and is answered with one byte (open.go, serve.go): that answer is also how a
//     connection to a peer that has been restarted is found out and replaced.
//
// Who may do what: a member may open every protocol; a stranger (no certificate, or we are not enrolled and cannot judge) only
// those registered for Anyone. A certificate that is revoked, expired or of another mesh closes the connection with a code and a
// reason, which the other side's caller gets as *Refused.
//
// Goroutines, all owned by the Host and waited for in Close: one that accepts connections, one a connection that accepts its
// streams (for a connection we made, the one that dialed it), one a stream that is served, one a sign of life that is waited for, and
// one that calls the connection watchers. quic-go has its own, which end with the transport.
//
// It trusts its own key, the clock for the life of certificates, and the mesh root behind Config.Trust. It does not trust the
// underlay: that an address belongs to a node is proven anew by the hello. Everything a stranger can make it do is bounded in
// limits.go.
package control

package control

import "time"

// What we wait for, and how long.
const (
	// handshakeTimeout is how long a QUIC handshake may be silent: five times the worst round trip we serve (1 s over a relay).
	handshakeTimeout = 5 * time.Second
	// helloTimeout is how long a peer may take for its hello once TLS is up; a member needs one round trip and 2 ms of CPU.
	helloTimeout = 5 * time.Second
	// dialTimeout bounds a dial as a whole: finding a path, the handshake and the hello.
	dialTimeout = 15 * time.Second
	// openTimeout is how long a live peer may take to answer a stream's header. The answer does not wait for the handler, so it
	// takes a round trip and, when packets are lost, a few retransmissions. A connection that takes longer is given up.
	openTimeout = 3 * time.Second
	// suspectTimeout is the same for a peer that gossip already doubts.
	suspectTimeout = 1500 * time.Millisecond
	// headerTimeout is how long who opened a stream may take to name its protocol.
	headerTimeout = 5 * time.Second
	// idleTimeout ends connections that carry nothing. Streams that are silent for longer need a keep-alive of their own.
	idleTimeout = 60 * time.Second
)

// What we take in.
const (
	// helloMax is the largest hello in bytes: identity 2 KiB, chain up to 24 KiB, signature 3.3 KiB, and framing.
	helloMax = 32 << 10
	// protocolMax is the longest protocol name in bytes.
	protocolMax = 32
	// reasonMax is the longest reason in bytes that we send or show; it must fit one packet with the close frame.
	reasonMax = 200

	// streamsMax is how many streams a member may have open with us on one connection. Raft, gossip, exchange and state need a
	// handful; a DHT lookup opens up to 20 at once.
	streamsMax = 256
	// strangerStreamsMax is the same for strangers: an enrolment is one stream, a retry a second.
	strangerStreamsMax = 4

	// The receive windows bound the memory a peer can make us hold unread: one stream starts at 128 KiB and may grow to 1 MiB
	// (10 ms round trip at 800 Mbit/s), all streams of a connection together to 4 MiB.
	streamWindow        = 128 << 10
	streamWindowMax     = 1 << 20
	connectionWindow    = 256 << 10
	connectionWindowMax = 4 << 20
	// strangerWindow holds an enrolment request (a hello and 6 KiB) with room to spare.
	strangerWindow = 64 << 10

	// initialPacketSize is the UDP payload of our packets: QUIC's minimum (RFC 9000 §14.1), which leaves 1280-byte paths 80 bytes
	// for IP, UDP and a relay frame. The underlay knows the path's MTU, quic-go cannot probe it through a PacketConn.
	initialPacketSize = 1200
	// connectionIDSize in bytes keeps the connection IDs of successive runs of a node apart (2^64), so that a stateless reset
	// always means what it says.
	connectionIDSize = 8
)

// How many we serve.
const (
	// connectionsMax bounds all incoming connections; at about 130 KB each, 2,048 cost 260 MB at worst. A node of a large mesh
	// talks to a few dozen.
	connectionsMax = 2048
	// connectionsPerPeerMax is how many connections with one member we keep: one in use, one from a simultaneous dial, and their
	// successors after a renewal.
	connectionsPerPeerMax = 4
	// strangersMax bounds connections with those that have not proven to be members, those still in their hello included.
	strangersMax = 64
	// strangersPerAddrMax is the same for one underlay address, which is one WireGuard key. A node that both dials and is
	// restarted uses two.
	strangersPerAddrMax = 4
	// strangerRate and strangerBurst bound the handshakes we compute for unknown keys, 1.7 ms of CPU each, to a tenth of a core.
	strangerRate  = 50
	strangerBurst = 100
	// protocolsMax bounds the registered protocols; the mesh has eight.
	protocolsMax = 64
)

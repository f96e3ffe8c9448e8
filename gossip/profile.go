package gossip

import (
	"time"

	"github.com/hashicorp/memberlist"
)

// Profile holds the timing of a pool. n is the number of members in all formulas, log is to base 10. Who pays for a smaller value
// is said at each field.
type Profile struct {
	// Name is shown in logs and status.
	Name string

	// ProbeInterval is the time between two probes that a node sends. A node is probed once an interval on average whatever n is.
	// Smaller: faster detection, more packets (two each way an interval).
	ProbeInterval time.Duration
	// ProbeTimeout is how long the direct answer may take before others are asked to probe. It must be over the slowest usual
	// round trip and under ProbeInterval/2 less one round trip, or the helpers' "no answer either" comes too late and the prober
	// takes itself for the sick one (Lifeguard's health score).
	ProbeTimeout time.Duration
	// CalmInterval is the time between two probes that are really sent while nobody has come, gone or been suspected for AlertTime
	// (calm.go). Smaller: a death is noticed sooner after a long calm, at 190 bytes each way a probe, headers and answer included. A
	// member is probed once a CalmInterval on average whatever n is. Zero: every probe is sent.
	CalmInterval time.Duration
	AlertTime    time.Duration
	// IndirectChecks is how many others are asked after a failed direct probe. Each costs two packets.
	IndirectChecks int

	// SuspicionMult fixes the time in which a suspect can still refute:
	//
	//	least = SuspicionMult × max(1, log n) × ProbeInterval
	//
	// It is reached when SuspicionMult-2 others confirm the suspicion (at once if n-2 are fewer than that).
	SuspicionMult int
	// SuspicionMaxMult bounds it when nobody confirms: most = SuspicionMaxMult × least.
	SuspicionMaxMult int

	// GossipInterval and GossipNodes: every interval, up to GossipNodes members get what is waiting to be spread. A message reaches
	// all in about log(n)/log(1+GossipNodes) intervals (natural logarithms). Nothing is sent when nothing is waiting.
	GossipInterval time.Duration
	GossipNodes    int
	// RetransmitMult: a message is sent RetransmitMult × ceil(log(n+1)) times by each node that has it, to members picked by chance.
	// Memberlist's usual 4 leaves one of four members out in one case of six when only one node spreads the news, as when the
	// others cannot accept a newcomer yet; 8 in one of forty. It costs only when there is news.
	RetransmitMult int
	// PushPullInterval is the time between two full exchanges with a random member, twice n × 230 to 500 bytes; from 32 members
	// on it is stretched by ceil(log2(n/32)) + 1, and most need a connection of 25 kB first. It repairs what packets lost and digests
	// (calm.go) do not show, so it may be rare.
	PushPullInterval time.Duration

	// DeadTime is how long a dead node is still gossiped to and remembered by memberlist. After it, only the rejoin loop tries.
	DeadTime time.Duration
	// StreamTimeout bounds opening a stream (path, handshake) and each exchange over it.
	StreamTimeout time.Duration
	// RejoinMin and RejoinMax bound the jittered backoff of one absent member: min × 2^attempts, at most max, each ± 50 %.
	RejoinMin time.Duration
	RejoinMax time.Duration
}

// LAN returns the profile for members that reach each other within about 50 ms.
//
// Death of a killed node among five: in the first 10 s after any change the next probe of it comes after 0.5 to 1 s (four probers, each
// passing it every fourth interval), takes one interval to fail, and with the two confirmations that come meanwhile the suspicion lasts
// 4 × 1 × 0.5 = 2 s: 3 to 5 s in all (measured 2.8 to 4.3). At worst, with nobody confirming, 4 × 2 = 8 s of suspicion. After a
// longer calm the first probe comes after 10 s on average; who uses the node learns from its path within a second.
//
// Idle cost per node, sent (as much is received): every 10 s one probe and one answer of about 96 bytes each, with IPv4 and UDP headers
// and the seal: 19 B/s or 1.7 MB a day whatever n is. Push/pull: n × 230 to 500 bytes, by the size of the records, once of our
// own accord and once asked, in an hour, each over a new connection: 0.6 MB a day and n × 0.02.
func LAN() Profile {
	return Profile{
		Name:          "lan",
		ProbeInterval: 500 * time.Millisecond, ProbeTimeout: 200 * time.Millisecond, IndirectChecks: 3,
		CalmInterval: 10 * time.Second, AlertTime: 10 * time.Second,
		SuspicionMult: 4, SuspicionMaxMult: 4,
		GossipInterval: 200 * time.Millisecond, GossipNodes: 3, RetransmitMult: 8,
		PushPullInterval: time.Hour,
		DeadTime:         30 * time.Second,
		StreamTimeout:    5 * time.Second,
		RejoinMin:        500 * time.Millisecond, RejoinMax: 30 * time.Second,
	}
}

// WAN returns the profile for members on different continents, up to about 400 ms apart, and for large pools.
//
// Death of a killed node: suspicion of 5 × log n × 2 s, 10 s up to ten members, 30 s at a thousand, after a probe of 2 s, or of 15 s on
// average after a calm. Idle cost: two thirds of the LAN profile's probes, 1.1 MB a day, and the same push/pull.
func WAN() Profile {
	return Profile{
		Name:          "wan",
		ProbeInterval: 2 * time.Second, ProbeTimeout: 700 * time.Millisecond, IndirectChecks: 3,
		CalmInterval: 15 * time.Second, AlertTime: 30 * time.Second,
		SuspicionMult: 5, SuspicionMaxMult: 4,
		GossipInterval: 300 * time.Millisecond, GossipNodes: 4, RetransmitMult: 6,
		PushPullInterval: time.Hour,
		DeadTime:         60 * time.Second,
		StreamTimeout:    15 * time.Second,
		RejoinMin:        time.Second, RejoinMax: 60 * time.Second,
	}
}

const (
	// overlayPort stands in every member's memberlist address. Memberlist wants one; nothing is ever sent to it.
	overlayPort = 7946

	// packetMax is what memberlist may put in one packet, in bytes, so that a sealed one fits the smallest IPv6 link: 1280 less the
	// IPv6 (40) and UDP (8) headers, the underlay's type byte (1), a relay frame around it (16), the seal, and the checksum that
	// memberlist adds after having counted.
	packetMax        = 1280 - 40 - 8 - 1 - 16 - sealOverhead - checksumOverhead
	checksumOverhead = 5

	// handoffMax is memberlist's queue of packets read but not handled, about 0.7 MB. More than a node that keeps up ever has.
	handoffMax = 1024
	// awarenessMax lets a node that misses its own deadlines stretch its probes up to this factor (Lifeguard).
	awarenessMax = 8
	// queueCheck is how often memberlist samples its queue for a metrics sink that we do not use.
	queueCheck = time.Hour
)

// memberlistConfig returns the profile as memberlist wants it.
func (f Profile) memberlistConfig() *memberlist.Config {
	return &memberlist.Config{
		ProtocolVersion:         memberlist.ProtocolVersion2Compatible,
		TCPTimeout:              f.StreamTimeout,
		IndirectChecks:          f.IndirectChecks,
		RetransmitMult:          f.RetransmitMult,
		SuspicionMult:           f.SuspicionMult,
		SuspicionMaxTimeoutMult: f.SuspicionMaxMult,
		PushPullInterval:        f.PushPullInterval,
		ProbeInterval:           f.ProbeInterval,
		ProbeTimeout:            f.ProbeTimeout,
		AwarenessMaxMultiplier:  awarenessMax,
		GossipInterval:          f.GossipInterval,
		GossipNodes:             f.GossipNodes,
		GossipToTheDeadTime:     f.DeadTime,
		HandoffQueueDepth:       handoffMax,
		UDPBufferSize:           packetMax,
		BindPort:                overlayPort,
		AdvertisePort:           overlayPort,
		RequireNodeNames:        true,
		QueueCheckInterval:      queueCheck,
		// Signatures and keys do not compress, and what is never unpacked cannot be a bomb.
		EnableCompression: false,
		// An address belongs to one node ID for ever, so nobody reclaims a name from another address.
		DeadNodeReclaimTime: 0,
	}
}

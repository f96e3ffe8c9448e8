package underlay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

// Bounds of the queues, in packets.
const (
	quicQueue     = 1024 // a flow-control window of 1.2 MB
	gossipQueue   = 512  // a second of gossip in a pool of thousands
	checksQueue   = 256  // from validated sources
	knocksQueue   = 256  // from all others
	answersQueue  = 256  // as many as there are addresses in 16 searches at once
	commandsQueue = 64
	orphansQueue  = 64
	assistsQueue  = 256 // what finds no room is asked for again by the next search
)

// Config is what a socket is made of.
type Config struct {
	Key   *identity.Key
	Peers *peer.Table
	// Bind opens the UDP sockets; nil: the system's (udp.go). The simulator and tests give their own. The endpoints its ReceiveFuncs
	// return must stay valid; *conn.StdNetEndpoint, or anything with Addr and Port methods, is read fastest.
	Bind conn.Bind
	// Port is the UDP port, 0 for any.
	Port uint16
	// Listen are the local addresses to accept packets on and to offer; empty: all, but loopback is not offered.
	Listen []netip.Addr
	// Interfaces lists the machine's addresses; nil: those of Bind if it has a method Addresses() []netip.Addr, else the system's.
	Interfaces func() ([]netip.Addr, error)
	// Exclude names addresses that are never offered and never tried: those of our own overlay. May be nil.
	Exclude func(netip.Addr) bool
	// Pipes: accept TCP connections of nodes whose UDP is blocked, on the port of the same number. Opening them needs no permission.
	Pipes bool
	// ListenTCP and DialTCP open TCP sockets; nil: those of Bind if it has methods of these names, the system's if it is the system's,
	// and else there are no pipes.
	ListenTCP func(netip.AddrPort) (net.Listener, error)
	DialTCP   func(context.Context, netip.AddrPort) (net.Conn, error)
	// OpenSpare opens one more UDP socket on any port, for [Socket.FanOut]; nil: as for TCP.
	OpenSpare func() (net.PacketConn, error)
	// RelayCapacity is what this node relays for others; zero: it is no relay.
	RelayCapacity RelayCapacity
	// Assist is told of every member for which a search begins while there is no working direct path, so that it may find other ways and have
	// them tried ([Socket.Try]). It is called on a goroutine of its own. With it, a search for a node without addresses goes on, too. May be nil.
	Assist func(identity.NodeID)
	// Changes is signalled when addresses, routes or interfaces of the machine have changed, or it has slept: every path is in doubt
	// then. nil: addresses are looked at every 15 seconds.
	Changes <-chan struct{}
	// Measured is told of every round trip that is measured on a member's active path. It must return at once. May be nil.
	Measured func(id identity.NodeID, rtt time.Duration)
	Rand     io.Reader
	Log      *slog.Logger
}

// Socket is the node's one UDP port, and everything that knows where other nodes are.
type Socket struct {
	// Constant after Open.
	key     *identity.Key
	public  identity.WireGuardKey
	peers   *peer.Table
	bind    conn.Bind
	port    uint16
	listen  map[netip.Addr]bool // nil: all
	cfg     Config
	log     *slog.Logger
	start   time.Time
	wakeup  []byte // what a packet to ourselves carries
	readers []*reader

	stats        counters
	sources      sources
	nodes        nodeTable
	transactions transactions
	knocks       *limiter
	newKeys      *limiter
	links        links
	channels     channels
	relay        *relay
	local        atomic.Pointer[[]netip.Addr]
	observed     observed
	watchers     watchers
	pipes        pipes
	fans         chan struct{}           // a token for each fan under way
	session      atomic.Pointer[session] // the attached device's
	attaching    sync.Mutex              // serialises Open and Close of the device's Bind and the reopening of the real one
	orphanFunc   atomic.Pointer[func(identity.NodeID)]
	randMu       sync.Mutex

	quic     chan quicPacket
	gossip   chan GossipPacket
	checks   chan checkPacket
	strange  chan checkPacket
	answers  chan answer
	commands chan func(*owner)
	orphans  chan identity.NodeID
	assists  chan identity.NodeID
	kick     chan struct{}
	stirred  stirred

	closing sync.Once
	done    chan struct{}
	wg      sync.WaitGroup // the pumps, the owner, the orphans' goroutine
}

// Open opens the UDP port and starts the socket's goroutines, which [Socket.Close] ends. It returns a [*PortError] if the port is
// taken.
func Open(cfg Config) (*Socket, error) {
	if cfg.Key == nil || cfg.Peers == nil {
		return nil, errors.New("underlay: Config needs Key and Peers")
	}
	if cfg.Bind == nil {
		cfg.Bind = newUDPBind()
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := newSocket(cfg)
	if _, err := io.ReadFull(cfg.Rand, s.wakeup[1:]); err != nil {
		return nil, fmt.Errorf("underlay: read randomness: %w", err)
	}
	var err error
	if s.relay, err = newRelay(s, cfg.RelayCapacity); err != nil {
		return nil, err
	}
	receive, port, err := cfg.Bind.Open(cfg.Port)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &PortError{Port: cfg.Port, Err: ErrPortInUse}
	case err != nil:
		return nil, fmt.Errorf("underlay: open UDP port %d: %w", cfg.Port, err)
	}
	s.port = port
	for _, f := range receive {
		s.readers = append(s.readers, newReader(s, f))
	}
	s.refreshLocal()
	if err := s.openPipes(); err != nil {
		cfg.Bind.Close()
		return nil, err
	}
	for _, r := range s.readers {
		s.goRun(r.pump)
	}
	s.goRun((&owner{Socket: s}).run)
	s.goRun(s.reportOrphans)
	s.goRun(s.relay.run)
	if cfg.Assist != nil {
		s.goRun(s.callAssist)
	}
	return s, nil
}

func newSocket(cfg Config) *Socket {
	return &Socket{
		key: cfg.Key, public: cfg.Key.Public().WireGuard, peers: cfg.Peers, bind: cfg.Bind, cfg: cfg, log: cfg.Log,
		listen: listenSet(cfg.Listen), start: time.Now(), wakeup: make([]byte, 16),
		nodes:   nodeTable{byKey: map[identity.WireGuardKey]*node{}},
		knocks:  newLimiter(knocks),
		newKeys: newLimiter(newKeys),
		links:   links{table: newSlots[linkEndpoint](linksMax, 0)},

		quic: make(chan quicPacket, quicQueue), gossip: make(chan GossipPacket, gossipQueue),
		checks: make(chan checkPacket, checksQueue), strange: make(chan checkPacket, knocksQueue),
		answers: make(chan answer, answersQueue), commands: make(chan func(*owner), commandsQueue),
		orphans: make(chan identity.NodeID, orphansQueue), assists: make(chan identity.NodeID, assistsQueue), kick: make(chan struct{}, 1),
		done: make(chan struct{}), fans: make(chan struct{}, fansMax),
	}
}

func (s *Socket) goRun(f func()) { s.wg.Go(f) }

// Close closes the UDP port and waits for the socket's goroutines. A WireGuard device still attached sees its Bind closed.
func (s *Socket) Close() error {
	var err error
	s.closing.Do(func() {
		close(s.done)
		s.attaching.Lock() // not while the port is being opened anew
		err = s.bind.Close()
		s.attaching.Unlock()
		s.pipes.close()
		s.wg.Wait()
	})
	return err
}

// open reports whether the socket has not been closed.
func (s *Socket) open() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Port returns the UDP port.
func (s *Socket) Port() uint16 { return s.port }

// now is the time since Open; never zero, which stands for "never".
func (s *Socket) now() instant { return time.Since(s.start) + 1 }

// when turns an instant back into a time.
func (s *Socket) when(i instant) time.Time { return s.start.Add(i) }

// wake has the owner look soon at what is due, and at the nodes that are stirred.
func (s *Socket) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// fillRandom fills b; the source need not be safe for concurrent use.
func (s *Socket) fillRandom(b []byte) error {
	s.randMu.Lock()
	defer s.randMu.Unlock()
	if _, err := io.ReadFull(s.cfg.Rand, b); err != nil {
		return fmt.Errorf("underlay: read randomness: %w", err)
	}
	return nil
}

// sendTo sends one packet to an address, of UDP or of a link, from whatever local address the system chooses.
func (s *Socket) sendTo(b []byte, to netip.AddrPort) error {
	e, err := s.parseEndpoint(to)
	if err != nil {
		return fmt.Errorf("underlay: address %s: %w", to, err)
	}
	return s.transmit([][]byte{b}, e)
}

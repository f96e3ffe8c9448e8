package control

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/underlay"
)

// Network is what the control plane stands on: packets addressed by WireGuard key, and paths found on request.
// *underlay.Socket is one; tests use an in-memory one.
type Network interface {
	// PacketConn carries QUIC packets to and from underlay.Addr addresses. It honours read deadlines.
	PacketConn() net.PacketConn
	// Connect returns once there is a validated path to the node.
	Connect(ctx context.Context, id identity.NodeID) error
	// AddrOf returns the address of a node that is known.
	AddrOf(id identity.NodeID) (underlay.Addr, bool)
}

// Config is what a Host is made of. Key and Network are required.
type Config struct {
	Key     *identity.Key
	Network Network
	// Trust and Chain return what we verify members with and what we show of ourselves; nil, or returning nil, before enrolment.
	// They are asked anew for every connection, so a renewal or a revocation takes effect at once.
	Trust func() *certificate.Trust
	Chain func() *certificate.Chain
	// Admit is told of every member whose valid chain was shown, with its signed bytes, before any stream of it is served.
	Admit func(m *certificate.Member, raw []byte)
	// Refused is told, besides the caller, when a node turns us away: at the hello, or later on a connection with it. A node that refuses a
	// dialer does so before it has shown a hello: all that is proven is the TLS key, which the receiver compares with the member's it knows.
	// It must not block. Optional.
	Refused func(r *Refused, tlsKey [32]byte)
	// Known reports whether a WireGuard key is a member's, so that strangers cannot take members' places. Optional.
	Known func(identity.WireGuardKey) bool
	// TLSKey returns the Ed25519 key of a member that is known. Who dials it shows what it is only to who holds that key in TLS: a path check
	// proves an address, and somebody on the way can answer there all the same. Optional.
	TLSKey func(identity.NodeID) (key [32]byte, known bool)
	// Member reports whether a node is a member now, by what this node knows. Who has proven to be one gets to see our certificate without
	// showing its own: see [Host.Meet]. Optional.
	Member func(identity.NodeID) bool
	// KeepAlive is the period of QUIC keep-alives, none if zero: idle connections then end after a minute.
	KeepAlive time.Duration
	Rand      io.Reader        // default crypto/rand
	Now       func() time.Time // what the machine believes the time to be, which may be set; default time.Now
	Log       *slog.Logger
}

// Access says who may open a protocol.
type Access uint8

// The kinds of access.
const (
	// MembersOnly admits peers that have proven to be members.
	MembersOnly Access = iota
	// Anyone admits strangers too.
	Anyone
)

// handler serves the streams of one protocol.
type handler struct {
	access Access
	serve  func(ctx context.Context, s *Stream)
	wrap   uint64 // its number, if it was put there by Wrap
}

// Host is a node's end of all its control connections.
type Host struct {
	// Constant after New.
	cfg       Config
	self      identity.NodeID
	instance  [instanceSize]byte
	cert      tls.Certificate
	transport *quic.Transport
	listener  *quic.Listener
	gate      *gate
	events    *events
	log       *slog.Logger

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // everything spawn started

	counters counters

	mu        sync.Mutex // guards what follows; never held while calling out
	closed    bool
	protocols map[string]handler
	wraps     uint64 // calls of Wrap
	links     map[identity.WireGuardKey]*link
	keys      map[identity.NodeID]identity.WireGuardKey // of those in links
}

// New makes a Host that listens on the network and dials from it.
func New(cfg Config) (*Host, error) {
	if cfg.Key == nil || cfg.Network == nil {
		return nil, errors.New("control: Config needs Key and Network")
	}
	cfg = withDefaults(cfg)
	h := &Host{
		cfg: cfg, self: cfg.Key.ID(), log: cfg.Log, gate: newGate(), events: newEvents(),
		protocols: map[string]handler{},
		links:     map[identity.WireGuardKey]*link{}, keys: map[identity.NodeID]identity.WireGuardKey{},
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	if _, err := io.ReadFull(cfg.Rand, h.instance[:]); err != nil {
		return nil, fmt.Errorf("control: read randomness: %w", err)
	}
	var err error
	if h.cert, err = keyCertificate(cfg.Key.Ed25519()); err != nil {
		return nil, err
	}
	if err := h.listen(); err != nil {
		return nil, err
	}
	h.events.live = h.Connected
	h.spawn(h.accept)
	h.spawn(func() { h.events.run(h.ctx) })
	return h, nil
}

func withDefaults(cfg Config) Config {
	if cfg.Trust == nil {
		cfg.Trust = func() *certificate.Trust { return nil }
	}
	if cfg.Chain == nil {
		cfg.Chain = func() *certificate.Chain { return nil }
	}
	if cfg.Admit == nil {
		cfg.Admit = func(*certificate.Member, []byte) {}
	}
	if cfg.Refused == nil {
		cfg.Refused = func(*Refused, [32]byte) {}
	}
	if cfg.Known == nil {
		cfg.Known = func(identity.WireGuardKey) bool { return false }
	}
	if cfg.TLSKey == nil {
		cfg.TLSKey = func(identity.NodeID) (key [32]byte, known bool) { return key, false }
	}
	if cfg.Member == nil {
		cfg.Member = func(identity.NodeID) bool { return false }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg
}

// listen opens the one transport that dials and listens.
func (h *Host) listen() error {
	reset, err := resetKey(h.cfg.Key)
	if err != nil {
		return err
	}
	h.transport = &quic.Transport{
		Conn:                             quietConn{h.cfg.Network.PacketConn()},
		ConnectionIDLength:               connectionIDSize,
		StatelessResetKey:                reset,
		DisableVersionNegotiationPackets: true,
		ConnContext: func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
			key := addrKey(info.RemoteAddr)
			t, err := h.gate.enter(ctx, key, h.known(key))
			if err != nil {
				h.counters.turnedAway.Add(1)
				return nil, err
			}
			return context.WithValue(ctx, ticketKey{}, t), nil
		},
	}
	server := tlsConfig(h.cert, h.cfg.Rand)
	config := quicConfig(h.cfg.KeepAlive)
	config.GetConfigForClient = func(info *quic.ClientInfo) (*quic.Config, error) {
		if h.known(addrKey(info.RemoteAddr)) {
			return quicConfig(h.cfg.KeepAlive), nil
		}
		return strangerConfig(h.cfg.KeepAlive), nil
	}
	if h.listener, err = h.transport.Listen(server, config); err != nil {
		return fmt.Errorf("control: listen for QUIC on the underlay: %w", err)
	}
	return nil
}

// known reports whether the key is a member's, by what the node knows and by who is connected.
func (h *Host) known(key identity.WireGuardKey) bool {
	if h.cfg.Known(key) {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.links[key]
	return l != nil && l.hasMember()
}

// quietConn keeps quic-go from complaining that the buffers of a conn that is no UDP socket cannot be set: the underlay sets them.
type quietConn struct{ net.PacketConn }

func (quietConn) SetReadBuffer(int) error  { return nil }
func (quietConn) SetWriteBuffer(int) error { return nil }

// addrKey returns the WireGuard key behind an address of the underlay; zero, which is nobody's, for any other.
func addrKey(a net.Addr) identity.WireGuardKey {
	switch a := a.(type) {
	case underlay.Addr:
		return a.Key
	case *underlay.Addr:
		return a.Key
	}
	return identity.WireGuardKey{}
}

// Self returns the node's own ID.
func (h *Host) Self() identity.NodeID { return h.self }

// Handle registers what serves the streams of a protocol, before or after connections exist; a second registration replaces the
// first. f runs in a goroutine of its own for every stream and owns the stream: it must close it, in the end also when it passes
// it on. ctx ends when the stream is closed here or its connection ends. Close waits for f to return.
//
// Handle panics when the name is not 1 to 32 bytes of a-z, 0-9, '-', '.' and '/', or is one of more than 64: both are mistakes in
// our own program.
func (h *Host) Handle(protocol string, a Access, f func(ctx context.Context, s *Stream)) {
	if !validProtocol(protocol) {
		panic(fmt.Sprintf("control: invalid protocol name %q", protocol))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.protocols) >= protocolsMax {
		panic("control: too many protocols")
	}
	h.protocols[protocol] = handler{access: a, serve: f}
}

func validProtocol(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '/':
		default:
			return false
		}
	}
	return len(name) >= 1 && len(name) <= protocolMax
}

// handlerOf returns what serves a protocol.
func (h *Host) handlerOf(protocol string) (handler, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.protocols[protocol]
	return p, ok
}

// spawn runs f in a goroutine that Close waits for. It reports false, and runs nothing, once the Host is closed.
func (h *Host) spawn(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.running.Go(f)
	return true
}

// Close ends every connection, telling the peers, and returns when all handlers and goroutines have. The network's PacketConn
// stays open; it is its owner's.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		h.running.Wait()
		return nil
	}
	h.closed = true
	h.mu.Unlock()

	err := h.listener.Close()
	h.cancel() // whoever runs a connection now closes it
	h.running.Wait()
	return errors.Join(err, h.transport.Close())
}

// accept takes incoming connections until the listener closes.
func (h *Host) accept() {
	for {
		qc, err := h.listener.Accept(h.ctx)
		if err != nil {
			return
		}
		if !h.spawn(func() { h.welcome(qc) }) {
			closeQUIC(qc, ReasonClosing, "")
		}
	}
}

package dataplane

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"github.com/phantommesh/phantommesh/control"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

const (
	// DefaultRekeyInterval is the age at which the key of an active tunnel is replaced.
	DefaultRekeyInterval = 120 * time.Second
	// DefaultIdleAfter is the silence after which a tunnel is taken down.
	DefaultIdleAfter = 5 * time.Minute
	// unreachableRate and unreachableBurst bound ICMP errors to the host per second (RFC 4443 §2.4 f asks for a bound).
	unreachableRate  = 100
	unreachableBurst = 50
)

// Config is what a Plane is made of.
type Config struct {
	// Who we are.
	Key  *identity.Key
	Self identity.NodeID
	Mesh identity.MeshID

	// What it stands on. Control or Streams; the others are required unless said otherwise.
	Bind    conn.Bind // the underlay's, whose endpoints are node IDs
	Peers   *peer.Table
	Control *control.Host
	Streams Streams                                             // nil: Control's
	Connect func(ctx context.Context, id identity.NodeID) error // finds a path; nil: opening a stream does
	Orphans func(func(id identity.NodeID))                      // registers who is told of WireGuard packets without a peer; may be nil
	Known   func(key identity.WireGuardKey, has bool)           // told for which keys there is a peer; may be nil

	// Network is the host's side; the plane closes it.
	Network Interface
	// Overlay are the address ranges of the mesh. Empty: those of Network's addresses and the mesh's own IPv6 range.
	Overlay []netip.Prefix
	// Filter decides on packets; nil: all pass.
	Filter Filter
	// Resolve turns a name into overlay addresses for the proxies. Nil: names and IDs of Peers.
	Resolve func(name string) []netip.Addr

	// PathMTU returns how many bytes a packet in the tunnel to a member may have on the path that is in use, zero if that is not known
	// yet; it is called by the conductor and must not block. Nil: what fits the interface fits every path. Paths, if not nil, registers for
	// a signal after some path has changed; cancel ends it.
	PathMTU func(identity.NodeID) int
	Paths   func() (changed <-chan struct{}, cancel func())

	// RekeyInterval and IdleAfter: zero is the default of each.
	RekeyInterval time.Duration
	IdleAfter     time.Duration
	// InFlight bounds the packets inside the WireGuard device, per direction. Zero: 64; negative: no bound.
	InFlight int

	// OnPeer is told of every WireGuard peer that is made. In a synctest bubble the peers must stay reachable until the process
	// ends: the library drains their queues in finalizers, and those run outside of the bubble. Otherwise nil.
	OnPeer func(*device.Peer)

	Rand io.Reader // nil: crypto/rand
	Log  *slog.Logger
}

// Plane is a node's dataplane: the WireGuard device, its tunnels, and the host's way into them.
type Plane struct {
	// Constant after New.
	cfg       Config
	log       *slog.Logger
	timing    timing
	overlay   overlay
	self4     netip.Addr
	self6     netip.Addr
	streams   Streams
	device    *device.Device
	host      *hostSide
	wire      *wireSide
	conductor *conductor
	slots     chan struct{} // exchanges under way

	// Shared, each safe for concurrent use.
	tunnels     *registry
	filter      atomic.Pointer[Filter]
	in, out     *credits
	inAccount   account
	drops       dropCounters
	counts      exchangeCounters
	unreachable *rate.Limiter
	oversize    *rate.Limiter

	// Owned by the conductor: the tunnel whose peer is being configured.
	making *tunnel

	// Lifecycle.
	ctx     context.Context
	cancel  context.CancelFunc
	mu      sync.Mutex // guards closed against running
	closed  bool
	running sync.WaitGroup
	failure atomic.Pointer[error]
	down    chan struct{} // closed when the device has ended
}

// New makes the plane and brings its device up: from here on it carries packets. It takes over cfg.Network, also when it fails.
func New(cfg Config) (*Plane, error) {
	p, err := newPlane(cfg)
	if err != nil {
		if cfg.Network != nil {
			_ = cfg.Network.Close()
		}
		return nil, err
	}
	p.host = newHostSide(p, cfg.Network)
	p.wire = &wireSide{Bind: cfg.Bind, plane: p}
	if err := p.newDevice(); err != nil {
		p.cancel()
		p.running.Wait()
		return nil, err
	}
	p.goRun(p.conduct)
	p.goRun(p.watchDevice)
	p.streams.Handle(p.answerExchange)
	p.streams.OnConnection(func(id identity.NodeID, up bool) {
		if t := p.tunnels.get(id); t != nil && !up {
			p.post(t, flagLost)
		}
	})
	if cfg.Orphans != nil {
		cfg.Orphans(p.orphan)
	}
	return p, nil
}

// newPlane checks the configuration and fills in its defaults.
func newPlane(cfg Config) (*Plane, error) {
	if cfg.Key == nil || cfg.Bind == nil || cfg.Peers == nil || cfg.Network == nil || (cfg.Control == nil && cfg.Streams == nil) {
		return nil, errors.New("dataplane: Key, Bind, Peers, Network and Control are needed")
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.RekeyInterval <= 0 {
		cfg.RekeyInterval = DefaultRekeyInterval
	}
	if cfg.IdleAfter <= 0 {
		cfg.IdleAfter = DefaultIdleAfter
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = creditDefault
	}
	if cfg.Streams == nil {
		cfg.Streams = overControl(cfg.Control)
	}
	p := &Plane{
		cfg: cfg, log: cfg.Log, timing: timing{rekey: cfg.RekeyInterval, idle: cfg.IdleAfter}, overlay: cfg.Overlay,
		streams: cfg.Streams, conductor: newConductor(), slots: make(chan struct{}, exchangesMax), tunnels: newRegistry(),
		unreachable: rate.NewLimiter(unreachableRate, unreachableBurst),
		oversize:    rate.NewLimiter(unreachableRate, unreachableBurst), down: make(chan struct{}),
	}
	if len(p.overlay) == 0 {
		p.overlay = overlay{identity.OverlayPrefix(cfg.Mesh)}
		for _, a := range cfg.Network.Addresses() {
			p.overlay = append(p.overlay, a.Masked())
		}
	}
	for _, a := range cfg.Network.Addresses() {
		if a.Addr().Is4() {
			p.self4 = a.Addr()
		} else {
			p.self6 = a.Addr()
		}
	}
	p.out = newCredits(cfg.InFlight, func(f func(*account)) { p.tunnels.each(func(t *tunnel) { f(&t.account) }) })
	p.in = newCredits(cfg.InFlight, func(f func(*account)) { f(&p.inAccount) })
	p.SetFilter(cfg.Filter)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// enter counts a goroutine in; false once the plane closes. The caller calls p.running.Done at its end.
func (p *Plane) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.running.Add(1)
	return true
}

// goRun runs f in a goroutine that Close waits for.
func (p *Plane) goRun(f func()) {
	if !p.enter() {
		return
	}
	go func() {
		defer p.running.Done()
		f()
	}()
}

// watchDevice notices when the device ends by itself, which it does when its interface is taken away.
func (p *Plane) watchDevice() {
	<-p.device.Wait()
	if p.ctx.Err() == nil {
		err := fmt.Errorf("%w: its network interface is gone", ErrClosed)
		p.failure.Store(&err)
		p.log.Error("dataplane ended: the network interface was taken away")
		p.cancel()
	}
	close(p.down)
}

// Done is closed when the plane has ended, by Close or because its interface was taken away; Err tells which.
func (p *Plane) Done() <-chan struct{} { return p.down }

// Err is nil until the plane has ended by itself.
func (p *Plane) Err() error {
	if err := p.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Close ends all tunnels, the device, the proxies and the interface, and waits for every goroutine of the plane.
func (p *Plane) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.device.Close()
	p.running.Wait()
	return nil
}

// member returns nil for a member in good standing.
func (p *Plane) member(id identity.NodeID) error {
	e, ok := p.cfg.Peers.Get(id)
	switch {
	case !ok || e.Member == nil || id == p.cfg.Self:
		return ErrNotMember
	case e.Revoked:
		return ErrRevoked
	}
	return nil
}

// orphan is told that WireGuard packets come from a member for whom there is no peer: we have restarted, or dropped the tunnel.
func (p *Plane) orphan(id identity.NodeID) {
	if p.ctx.Err() != nil || p.member(id) != nil {
		return
	}
	e, ok := p.cfg.Peers.Get(id)
	if ok {
		p.post(p.tunnels.enter(e), flagOrphaned)
	}
}

// tunnelFor finds or makes the tunnel for a packet from the host. Nil: the packet has been taken care of.
func (p *Plane) tunnelFor(packet []byte) *tunnel {
	to, ok := destination(packet)
	if !ok || to.IsMulticast() || !p.overlay.contains(to) || p.overlay.broadcast(to) || to == p.self4 || to == p.self6 {
		p.drops.offOverlay.Add(1)
		return nil
	}
	e, ok := p.cfg.Peers.ByAddress(to)
	if !ok || p.member(e.ID) != nil {
		p.drops.noMember.Add(1)
		p.sendUnreachable(packet)
		return nil
	}
	return p.tunnels.enter(e)
}

// sendUnreachable tells the host that a packet's destination can not be reached.
func (p *Plane) sendUnreachable(packet []byte) { p.sendError(packet, unreachable) }

// sendProhibited tells the host that the filter denied a packet.
func (p *Plane) sendProhibited(packet []byte) { p.sendError(packet, prohibited) }

func (p *Plane) sendError(packet []byte, kind func([]byte, netip.Addr) ([]byte, bool)) {
	if len(packet) == 0 || p.ctx.Err() != nil || !p.unreachable.Allow() {
		return
	}
	from := p.self6
	if packet[0]>>4 == 4 {
		// Linux drops an IPv4 packet that comes from an interface with an address of its own as the source (martian): the error comes from
		// where the packet wanted to go.
		from, _ = destination(packet)
	}
	if answer, ok := kind(packet, from); ok {
		_, _ = p.host.inner.Write([][]byte{answer}, headroom)
	}
}

// arrived notes that a batch came in from the wire; packet is its first.
func (p *Plane) arrived(packet []byte) {
	from, ok := source(packet)
	if !ok {
		return
	}
	if t := p.tunnels.now.Load().byAddress[from]; t != nil && !t.received.Load() {
		t.received.Store(true)
		p.noticed(t)
	}
}

// noticed reports the first packet of a tunnel since its last sample, if the conductor wants to know.
func (p *Plane) noticed(t *tunnel) {
	if t.watched.Load() && t.watched.Swap(false) {
		p.post(t, flagWanted)
	}
}

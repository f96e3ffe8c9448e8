package portmap

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/phantommesh/phantommesh/nat"
)

// The protocols' names, as `netcheck` prints them.
const (
	PCP    = "pcp"
	NATPMP = "nat-pmp"
	UPnP   = "upnp"
)

// ErrNoGateway: there is no default route, or none that is known here.
var ErrNoGateway = errors.New("portmap: no default gateway")

// Transport is what a mapping carries.
type Transport uint8

// The transports.
const (
	UDP Transport = iota
	TCP
)

func (t Transport) number() byte { return [...]byte{UDP: 17, TCP: 6}[t] } // IANA protocol numbers
func (t Transport) upnp() string { return [...]string{UDP: "UDP", TCP: "TCP"}[t] }

func (t Transport) String() string { return [...]string{UDP: "udp", TCP: "tcp"}[t] }

// Gateway is the router that is asked, and our own address towards it.
type Gateway struct {
	Addr, Local netip.Addr
}

// Mapping is a port that the router has opened.
type Mapping struct {
	Protocol  string // [PCP], [NATPMP] or [UPnP]
	Transport Transport
	External  netip.AddrPort // where the router takes packets in
	Internal  netip.AddrPort // where it sends them
	Expires   time.Time      // unless renewed, which happens long before
	// Public is false if the router's own address is private or shared: it is behind another NAT, and the port leads nowhere.
	Public bool
}

// Config is what a Mapper needs.
type Config struct {
	Port uint16 // of the UDP socket; the same port is asked for outside
	TCP  bool   // map TCP of the same number too
	// Lifetime is asked for; 0 is two hours, which RFC 6886 §3.3 recommends. Routers may give less.
	Lifetime time.Duration
	// CheckInterval is how often the router is asked whether it has forgotten the mappings; 0 is one minute.
	CheckInterval time.Duration
	// Gateway finds the router; nil is [DefaultGateway].
	Gateway func() (Gateway, error)
	// Changed is signalled when the network has changed. May be nil.
	Changed <-chan struct{}
	Log     *slog.Logger // nil is silent
	// Dial and Listen open sockets; nil are the system's.
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Listen func(ctx context.Context, network, addr string) (net.PacketConn, error)
}

const (
	lifetimeDefault = 2 * time.Hour
	checkDefault    = time.Minute
	// probeTimeout is how long the protocols have to answer; a better one is waited for no longer.
	probeTimeout = 3 * time.Second
	// removeTimeout bounds the end.
	removeTimeout = 2 * time.Second
	// retryFirst and retryMax bound the waits while no router opens a port; they double.
	retryFirst = 30 * time.Second
	retryMax   = 30 * time.Minute
	// renewMax is the longest time without a renewal: some routers count their epoch from the start of the machine and not of the program
	// that keeps the mappings, so that nothing tells of the loss.
	renewMax = 10 * time.Minute
	// lifetimeMin is the shortest lifetime that is taken at its word, against a router that wants to be asked all the time.
	lifetimeMin = 20 * time.Second
)

// request is one mapping as it is asked for; the suggestion is, after the first time, what was granted.
type request struct {
	transport Transport
	internal  uint16
	suggested netip.AddrPort
	lifetime  time.Duration
	nonce     nonce
}

type grant struct {
	external netip.AddrPort
	lifetime time.Duration
}

// protocol is one way to ask a router. It is used by one goroutine at a time.
type protocol interface {
	name() string
	// probe finds out whether the router speaks it.
	probe(ctx context.Context) error
	// add makes or renews a mapping, remove takes it back.
	add(ctx context.Context, r request) (grant, error)
	remove(ctx context.Context, r request) error
	// forgotten reports whether the router has lost the mapping.
	forgotten(ctx context.Context, r request) (bool, error)
}

// Mapper keeps ports open at the router.
type Mapper struct {
	cfg Config
	log *slog.Logger

	// Run's own.
	requests []request
	silent   bool // that nothing was found has been logged

	mu       sync.Mutex // guards what follows
	mappings []Mapping
	watchers map[chan struct{}]bool
}

// New makes a mapper; [Mapper.Run] does the work.
func New(cfg Config) *Mapper {
	m := &Mapper{cfg: cfg, log: cfg.Log, watchers: map[chan struct{}]bool{}}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.cfg.Lifetime == 0 {
		m.cfg.Lifetime = lifetimeDefault
	}
	if m.cfg.CheckInterval == 0 {
		m.cfg.CheckInterval = checkDefault
	}
	transports := []Transport{UDP}
	if cfg.TCP {
		transports = append(transports, TCP)
	}
	for _, t := range transports {
		r := request{transport: t, internal: cfg.Port, suggested: netip.AddrPortFrom(netip.Addr{}, cfg.Port), lifetime: m.cfg.Lifetime}
		rand.Read(r.nonce[:])
		m.requests = append(m.requests, r)
	}
	if m.cfg.Gateway == nil {
		m.cfg.Gateway = func() (Gateway, error) { return DefaultGateway(nil) }
	}
	if m.cfg.Dial == nil {
		m.cfg.Dial = (&net.Dialer{}).DialContext
	}
	if m.cfg.Listen == nil {
		m.cfg.Listen = (&net.ListenConfig{}).ListenPacket
	}
	return m
}

// Mappings returns the ports that are open now.
func (m *Mapper) Mappings() []Mapping {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.mappings)
}

// Watch returns a channel that is signalled after mappings have come, gone or moved; signals are coalesced. cancel ends the watch.
func (m *Mapper) Watch() (changed <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers[c] = true
	return c, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, c)
	}
}

// Run keeps the ports open until ctx ends, then takes the mappings back, in two seconds at most, and returns.
func (m *Mapper) Run(ctx context.Context) {
	retry := retryFirst
	for ctx.Err() == nil {
		gateway, p, err := m.open(ctx)
		if err == nil {
			m.silent, retry = false, retryFirst
			m.keep(ctx, gateway, p)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if !m.silent {
			m.log.Info("no port mapping", "err", err)
			m.silent = true
		}
		if m.wait(ctx, retry) {
			retry = retryFirst
		} else {
			retry = min(2*retry, retryMax)
		}
	}
}

// wait returns true early when the network changes.
func (m *Mapper) wait(ctx context.Context, d time.Duration) (changed bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-m.cfg.Changed:
		return true
	}
	return false
}

// open finds a protocol that maps the ports.
func (m *Mapper) open(ctx context.Context) (Gateway, protocol, error) {
	gateway, err := m.cfg.Gateway()
	if err != nil {
		return gateway, nil, err
	}
	for i := range m.requests {
		// The port as it was, if it was ever granted; no address, as nothing is ours at this router yet.
		r := &m.requests[i]
		r.suggested = netip.AddrPortFrom(netip.Addr{}, r.suggested.Port())
	}
	errs := []error{fmt.Errorf("portmap: gateway %s", gateway.Addr)}
	for p, err := range m.probe(ctx, gateway) {
		if err == nil {
			if err = m.renew(ctx, gateway, p); err == nil {
				return gateway, p, nil
			}
			m.takeBack(ctx, p)
		}
		errs = append(errs, fmt.Errorf("%s: %w", p.name(), err))
	}
	return gateway, nil, errors.Join(errs...)
}

// probe asks by all protocols side by side, and yields them with the outcome, the best first and as soon as it is known.
func (m *Mapper) probe(ctx context.Context, g Gateway) func(yield func(protocol, error) bool) {
	x := exchange{gateway: g, dial: m.cfg.Dial}
	all := []protocol{&pcp{exchange: x}, &natpmp{exchange: x}, &upnp{gateway: g, dial: m.cfg.Dial, listen: m.cfg.Listen}}
	return func(yield func(protocol, error) bool) {
		probes, cancel := context.WithTimeout(ctx, probeTimeout)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		results := make([]chan error, len(all))
		for i, p := range all {
			results[i] = make(chan error, 1)
			running.Go(func() { results[i] <- p.probe(probes) })
		}
		for i, p := range all {
			if !yield(p, <-results[i]) {
				return
			}
		}
	}
}

// renew makes or renews the mappings and publishes them. Without UDP there is none; TCP may fail alone.
func (m *Mapper) renew(ctx context.Context, g Gateway, p protocol) error {
	var now []Mapping
	for i := range m.requests {
		r := &m.requests[i]
		got, err := p.add(ctx, *r)
		if err != nil && r.transport == UDP {
			return err
		}
		if err != nil {
			m.log.Debug("TCP port not mapped", "err", err)
			continue
		}
		r.suggested = got.external
		now = append(now, Mapping{Protocol: p.name(), Transport: r.transport, External: got.external,
			Internal: netip.AddrPortFrom(g.Local, r.internal), Expires: time.Now().Add(max(got.lifetime, lifetimeMin)), Public: nat.IsPublic(got.external.Addr())})
	}
	m.publish(now)
	return nil
}

// keep renews the mappings until they are lost, the network changes or ctx ends; then they are withdrawn.
func (m *Mapper) keep(ctx context.Context, g Gateway, p protocol) {
	due := m.half()
	for {
		if m.wait(ctx, min(time.Until(due), m.cfg.CheckInterval)) {
			if now, err := m.cfg.Gateway(); err != nil || now != g {
				m.log.Info("port mapping given up: another network")
				m.publish(nil) // the old router is not there to be told
				return
			}
			due = time.Now() // the same router, but it may have been restarted
		}
		if ctx.Err() != nil {
			m.takeBack(ctx, p)
			m.publish(nil)
			return
		}
		if time.Now().Before(due) && !m.forgotten(ctx, p) || ctx.Err() != nil {
			continue
		}
		if err := m.renew(ctx, g, p); err != nil {
			if ctx.Err() != nil {
				continue
			}
			m.log.Info("port mapping lost", "protocol", p.name(), "err", err)
			m.publish(nil)
			return
		}
		due = m.half()
	}
}

// half is when half the lifetime will be over of what was just granted, or [renewMax].
func (m *Mapper) half() time.Time {
	return time.Now().Add(min(time.Until(m.Mappings()[0].Expires)/2, renewMax))
}

// forgotten asks the router whether the mapping is still there. No answer is taken for a no: what follows is a renewal, which repeats itself.
func (m *Mapper) forgotten(ctx context.Context, p protocol) bool {
	forgotten, err := p.forgotten(ctx, m.requests[0])
	if forgotten {
		m.log.Info("the router has forgotten the port mapping")
	}
	return forgotten || err != nil
}

// takeBack removes the mappings, if the router answers in time.
func (m *Mapper) takeBack(ctx context.Context, p protocol) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	for _, r := range m.requests {
		if !r.suggested.Addr().IsValid() {
			continue // never granted
		}
		if err := p.remove(ctx, r); err != nil {
			m.log.Debug("port mapping not removed", "err", err)
		}
	}
}

func (m *Mapper) publish(now []Mapping) {
	m.mu.Lock()
	defer m.mu.Unlock()
	same := slices.EqualFunc(m.mappings, now, func(a, b Mapping) bool {
		a.Expires = b.Expires
		return a == b
	})
	m.mappings = now
	if same {
		return
	}
	for _, g := range now {
		m.log.Info("port mapped", "protocol", g.Protocol, "transport", g.Transport.String(), "addr", g.External.String(), "public", g.Public)
	}
	for c := range m.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

package discovery

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// answerAgain is the least time between two beacons into one segment, whoever asks how often: a flood of questions is answered four times a
	// second. RFC 6762 §6 asks for a second; a search of 1.5 s that loses a packet could not wait so long.
	answerAgain = 250 * time.Millisecond
	// announceAgain is when a beacon that has changed is sent once more (RFC 6762 §8.3).
	announceAgain = time.Second
	// refreshAfter: beacons of members are repeated before they expire elsewhere (RFC 6762 §5.2 has the asker ask; ours do not).
	refreshAfter = neighbourLife / 2
	// parseRate and parseBurst bound the packets that are looked at, some 2 µs each: a LAN at rest has a few a second, and one of many machines
	// that all start a few hundred.
	parseRate  = 500
	parseBurst = 500
	// floodLog is the least time between two lines in the log about packets that were left out.
	floodLog = time.Minute
	readWait = 100 * time.Millisecond // after a failed read
)

// searchAt are the times of the questions of a search.
var searchAt = []time.Duration{0, 300 * time.Millisecond, 800 * time.Millisecond}

// LANConfig is what OpenLAN needs.
type LANConfig struct {
	// Exclude says which of our own addresses are of no LAN: an interface that has one is left out. nil: none.
	Exclude func(netip.Addr) bool
	// Listen are the only addresses that the node is bound to: other interfaces are left out. Empty: all.
	Listen []netip.Addr
	// Changes signals that the machine's network has changed; nil: it is looked at every half minute only.
	Changes <-chan struct{}
	// Multicast is the LAN; nil: the host's own.
	Multicast Multicast
	Rand      io.Reader // nil: crypto/rand
	Log       *slog.Logger
}

// LANStats counts since OpenLAN.
type LANStats struct {
	Sent, Received uint64
	Malformed      uint64 // claimed to be a beacon and was none
	OffLink        uint64 // from beyond a router, or a source of another network
	Flooded        uint64 // not looked at, for being too many
	Full           uint64 // beacons left out for want of room
}

// LAN tells the local networks which mesh this machine is in, and hears the same of others. It is safe for concurrent use.
type LAN struct {
	cfg    LANConfig
	label  string
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup // a reader for each family, and the keeper
	limit  *rate.Limiter
	wake   chan struct{} // 1: announce

	mu       sync.Mutex // guards what follows, and the use of cfg.Multicast but for Read
	own      *Beacon    // nil: silent
	cache    neighbours
	segments []Segment
	answered map[answerKey]time.Time
	changed  chan struct{} // closed when the cache changes
	stats    LANStats
	warned   time.Time
}

type answerKey struct{ family, segment int }

// OpenLAN begins to listen. It says nothing until Announce or Search.
func OpenLAN(cfg LANConfig) (*LAN, error) {
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Exclude == nil {
		cfg.Exclude = func(netip.Addr) bool { return false }
	}
	var label [labelSize / 2]byte
	if _, err := io.ReadFull(cfg.Rand, label[:]); err != nil {
		return nil, fmt.Errorf("discovery: read randomness: %w", err)
	}
	l := &LAN{cfg: cfg, label: hex.EncodeToString(label[:]), limit: rate.NewLimiter(parseRate, parseBurst), wake: make(chan struct{}, 1),
		cache: neighbours{byKey: map[neighbourKey]Neighbour{}}, answered: map[answerKey]time.Time{}, changed: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if l.cfg.Multicast == nil {
		m, err := openMulticast(l.ctx)
		if err != nil {
			l.cancel()
			return nil, fmt.Errorf("discovery: listen for beacons on UDP port %d: %w", mdnsPort, err)
		}
		l.cfg.Multicast = m
	}
	l.refresh()
	for _, family := range l.cfg.Multicast.Families() {
		l.tasks.Go(func() { l.read(family) })
	}
	l.tasks.Go(l.keep)
	return l, nil
}

// Label is what this machine's beacons are called. Of two that look for a mesh at once, the one with the lower label founds it.
func (l *LAN) Label() string { return l.label }

// Announce sets what the beacons say from now on, and sends one into every segment. The label is set here.
func (l *LAN) Announce(b Beacon) error {
	b.Label, b.Addrs, b.Bye = l.label, nil, false
	if err := b.check(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own = &b
	l.sayLocked(b, true)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// Silence takes the beacon back.
func (l *LAN) Silence() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silenceLocked()
}

func (l *LAN) silenceLocked() {
	if l.own == nil {
		return
	}
	bye := *l.own
	bye.Bye, l.own = true, nil
	l.sayLocked(bye, true)
}

// sayLocked sends a beacon into every segment, into those that had one just now only if it is news.
func (l *LAN) sayLocked(b Beacon, news bool) {
	for _, s := range l.segments {
		for _, family := range l.cfg.Multicast.Families() {
			l.sayOnLocked(b, family, s, news)
		}
	}
}

func (l *LAN) sayOnLocked(b Beacon, family int, s Segment, news bool) {
	key, now := answerKey{family, s.Index}, time.Now()
	if last, ok := l.answered[key]; ok && !news && now.Sub(last) < answerAgain {
		return
	}
	b.Addrs = nil
	for _, p := range s.Prefixes {
		if a := p.Addr(); family == 6 && a.Is6() && !a.IsLinkLocalUnicast() && len(b.Addrs) < beaconAddrsMax {
			b.Addrs = append(b.Addrs, a)
		}
	}
	raw, err := encodeBeacon(b)
	if err != nil {
		l.cfg.Log.Error("beacon not made", "err", err)
		return
	}
	l.answered[key] = now
	l.sendLocked(family, s, raw)
}

func (l *LAN) sendLocked(family int, s Segment, raw []byte) {
	if !s.has(family) {
		return
	}
	if err := l.cfg.Multicast.Send(family, s, raw); err != nil {
		l.cfg.Log.Debug("no multicast on this interface", "interface", s.Name, "err", err)
		return
	}
	l.stats.Sent++
}

// has reports whether we have an address of the family there.
func (s Segment) has(family int) bool {
	return slices.ContainsFunc(s.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() == (family == 4) })
}

// Ask asks all segments who is there.
func (l *LAN) Ask() {
	raw, err := encodeQuery()
	if err != nil {
		l.cfg.Log.Error("question not made", "err", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		for _, family := range l.cfg.Multicast.Families() {
			l.sendLocked(family, s, raw)
		}
	}
}

// Search asks, and returns who is there: after most, or earlier once enough says that it is enough, but not before least, in which others may
// answer as well. When ctx ends it returns whom it knows.
func (l *LAN) Search(ctx context.Context, least, most time.Duration, enough func([]Neighbour) bool) []Neighbour {
	began, questions := time.Now(), searchAt
	for {
		changed, found, elapsed := l.Changed(), l.Neighbours(), time.Since(began)
		if elapsed >= most || ctx.Err() != nil || elapsed >= least && enough(found) {
			return found
		}
		if len(questions) > 0 && elapsed >= questions[0] {
			l.Ask()
			questions = questions[1:]
			continue
		}
		next := most
		if elapsed < least {
			next = min(next, least)
		}
		if len(questions) > 0 {
			next = min(next, questions[0])
		}
		timer := time.NewTimer(next - elapsed)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// Neighbours returns who is there, as far as was heard.
func (l *LAN) Neighbours() []Neighbour {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cache.list(time.Now())
}

// Changed returns a channel that is closed when who is there changes.
func (l *LAN) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Stats returns the counters.
func (l *LAN) Stats() LANStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Full = l.cache.full
	return s
}

// OnLink reports whether an address is of one of the networks that beacons are heard in.
func (l *LAN) OnLink(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return a.IsLinkLocalUnicast() || slices.ContainsFunc(l.segments, func(s Segment) bool { return s.contains(a) })
}

// read is the goroutine of one family.
func (l *LAN) read(family int) {
	b := make([]byte, packetMax)
	for {
		n, at, err := l.cfg.Multicast.Read(family, b)
		if l.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !wait(l.ctx, readWait) {
				return
			}
			continue
		}
		l.handle(family, b[:n], at)
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// handle looks at one packet.
func (l *LAN) handle(family int, raw []byte, at Arrival) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.limit.Allow() {
		l.stats.Flooded++
		l.warnLocked("more multicast packets than a LAN has; some are left out")
		return
	}
	m, err := parseMessage(raw)
	if errors.Is(err, errForeign) {
		return
	}
	l.stats.Received++
	if err != nil {
		l.stats.Malformed++
		return
	}
	i := slices.IndexFunc(l.segments, func(s Segment) bool { return s.Index == at.Segment })
	if i < 0 || at.HopLimit != 0 && at.HopLimit != hopLimit || !at.From.IsLinkLocalUnicast() && !l.segments[i].contains(at.From) {
		l.stats.OffLink++
		return
	}
	switch {
	case m.query && l.own != nil:
		l.sayOnLocked(*l.own, family, l.segments[i], false)
	case m.beacon != nil && m.beacon.Label != l.label:
		full := l.cache.full
		if l.cache.note(*m.beacon, at.From, l.segments[i], time.Now()) {
			close(l.changed)
			l.changed = make(chan struct{})
		}
		if l.cache.full > full {
			l.warnLocked("more beacons than are remembered; some are left out")
		}
	}
}

func (l *LAN) warnLocked(what string) {
	if now := time.Now(); now.Sub(l.warned) >= floodLog {
		l.warned = now
		l.cfg.Log.Warn("LAN: " + what)
	}
}

// refresh looks at the interfaces.
func (l *LAN) refresh() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = l.segments[:0]
	for _, s := range l.cfg.Multicast.Segments() {
		if l.wanted(s) {
			l.segments = append(l.segments, s)
		}
	}
}

// wanted leaves out the mesh's own interface, and those that the node is not bound to.
func (l *LAN) wanted(s Segment) bool {
	for _, p := range s.Prefixes {
		if l.cfg.Exclude(p.Addr()) {
			return false
		}
	}
	if len(l.cfg.Listen) == 0 {
		return true
	}
	return slices.ContainsFunc(l.cfg.Listen, func(a netip.Addr) bool {
		return a.IsUnspecified() || slices.ContainsFunc(s.Prefixes, func(p netip.Prefix) bool { return p.Addr() == a })
	})
}

// keep is the goroutine that repeats beacons and follows the interfaces.
func (l *LAN) keep() {
	refresh := time.NewTicker(refreshAfter / 2)
	defer refresh.Stop()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
			again.Reset(announceAgain)
			continue
		case <-l.cfg.Changes:
			l.refresh()
			l.Ask() // a network that we have just entered may hold our mesh
		case <-refresh.C:
			l.refresh()
		case <-again.C:
		}
		l.mu.Lock()
		if l.own != nil {
			l.sayLocked(*l.own, true)
		}
		l.mu.Unlock()
	}
}

// Close takes the beacon back and ends the goroutines.
func (l *LAN) Close() error {
	l.Silence()
	l.cancel()
	err := l.cfg.Multicast.Close()
	l.tasks.Wait()
	return err
}

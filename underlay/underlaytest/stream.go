package underlaytest

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// backlogSize is how many connections wait to be accepted; more are refused.
	backlogSize = 128
	// windowSize is how much one side may write before the other reads.
	windowSize = 64 << 10
)

// listener is a TCP port in memory.
type listener struct {
	host    *Host
	addr    netip.AddrPort
	backlog chan *stream
	done    chan struct{}
	once    sync.Once
}

// ListenTCP listens on an address of the host, or on all with the unspecified address; what underlay.Config.ListenTCP wants.
// EADDRINUSE if the port is taken.
func (h *Host) ListenTCP(addr netip.AddrPort) (net.Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listeners[addr] != nil {
		return nil, syscall.EADDRINUSE
	}
	l := &listener{host: h, addr: addr, backlog: make(chan *stream, backlogSize), done: make(chan struct{})}
	h.listeners[addr] = l
	return l, nil
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	case c := <-l.backlog:
		return c, nil
	}
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.host.mu.Lock()
		defer l.host.mu.Unlock()
		delete(l.host.listeners, l.addr)
	})
	return nil
}

// listening returns who listens at an address of the host.
func (h *Host) listening(to netip.AddrPort) *listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range []netip.Addr{to.Addr(), netip.IPv6Unspecified(), netip.IPv4Unspecified()} {
		if l := h.listeners[netip.AddrPortFrom(a, to.Port())]; l != nil && (a == to.Addr() || a.Is6() || to.Addr().Is4()) {
			return l
		}
	}
	return nil
}

// DialTCP opens a connection; what underlay.Config.DialTCP wants. NATs let it out and nothing in. A port where nobody listens refuses
// at once, an address that nobody has lets it wait for the context's end.
func (h *Host) DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	n := h.network
	from, err := h.source(firstPort, &Endpoint{AddrPort: to})
	if err != nil {
		return nil, err
	}
	var target station = h
	var hooks Hooks
	seen := from
	if !to.Addr().IsLoopback() {
		realm, out, ok := n.route(h.realm, from, to, true)
		n.mu.Lock()
		hooks = n.hooks
		if target = nil; ok {
			target, seen = realm.stations[to.Addr()], out
		}
		n.mu.Unlock()
	}
	there, ok := target.(*Host)
	if !ok || hooks.Refuse != nil && hooks.Refuse(seen, to) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	delay := func(from, to netip.AddrPort) time.Duration {
		if hooks.Latency == nil || to.Addr().IsLoopback() {
			return 0
		}
		return hooks.Latency(from, to)
	}
	select {
	case <-time.After(delay(seen, to) + delay(to, seen)):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	up, down := newHalf(delay(seen, to)), newHalf(delay(to, seen))
	ours := &stream{in: down, out: up, local: from, remote: to}
	theirs := &stream{in: up, out: down, local: to, remote: seen}
	if l := there.listening(to); l != nil {
		select {
		case l.backlog <- theirs:
			return ours, nil
		default:
		}
	}
	return nil, syscall.ECONNREFUSED
}

// stream is one end of a connection.
type stream struct {
	in, out       *half
	local, remote netip.AddrPort
}

func (c *stream) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *stream) Write(b []byte) (int, error) { return c.out.write(b) }
func (c *stream) LocalAddr() net.Addr         { return net.TCPAddrFromAddrPort(c.local) }
func (c *stream) RemoteAddr() net.Addr        { return net.TCPAddrFromAddrPort(c.remote) }

// Close ends both directions. The other end reads what was written before; what it writes is an error.
func (c *stream) Close() error {
	c.in.change(func(h *half) { h.readerGone = true })
	c.out.change(func(h *half) { h.writerGone = true })
	return nil
}

func (c *stream) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *stream) SetReadDeadline(t time.Time) error {
	c.in.change(func(h *half) { h.readBy = t })
	return nil
}

func (c *stream) SetWriteDeadline(t time.Time) error {
	c.out.change(func(h *half) { h.writeBy = t })
	return nil
}

// half is one direction of a connection.
type half struct {
	latency time.Duration

	mu                     sync.Mutex
	changed                chan struct{} // closed and replaced on every change
	chunks                 []chunk
	size                   int
	readerGone, writerGone bool
	readBy, writeBy        time.Time
}

type chunk struct {
	at   time.Time // when it arrives
	data []byte
}

func newHalf(latency time.Duration) *half {
	return &half{latency: latency, changed: make(chan struct{})}
}

func (h *half) change(f func(*half)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
	h.changedLocked()
}

func (h *half) changedLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// waitLocked gives the lock up until something changes or a time has come, the zero time never.
func (h *half) waitLocked(until ...time.Time) {
	changed := h.changed
	var first time.Time
	for _, t := range until {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	h.mu.Unlock()
	defer h.mu.Lock()
	if first.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(first))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		var arrives time.Time
		switch {
		case h.readerGone:
			return 0, net.ErrClosed
		case past(h.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(h.chunks) > 0 && past(h.chunks[0].at):
			c := &h.chunks[0]
			n := copy(b, c.data)
			if c.data = c.data[n:]; len(c.data) == 0 {
				h.chunks = h.chunks[1:]
			}
			h.size -= n
			h.changedLocked()
			return n, nil
		case len(h.chunks) > 0:
			arrives = h.chunks[0].at
		case h.writerGone:
			return 0, io.EOF
		}
		h.waitLocked(arrives, h.readBy)
	}
}

func (h *half) write(b []byte) (written int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(b) > 0 {
		switch {
		case h.writerGone:
			return written, net.ErrClosed
		case h.readerGone:
			return written, syscall.EPIPE
		case past(h.writeBy):
			return written, os.ErrDeadlineExceeded
		case h.size < windowSize:
			n := min(len(b), windowSize-h.size)
			h.chunks = append(h.chunks, chunk{at: time.Now().Add(h.latency), data: append([]byte(nil), b[:n]...)})
			h.size += n
			written, b = written+n, b[n:]
			h.changedLocked()
			continue
		}
		h.waitLocked(h.writeBy)
	}
	return written, nil
}

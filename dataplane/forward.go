package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// forwardDialTime bounds the connection to a forward's target, which is on or near this host.
const forwardDialTime = 10 * time.Second

// Forward leads TCP connections to a port of this node's overlay addresses to the host address "host:port", until the returned stop is
// called or the plane closes. At most proxyConns connections at a time.
func (p *Plane) Forward(port uint16, to string) (stop func(), err error) {
	if _, _, err := net.SplitHostPort(to); err != nil {
		return nil, fmt.Errorf("forward port %d: %w", port, err)
	}
	var listeners []net.Listener
	closeAll := sync.OnceFunc(func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	})
	for _, a := range p.host.inner.Addresses() {
		l, err := p.host.inner.ListenTCP(netip.AddrPortFrom(a.Addr(), port))
		if err != nil {
			closeAll()
			return nil, fmt.Errorf("forward port %d of %s: %w", port, a.Addr(), err)
		}
		listeners = append(listeners, l)
	}
	for _, l := range listeners {
		p.goRun(func() {
			if err := p.serve(l, func(l net.Listener) error { return p.forwardFrom(l, to) }); !errors.Is(err, ErrClosed) && !errors.Is(err, net.ErrClosed) {
				p.log.Debug("forward ended", "addr", l.Addr().String(), "err", err)
			}
		})
	}
	return closeAll, nil
}

func (p *Plane) forwardFrom(l net.Listener, to string) error {
	for {
		near, err := l.Accept()
		if err != nil {
			return err
		}
		p.goRun(func() {
			defer near.Close()
			ctx, cancel := context.WithTimeout(p.ctx, forwardDialTime)
			defer cancel()
			var d net.Dialer
			far, err := d.DialContext(ctx, "tcp", to)
			if err != nil {
				p.log.Debug("forward target not reached", "addr", to, "err", err)
				return
			}
			defer far.Close()
			p.splice(near, far)
		})
	}
}

// splice copies both ways until both directions have ended, or the plane closes.
func (p *Plane) splice(a, b net.Conn) {
	defer context.AfterFunc(p.ctx, func() {
		_ = a.Close()
		_ = b.Close()
	})()
	done := make(chan struct{})
	go func() { // ends with the connections, which splice's callers close
		defer close(done)
		copyHalf(a, b)
	}()
	copyHalf(b, a)
	<-done
}

// copyHalf copies one direction and passes on its end. If that can not be passed on, both directions end.
func copyHalf(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if err != nil || closeWrite(dst) != nil {
		_ = dst.Close()
		_ = src.Close()
	}
}

func closeWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}

func itoa(n int) string { return strconv.Itoa(n) }

package dataplane

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"

	"github.com/things-go/go-socks5"
	"github.com/things-go/go-socks5/statute"
	"golang.org/x/net/netutil"
)

// The proxies let programs of this host into the mesh where there is no TUN interface. They lead nowhere else: a destination that is
// not a member's overlay address is refused, so an open one is no way into the host's own networks.

const (
	// proxyConns bounds the connections of one listener: a browser opens dozens, a load test a thousand.
	proxyConns = 1024
	// proxyGreeting bounds the time until a program has said where it wants to go.
	proxyGreeting = 10 * time.Second
	// proxyDialTime bounds the connection to the destination, with the making of a tunnel.
	proxyDialTime = 15 * time.Second
	// proxyIdle is how long an idle kept-alive connection stays.
	proxyIdle = 90 * time.Second
	// proxyHeaderMax bounds the header of an HTTP request, in bytes.
	proxyHeaderMax = 64 << 10
)

// ServeSOCKS serves SOCKS5 (RFC 1928, CONNECT only, without authentication) on the listener until the plane or the listener closes;
// it closes the listener. Names are resolved to members.
func (p *Plane) ServeSOCKS(l net.Listener) error {
	server := socks5.NewServer(
		socks5.WithRule(&socks5.PermitCommand{EnableConnect: true}),
		socks5.WithResolver(keepName{}),
		socks5.WithDialAndRequest(func(ctx context.Context, network, _ string, r *socks5.Request) (net.Conn, error) {
			return p.dialForProxy(ctx, network, socksTarget(r.DestAddr))
		}),
		socks5.WithConnectMiddleware(func(_ context.Context, w io.Writer, _ *socks5.Request) error {
			if c, ok := w.(net.Conn); ok {
				return c.SetDeadline(time.Time{}) // the greeting is over
			}
			return nil
		}),
	)
	return p.serve(l, func(l net.Listener) error { return server.Serve(greetingListener{l}) })
}

// keepName leaves a name as it is: the dialer resolves it, and knows that it came as a name.
type keepName struct{}

func (keepName) Resolve(ctx context.Context, _ string) (context.Context, net.IP, error) {
	return ctx, nil, nil
}

func socksTarget(a *statute.AddrSpec) string {
	host := a.FQDN
	if host == "" {
		host = a.IP.String()
	}
	return net.JoinHostPort(host, itoa(a.Port))
}

// greetingListener gives new connections a deadline.
type greetingListener struct{ net.Listener }

func (l greetingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(proxyGreeting))
}

func (p *Plane) dialForProxy(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, proxyDialTime)
	defer cancel()
	return p.Dial(ctx, network, addr)
}

// ServeHTTPProxy serves an HTTP proxy (RFC 9110 §9.3.6 CONNECT, and requests with an absolute URI) on the listener until the plane
// or the listener closes; it closes the listener.
func (p *Plane) ServeHTTPProxy(l net.Listener) error {
	transport := &http.Transport{
		DialContext:         p.dialForProxy,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: proxyIdle, ResponseHeaderTimeout: time.Minute,
	}
	defer transport.CloseIdleConnections()
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetXForwarded(); r.Out.Header.Del("X-Forwarded-For") },
		Transport: transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, proxyFailure(err), proxyStatus(err))
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server := &http.Server{
		ReadHeaderTimeout: proxyGreeting, IdleTimeout: proxyIdle, MaxHeaderBytes: proxyHeaderMax,
		ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodConnect:
				p.connect(w, r)
			case r.URL.Scheme == "http" && r.URL.Host != "":
				forward.ServeHTTP(w, r)
			default:
				http.Error(w, "this is a proxy into the mesh: ask for http://NODE/ or use CONNECT", http.StatusBadRequest)
			}
		}),
	}
	defer server.Close()
	return p.serve(l, server.Serve)
}

// connect serves one CONNECT request.
func (p *Plane) connect(w http.ResponseWriter, r *http.Request) {
	far, err := p.dialForProxy(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, proxyFailure(err), proxyStatus(err))
		return
	}
	defer far.Close()
	near, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer near.Close()
	_ = near.SetDeadline(time.Time{})
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	p.splice(bufferedConn{Conn: near, r: rw.Reader}, far)
}

// bufferedConn is a connection of which some bytes have been read ahead.
type bufferedConn struct {
	net.Conn
	r io.Reader
}

func (c bufferedConn) Read(b []byte) (int, error) { return c.r.Read(b) }

func (c bufferedConn) CloseWrite() error { return closeWrite(c.Conn) }

func proxyStatus(err error) int {
	switch {
	case errors.Is(err, ErrOffOverlay), errors.Is(err, ErrRevoked):
		return http.StatusForbidden
	case errors.Is(err, ErrNotMember):
		return http.StatusNotFound
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

func proxyFailure(err error) string { return "mesh: " + err.Error() }

// serve runs a server on a listener with bounded connections until the plane closes.
func (p *Plane) serve(l net.Listener, f func(net.Listener) error) error {
	if !p.enter() {
		_ = l.Close()
		return ErrClosed
	}
	defer p.running.Done()
	conns := &openConns{open: map[net.Conn]bool{}}
	l = trackedListener{Listener: netutil.LimitListener(l, proxyConns), conns: conns}
	stop := context.AfterFunc(p.ctx, func() { _ = l.Close() })
	defer stop()
	err := f(l)
	_ = l.Close()
	if p.ctx.Err() != nil {
		err = ErrClosed
	}
	conns.closeAll()
	return err
}

// openConns are the connections of a listener, so that they can be ended with it.
type openConns struct {
	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

// trackedListener enters what it accepts into conns.
type trackedListener struct {
	net.Listener
	conns *openConns
}

func (l trackedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t := &trackedConn{Conn: c, conns: l.conns}
	if !l.conns.add(t) {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	return t, nil
}

type trackedConn struct {
	net.Conn
	conns *openConns
}

func (c *trackedConn) Close() error {
	c.conns.mu.Lock()
	delete(c.conns.open, c)
	c.conns.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite passes on the end of one direction.
func (c *trackedConn) CloseWrite() error { return closeWrite(c.Conn) }

func (o *openConns) add(c net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.open[c] = true
	return true
}

func (o *openConns) closeAll() {
	o.mu.Lock()
	o.closed = true
	all := make([]net.Conn, 0, len(o.open))
	for c := range o.open {
		all = append(all, c)
	}
	o.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

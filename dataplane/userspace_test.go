package dataplane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/proxy"
)

// userspaceWorld runs n planes with TCP/IP stacks of their own. In real time: netstack's goroutines do not count as blocked in a
// bubble.
func userspaceWorld(t testing.TB, n int) []*testNode {
	w := newTestWorld(t, n)
	for _, node := range w.list() {
		node.start(func(c *Config) {
			u, err := OpenUserspace(node.prefixes(), 0)
			if err != nil {
				t.Fatal(err)
			}
			c.Network = u
		})
	}
	t.Cleanup(w.stopAll)
	return w.list()
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// echoServer answers TCP connections to a port of the node's overlay addresses with what they send, through a forward to a server on
// the host.
func echoServer(t testing.TB, n *testNode, port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	stop, err := n.plane.Forward(port, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

func TestPingThroughUserspace(t *testing.T) {
	nodes := userspaceWorld(t, 2)
	a, b := nodes[0], nodes[1]
	for _, dst := range []netip.Addr{b.v4, b.v6, a.v4, a.v6} {
		for _, size := range []int{0, 56, 1372} {
			if rtt, err := a.plane.Ping(soon(t), dst, size); err != nil || rtt <= 0 || rtt > 5*time.Second {
				t.Errorf("ping %s with %d bytes: %v, %v", dst, size, rtt, err)
			}
		}
	}
	if _, err := a.plane.Ping(soon(t), netip.MustParseAddr("192.0.2.1"), 8); !errors.Is(err, ErrOffOverlay) {
		t.Errorf("off the overlay: %v", err)
	}
	if _, err := a.plane.Ping(soon(t), netip.MustParseAddr("10.86.77.7"), 8); !errors.Is(err, ErrNotMember) {
		t.Errorf("nobody's address: %v", err)
	}
}

func TestDialByAddressAndName(t *testing.T) {
	nodes := userspaceWorld(t, 2)
	a, b := nodes[0], nodes[1]
	echoServer(t, b, 7)
	for _, to := range []string{b.v4.String() + ":7", "[" + b.v6.String() + "]:7", "node-1:7", b.id.Short() + ":7"} {
		c, err := a.plane.Dial(soon(t), "tcp", to)
		if err != nil {
			t.Fatalf("%s: %v", to, err)
		}
		const text = "through the mesh"
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		got := make([]byte, len(text))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
			t.Fatalf("%s: %q, %v", to, got, err)
		}
		_ = c.Close()
	}
	for to, want := range map[string]error{
		"127.0.0.1:80": ErrOffOverlay, "[::1]:80": ErrOffOverlay, "nobody:80": ErrNotMember, "[fe80::1%lo]:80": ErrOffOverlay,
	} {
		if _, err := a.plane.Dial(soon(t), "tcp", to); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", to, err, want)
		}
	}
	if _, err := a.plane.Dial(soon(t), "tcp", b.v4.String()+":81"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a port that nobody listens on: %v", err)
	}
}

func TestABulkTransferArrivesWhole(t *testing.T) {
	nodes := userspaceWorld(t, 2)
	a, b := nodes[0], nodes[1]
	echoServer(t, b, 7)
	c, err := a.plane.Dial(soon(t), "tcp", "node-1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	const size = 4 << 20
	go func() { _, _ = c.Write(make([]byte, size)) }()
	if n, err := io.CopyN(io.Discard, c, size); n != size || err != nil {
		t.Fatalf("%d of %d bytes came back: %v", n, size, err)
	}
}

// serveProxy runs one of the proxies on a free port and returns its address.
func serveProxy(t testing.TB, serve func(net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(l) }()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	return l.Addr().String()
}

func webServer(t testing.TB, n *testNode) {
	t.Helper()
	l, err := n.network.ListenTCP(netip.AddrPortFrom(n.v4, 80))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, r.Header.Get("X-Forwarded-For"))
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

func TestSOCKSLeadsIntoTheMeshAndNowhereElse(t *testing.T) {
	nodes := userspaceWorld(t, 2)
	a, b := nodes[0], nodes[1]
	webServer(t, b)
	d, err := proxy.SOCKS5("tcp", serveProxy(t, a.plane.ServeSOCKS), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"node-1", b.v4.String()} {
		client := &http.Client{Transport: &http.Transport{DialContext: d.(proxy.ContextDialer).DialContext, DisableKeepAlives: true}, Timeout: 10 * time.Second}
		r, err := client.Get("http://" + host + "/")
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		body, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if !strings.HasPrefix(string(body), "GET "+host) {
			t.Errorf("%s: %q", host, body)
		}
	}
	secret, err := net.Listen("tcp", "127.0.0.1:0") // what must not be reached
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	for _, to := range []string{secret.Addr().String(), "localhost:" + portOf(secret), "nobody:80", "[::1]:80"} {
		if c, err := d.Dial("tcp", to); err == nil {
			_ = c.Close()
			t.Errorf("the proxy led to %s", to)
		}
	}
}

func portOf(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func TestHTTPProxyForwardsAndConnects(t *testing.T) {
	nodes := userspaceWorld(t, 2)
	a, b := nodes[0], nodes[1]
	webServer(t, b)
	addr := serveProxy(t, a.plane.ServeHTTPProxy)
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addr})}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	r, err := client.Get("http://node-1/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if string(body) != "GET node-1 " {
		t.Errorf("forwarded: %q", body)
	}
	for to, want := range map[string]int{"http://nobody/": http.StatusNotFound, "http://127.0.0.1/": http.StatusForbidden} {
		r, err := client.Get(to)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s: %s, want %d", to, r.Status, want)
		}
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "CONNECT node-1:80 HTTP/1.1\r\nHost: node-1:80\r\n\r\n")
	reader := bufio.NewReader(c)
	answer, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer, err)
	}
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: inside\r\nConnection: close\r\n\r\n")
	if answer, err = http.ReadResponse(reader, nil); err != nil {
		t.Fatal(err)
	}
	body, _ = io.ReadAll(answer.Body)
	if string(body) != "GET inside " {
		t.Errorf("connected: %q", body)
	}
}

func TestClosingThePlaneLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		w := newTestWorld(t, 2)
		for _, node := range w.list() {
			node.start(func(c *Config) {
				u, err := OpenUserspace(node.prefixes(), 0)
				if err != nil {
					t.Fatal(err)
				}
				c.Network = u
			})
		}
		a, b := w.list()[0], w.list()[1]
		backend, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer backend.Close()
		if _, err := b.plane.Forward(7, backend.Addr().String()); err != nil {
			t.Fatal(err)
		}
		socks, web := make(chan error, 1), make(chan error, 1)
		for _, s := range []struct {
			ended chan error
			serve func(net.Listener) error
		}{{socks, a.plane.ServeSOCKS}, {web, a.plane.ServeHTTPProxy}} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go func() { s.ended <- s.serve(l) }()
			idle, err := net.Dial("tcp", l.Addr().String()) // says nothing
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
		}
		c, err := a.plane.Dial(soon(t), "tcp", "node-1:7")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		w.stopAll()
		for _, ended := range []chan error{socks, web} {
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Errorf("a proxy ended with %v", err)
			}
		}
		if _, err := a.plane.Dial(soon(t), "tcp", "node-1:7"); err == nil {
			t.Error("a closed plane dials")
		}
	}()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}

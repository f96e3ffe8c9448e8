package underlaytest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// TestStreamsAreConnections holds them to what net.Conn promises.
func TestStreamsAreConnections(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		var n Network
		h := n.Host(server)
		at := netip.AddrPortFrom(server, 443)
		l, err := h.ListenTCP(at)
		if err != nil {
			return nil, nil, nil, err
		}
		if c1, err = n.Host(other).DialTCP(t.Context(), at); err != nil {
			return nil, nil, nil, err
		}
		c2, err = l.Accept()
		return c1, c2, func() { c1.Close(); c2.Close(); l.Close() }, err
	})
}

func TestStreamsPassNATsOutwardOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		n.Set(Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 10 * time.Millisecond }})
		public := n.Host(server)
		nat := n.NAT(NATConfig{External: outer, DropUDP: true})
		hidden := nat.Host(inner)
		at := netip.AddrPortFrom(netip.IPv6Unspecified(), 443)
		l, err := public.ListenTCP(at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := public.ListenTCP(at); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("listening twice: %v", err)
		}
		began := time.Now()
		c, err := hidden.DialTCP(t.Context(), netip.AddrPortFrom(server, 443))
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.Accept()
		if err != nil || d.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() != outer {
			t.Fatalf("accepted from %v: %v", d.RemoteAddr(), err)
		}
		go c.Write([]byte("hello"))
		buf := make([]byte, 5)
		if _, err := io.ReadFull(d, buf); err != nil || string(buf) != "hello" || time.Since(began) != 30*time.Millisecond {
			t.Errorf("%q after %v: %v", buf, time.Since(began), err)
		}
		c.Close()
		if _, err := d.Read(buf); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
		l.Close()
		if _, err := hidden.DialTCP(t.Context(), netip.AddrPortFrom(server, 443)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		if _, err := hidden.ListenTCP(at); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := public.DialTCP(ctx, netip.AddrPortFrom(outer, 443)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dialed in through a NAT: %v", err)
		}
	})
}

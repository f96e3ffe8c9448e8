//go:build linux

package portmap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
)

const (
	soon     = 20 * time.Second // beyond what anything takes on a loaded machine
	testPort = 51820
)

// home is a machine behind a router that opens ports, and one outside.
type home struct {
	router          *lab.Router
	inside, outside *lab.Host
	config          Config
}

func newHome(t *testing.T) *home {
	lab.Need(t, "nft", "conntrack", "miniupnpd")
	l := lab.New(t)
	h := &home{outside: l.Host("outside"), router: l.Router("router", lab.RouterConfig{NAT: lab.EasyNAT, PortMapping: true})}
	h.inside = h.router.AddHost("inside")
	h.config = Config{Port: testPort, TCP: true, Lifetime: 2 * time.Minute, CheckInterval: 300 * time.Millisecond}
	h.config.Gateway = func() (g Gateway, err error) {
		err = h.inside.Do(func() error {
			g, err = DefaultGateway(nil)
			return err
		})
		return g, err
	}
	h.config.Dial = func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = h.inside.Do(func() error {
			c, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr)
			return err
		})
		return c, err
	}
	h.config.Listen = func(ctx context.Context, network, addr string) (c net.PacketConn, err error) {
		err = h.inside.Do(func() error {
			c, err = (&net.ListenConfig{}).ListenPacket(ctx, network, addr)
			return err
		})
		return c, err
	}
	return h
}

// run starts a mapper; the end stops it and waits for it.
func (h *home) run(t *testing.T) (m *Mapper, stop func()) {
	m = New(h.config)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return m, stop
}

// open waits until both transports are mapped and returns UDP's mapping.
func open(t *testing.T, m *Mapper) Mapping {
	t.Helper()
	changed, cancel := m.Watch()
	defer cancel()
	deadline := time.After(soon)
	for {
		if all := m.Mappings(); len(all) == 2 {
			return all[0]
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("mapped: %+v", m.Mappings())
		}
	}
}

// passes sends packets from outside to the mapped address until one arrives inside.
func (h *home) passes(t *testing.T, to netip.AddrPort, limit time.Duration) error {
	t.Helper()
	inside, err := h.config.Listen(t.Context(), "udp4", fmt.Sprintf("0.0.0.0:%d", testPort))
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	outside, err := h.outside.Dial("udp4", to.String(), soon)
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	return lab.Eventually(limit, func() error {
		if _, err := outside.Write([]byte("hello")); err != nil {
			return err
		}
		if err := inside.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		b := make([]byte, 100)
		n, from, err := inside.ReadFrom(b)
		if err == nil && (string(b[:n]) != "hello" || !strings.HasPrefix(from.String(), h.outside.IPv4.String())) {
			return fmt.Errorf("%q from %s", b[:n], from)
		}
		return err
	})
}

// deaf is a connection on which one protocol's requests do not get out.
type deaf struct {
	net.Conn
	version byte
}

func (d deaf) Write(b []byte) (int, error) {
	if b[0] == d.version {
		return len(b), nil
	}
	return d.Conn.Write(b)
}

// without keeps requests of a version from the router: 2 is PCP, 0 NAT-PMP.
func (h *home) without(version byte) {
	dial := h.config.Dial
	h.config.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err == nil && network == "udp" {
			c = deaf{c, version}
		}
		return c, err
	}
}

// waitForAge waits until the router has run for long enough that a younger epoch is no inaccuracy.
func (h *home) waitForAge(t *testing.T) {
	t.Helper()
	g, err := h.config.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	router := pcp{exchange: exchange{gateway: g, dial: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = h.inside.Do(func() error {
			c, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr)
			return err
		})
		return c, err
	}}}
	err = lab.Eventually(soon, func() error {
		r, err := router.announce(t.Context())
		if err == nil && r.epoch < 5 {
			err = fmt.Errorf("epoch %d", r.epoch)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestARealRouterOpensPortsByEachProtocol(t *testing.T) {
	for _, c := range []struct {
		protocol string
		deafTo   []byte
	}{{PCP, nil}, {NATPMP, []byte{pcpVersion}}, {UPnP, []byte{pcpVersion, 0}}} {
		t.Run(c.protocol, func(t *testing.T) {
			h := newHome(t)
			for _, v := range c.deafTo {
				h.without(v)
			}
			m, stop := h.run(t)
			got := open(t, m)
			if got.Protocol != c.protocol || got.External.Addr() != h.router.External || !got.Public ||
				got.Internal != netip.AddrPortFrom(h.inside.IPv4, testPort) || time.Until(got.Expires) < time.Minute {
				t.Errorf("%+v", got)
			}
			if err := h.passes(t, got.External, soon); err != nil {
				t.Fatalf("nothing comes in at %s: %v", got.External, err)
			}
			h.waitForAge(t)
			h.router.RestartPortMapping()
			if err := h.passes(t, got.External, soon); err != nil {
				t.Errorf("after the router's restart: %v", err)
			}
			last := open(t, m)
			stop()
			if len(m.Mappings()) != 0 {
				t.Error("mappings are still published")
			}
			if out, err := h.router.Run("nft", "list", "ruleset"); err != nil || strings.Contains(out, h.inside.IPv4.String()) {
				t.Errorf("the mapping was not removed: %v\n%s", err, out)
			}
			if err := h.passes(t, last.External, 300*time.Millisecond); err == nil {
				t.Error("packets still come in")
			}
		})
	}
}

func TestTheGatewayIsTheDefaultRoutesRouter(t *testing.T) {
	lab.Need(t)
	l := lab.New(t)
	h := l.Host("h")
	find := func(ignore func(string) bool) (g Gateway, err error) {
		err = h.Do(func() error {
			g, err = DefaultGateway(ignore)
			return err
		})
		return g, err
	}
	if g, err := find(nil); !errors.Is(err, ErrNoGateway) {
		t.Errorf("%+v, %v", g, err)
	}
	for _, args := range [][]string{
		{"route", "add", "default", "via", "192.0.2.9", "metric", "200"},
		{"route", "add", "default", "via", "192.0.2.8", "metric", "100"},
	} {
		if out, err := h.Run("ip", args...); err != nil {
			t.Fatal(out, err)
		}
	}
	if g, err := find(nil); err != nil || g != (Gateway{netip.MustParseAddr("192.0.2.8"), h.IPv4}) {
		t.Errorf("%+v, %v", g, err)
	}
	if g, err := find(func(name string) bool { return name == "eth0" }); !errors.Is(err, ErrNoGateway) {
		t.Errorf("over an ignored interface: %+v, %v", g, err)
	}
}

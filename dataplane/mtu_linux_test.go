package dataplane

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// testPath is the path between two nodes as far as its MTU goes.
type testPath struct {
	mtu     atomic.Int64
	changed []chan struct{}
}

// configure has a plane follow the path.
func (p *testPath) configure(c *Config) {
	signal := make(chan struct{}, 1)
	p.changed = append(p.changed, signal)
	c.PathMTU = func(identity.NodeID) int { return int(p.mtu.Load()) }
	c.Paths = func() (<-chan struct{}, func()) { return signal, func() {} }
}

// set changes the MTU without a word to the planes; tell tells them.
func (p *testPath) set(mtu int) { p.mtu.Store(int64(mtu)) }

func (p *testPath) tell() {
	for _, c := range p.changed {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// elsewhere runs f on a thread in a network namespace of its own until the test ends; what is sent to run is done there.
func elsewhere(t *testing.T) (run func(func())) {
	work, ready := make(chan func()), make(chan struct{})
	go func() {
		defer func() { // ownNetwork may end this goroutine
			select {
			case <-ready:
			default:
				close(ready)
			}
			for range work {
			}
		}()
		ownNetwork(t)
		close(ready)
		for f := range work {
			f()
		}
	}()
	<-ready
	t.Cleanup(func() { close(work) })
	return func(f func()) {
		done := make(chan struct{})
		work <- func() { defer close(done); f() }
		<-done
	}
}

// openIn opens a TUN by a thread of another namespace.
func openIn(t *testing.T, run func(func()), n *testNode) (dev Interface) {
	var err error
	run(func() {
		dev, err = OpenTUN("", n.prefixes(), []netip.Prefix{n.prefixes()[0].Masked(), n.prefixes()[1].Masked()}, 0)
	})
	if errors.Is(err, ErrNoTUN) || errors.Is(err, ErrNoPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func TestATCPConnectionFollowsThePathsMTUBothWays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces and TUN interfaces")
	}
	inA, inB := elsewhere(t), elsewhere(t)
	w := newTestWorld(t, 2)
	a, b := w.list()[0], w.list()[1]
	path := &testPath{}
	path.set(1420)
	w.setTap(func(_, _ identity.NodeID, packet []byte) bool { return len(packet) <= int(path.mtu.Load())+32 })
	for _, n := range []struct {
		node *testNode
		run  func(func())
	}{{a, inA}, {b, inB}} {
		n.node.start(func(c *Config) {
			c.Network = openIn(t, n.run, n.node)
			path.configure(c)
		})
	}
	defer w.stopAll()
	for name, to := range map[string]netip.Addr{"IPv4": b.v4, "IPv6": b.v6} {
		header := headerLen4
		if to.Is6() {
			if header = headerLen6; !b.network.(*hostTUN).v6 {
				continue
			}
		}
		t.Run(name, func(t *testing.T) {
			path.set(1420)
			path.tell()
			flow := newFlow(t, inA, inB, netip.AddrPortFrom(to, 7))
			for _, mtu := range []int{1420, MaxMTU, MinMTU, 1420, 4000} {
				path.set(mtu) // packets under way are lost already
				path.tell()
				flow.await(t, tunnelMTU(mtu, MaxMTU)-header-headerLenTCP-12) // with time stamps
			}
		})
	}
	var routes []netlink.Route
	w.stopAll()
	inA(func() { routes, _ = netlink.RouteList(nil, netlink.FAMILY_ALL) })
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsLoopback() {
			t.Errorf("left behind: %v", r)
		}
	}
}

// flow is a TCP connection that carries what it can.
type flow struct {
	conn     *net.TCPConn
	received atomic.Int64
}

func newFlow(t *testing.T, here, there func(func()), to netip.AddrPort) *flow {
	f := &flow{}
	var l net.Listener
	var err error
	there(func() { l, err = net.Listen("tcp", to.String()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for buf := make([]byte, 64<<10); ; {
			n, err := c.Read(buf)
			f.received.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	var c net.Conn
	here(func() { c, err = net.DialTimeout("tcp", to.String(), 5*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	f.conn = c.(*net.TCPConn)
	t.Cleanup(func() { _ = c.Close() })
	go func() { _, _ = io.Copy(c, endless{}) }()
	return f
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	time.Sleep(time.Millisecond) // a stream, not a load
	return len(b), nil
}

// await waits until the connection sends segments of the size and its data arrive.
func (f *flow) await(t *testing.T, mss int) {
	t.Helper()
	raw, err := f.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	begin := time.Now()
	start := int64(-1)
	for time.Since(begin) < 10*time.Second {
		_ = raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err != nil {
			t.Fatal(err)
		}
		if int(info.Snd_mss) == mss {
			if start < 0 {
				start = f.received.Load()
			} else if f.received.Load() > start+200_000 {
				t.Logf("segments of %d after %v", mss, time.Since(begin).Round(time.Millisecond))
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("segments of %d, want %d; %d bytes arrived since; advertised %d", info.Snd_mss, mss, f.received.Load()-start, info.Advmss)
}

func TestForeignRoutesAreLeftAlone(t *testing.T) {
	inOwnNetwork(t, func(t *testing.T) {
		w := newTestWorld(t, 2)
		a, b := w.list()[0], w.list()[1]
		dev, err := OpenTUN("", a.prefixes(), []netip.Prefix{a.prefixes()[0].Masked(), a.prefixes()[1].Masked()}, 0)
		if errors.Is(err, ErrNoTUN) || errors.Is(err, ErrNoPermission) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		theirs := netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(netip.PrefixFrom(b.v4, 32)), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(&theirs); err != nil {
			t.Fatal(err)
		}
		h := dev.(*hostTUN)
		if err := h.RoutePath([]netip.Addr{b.v4}, 1420); err == nil {
			t.Error("a second route beside somebody else's")
		}
		if err := h.RoutePath([]netip.Addr{b.v4}, 0); err != nil {
			t.Error(err)
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: theirs.Dst}, netlink.RT_FILTER_DST)
		if err != nil || len(routes) != 1 || routes[0].LinkIndex != lo.Attrs().Index {
			t.Errorf("their route is now %v, %v", routes, err)
		}
	})
}

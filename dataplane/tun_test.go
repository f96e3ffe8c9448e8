//go:build linux

package dataplane

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// ownNetwork puts the test's goroutine into a network namespace of its own, or skips the test where that is not allowed.
func ownNetwork(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace and a TUN interface")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and its namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespaces here: %v", err)
	}
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo)
	}
}

// inOwnNetwork runs f in a goroutine whose thread is thrown away.
func inOwnNetwork(t *testing.T, f func(t *testing.T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ownNetwork(t)
		f(t)
	}()
	<-done
}

// linksAndRoutes is what the host's network looks like.
func linksAndRoutes(t *testing.T) (links, routes int) {
	t.Helper()
	l, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	r, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	return len(l), len(r)
}

func TestTUNCarriesPacketsAndLeavesTheHostAsItWas(t *testing.T) {
	inOwnNetwork(t, func(t *testing.T) {
		links, routes := linksAndRoutes(t)
		w := newTestWorld(t, 2)
		a, b := w.list()[0], w.list()[1]
		dev, err := OpenTUN("", a.prefixes(), []netip.Prefix{netip.MustParsePrefix("10.86.0.0/16"), netip.PrefixFrom(a.v6, 48).Masked()}, 0)
		if errors.Is(err, ErrNoTUN) || errors.Is(err, ErrNoPermission) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.start(func(c *Config) { c.Network = dev })
		b.start(func(c *Config) {
			if c.Network, err = OpenUserspace(b.prefixes(), 0); err != nil {
				t.Fatal(err)
			}
		})
		if name, _ := dev.Name(); name != DefaultName {
			t.Errorf("named %q", name)
		}
		if mtu, _ := dev.MTU(); mtu != MaxMTU {
			t.Errorf("MTU %d", mtu)
		}
		var again *InterfaceError
		if _, err := OpenTUN(DefaultName, nil, nil, 0); !errors.Is(err, ErrNameInUse) || !errors.As(err, &again) || again.Next == "" {
			t.Errorf("a second one of the name: %v", err)
		}
		// The kernel's sockets belong to the namespace of the thread that opens them, which is this one.
		for _, dst := range []netip.Addr{b.v4, b.v6} {
			if dst.Is6() && !ipv6On(DefaultName) {
				continue
			}
			if rtt, err := a.plane.Ping(soon(t), dst, 56); err != nil || rtt > 5*time.Second {
				t.Errorf("ping %s: %v, %v", dst, rtt, err)
			}
		}
		w.stopAll()
		if l, r := linksAndRoutes(t); l != links || r != routes {
			t.Errorf("%d links and %d routes left, %d and %d before", l, r, links, routes)
		}
	})
}

func TestTakingTheInterfaceAwayEndsThePlane(t *testing.T) {
	inOwnNetwork(t, func(t *testing.T) {
		w := newTestWorld(t, 1)
		a := w.list()[0]
		dev, err := OpenTUN("pm-gone", a.prefixes(), nil, 0)
		if errors.Is(err, ErrNoTUN) || errors.Is(err, ErrNoPermission) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.start(func(c *Config) { c.Network = dev })
		defer w.stopAll()
		link, err := netlink.LinkByName("pm-gone")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(link); err != nil {
			t.Fatal(err)
		}
		select {
		case <-a.plane.Done():
		case <-time.After(5 * time.Second):
			t.Fatal("the plane did not notice")
		}
		if a.plane.Err() == nil {
			t.Error("no reason is given")
		}
	})
}

func TestWithoutTheRightToATUNTheErrorSaysWhatToDo(t *testing.T) {
	err := explainTUN("phantom0", unix.EPERM)
	var e *InterfaceError
	if !errors.Is(err, ErrNoPermission) || !errors.Is(err, unix.EPERM) || !errors.As(err, &e) || e.Next == "" {
		t.Errorf("%v", err)
	}
	if err := explainTUN("phantom0", unix.EBUSY); !errors.Is(err, ErrNameInUse) {
		t.Errorf("%v", err)
	}
	if err := explainTUN("phantom0", unix.ENODEV); !errors.Is(err, ErrNoTUN) {
		t.Errorf("%v", err)
	}
}

// Regression: the second of two meshes on a host took the first one's route away, and with it all that the host had there.
func TestASecondInterfaceOnAHostTakesNothingFromTheFirst(t *testing.T) {
	inOwnNetwork(t, func(t *testing.T) {
		usual := netip.MustParsePrefix("10.86.0.0/16")
		if device, used := RangeInUse(usual); used {
			t.Fatalf("an empty host has a route to %s by %s", usual, device)
		}
		addresses := func(v6 string) []netip.Prefix {
			return []netip.Prefix{netip.MustParsePrefix("10.86.0.1/16"), netip.MustParsePrefix(v6)}
		}
		routes := func(v6 string) []netip.Prefix { return []netip.Prefix{usual, netip.MustParsePrefix(v6)} }
		first, err := OpenTUN("", addresses("fd00:1::1/48"), routes("fd00:1::/48"), 0)
		if errors.Is(err, ErrNoTUN) || errors.Is(err, ErrNoPermission) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer first.Close()
		if device, used := RangeInUse(netip.MustParsePrefix("10.86.7.0/24")); !used || device != DefaultName {
			t.Errorf("a part of the range of %s is %t, %q", DefaultName, used, device)
		}
		if device, used := RangeInUse(netip.MustParsePrefix("10.87.0.0/16")); used {
			t.Errorf("the range beside it is in use by %s", device)
		}
		leads := func(to string) string {
			t.Helper()
			found, err := netlink.RouteGet(netip.MustParseAddr(to).AsSlice())
			if err != nil {
				t.Fatal(err)
			}
			link, err := netlink.LinkByIndex(found[0].LinkIndex)
			if err != nil {
				t.Fatal(err)
			}
			return link.Attrs().Name
		}
		v6 := ipv6On(DefaultName)
		second, err := OpenTUN("", addresses("fd00:2::1/48"), routes("fd00:2::/48"), 0)
		if !v6 {
			if !errors.Is(err, ErrRangeTaken) {
				t.Errorf("nothing is left of the mesh, and that is no error: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if name, _ := second.Name(); name != "phantom1" {
			t.Errorf("the second is called %s", name)
		}
		if got := Taken(second); len(got) != 1 || got[0] != (RangeTaken{usual, DefaultName}) || len(Taken(first)) > 0 {
			t.Errorf("taken from the second: %v, from the first: %v", got, Taken(first))
		}
		if a, b := leads("10.86.0.9"), leads("fd00:2::9"); a != DefaultName || b != "phantom1" {
			t.Errorf("the range leads to %s, the second mesh's own to %s", a, b)
		}
		if _, err := OpenTUN("", addresses("fd00:1::2/48"), routes("fd00:1::/48"), 0); !errors.Is(err, ErrRangeTaken) {
			t.Errorf("a second node of the same mesh: %v", err)
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
		if got := leads("10.86.0.9"); got != DefaultName {
			t.Errorf("after the second has gone the range leads to %s", got)
		}
	})
}

// endedDevice is a device whose listener has ended when it is closed.
type endedDevice struct{ tun.Device }

func (endedDevice) Close() error {
	return &os.PathError{Op: "write", Path: "|1", Err: os.ErrClosed}
}

// Regression: a device that is closed right after it was made, as a node does to find out whether it may make one, said now and then that something was
// closed already: its listener had just ended by itself. The node did not start.
func TestADeviceWhoseListenerHasEndedIsClosedWithoutAnError(t *testing.T) {
	h := &hostTUN{Device: endedDevice{}, netlink: &netlink.Handle{}}
	for range 2 {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}

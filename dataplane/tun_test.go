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

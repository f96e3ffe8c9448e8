package underlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/phantommesh/phantommesh/peer"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// TestHandoverLosesNothing sends numbered gossip and tunnel packets while a device comes and goes.
func TestHandoverLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		dev := &device{t: t, bind: b.Bind(), got: make(chan string, 1<<16)}
		if err := dev.bind.Close(); err != nil {
			t.Errorf("closing what is not open: %v", err)
		}
		gossip, tunnel := 0, 0
		send := func() {
			gossip++
			if err := a.SendGossip(b.id(), []byte{byte(gossip)}, true); err != nil {
				t.Fatal(err)
			}
		}
		for round := range 100 {
			send()
			dev.up()
			if round%2 == 0 {
				synctest.Wait() // else the hand-over and the packets race
			}
			for range 10 {
				tunnel++
				if err := a.sendTunnel(b, fmt.Sprint(tunnel)); err != nil {
					t.Fatal(err)
				}
				send()
			}
			synctest.Wait()
			if len(dev.got) != tunnel {
				t.Fatalf("round %d: %d tunnel packets of %d arrived; %v", round, len(dev.got), tunnel, b.Stats().Dropped)
			}
			send()
			dev.down()
			send()
			synctest.Wait()
			for range 13 {
				<-b.Gossip()
			}
		}
		if _, _, err := b.Bind().Open(0); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Bind().Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
			t.Errorf("a second device: %v", err)
		}
	})
}

// deafBind is a host whose loopback is down.
type deafBind struct {
	*underlaytest.Host
	opened atomic.Int32
}

func (b *deafBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.opened.Add(1)
	return b.Host.Open(port)
}

func (b *deafBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	if ep.DstIP().IsLoopback() {
		return errors.New("network is unreachable")
	}
	return b.Host.Send(bufs, ep)
}

func TestDetachWorksWithoutLoopback(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		b := &deafBind{Host: w.Host(netip.MustParseAddr("192.0.2.1"))}
		a := open(t, 0, Config{Bind: b, Port: 51820})
		defer a.Close()
		other := onNetwork(t, &w, 1, "192.0.2.2")
		defer other.Close()
		a.knows(other)
		other.knows(a)
		dev := attach(t, a.Socket)
		a.mustConnect(other)
		synctest.Wait() // the device reads
		began := time.Now()
		dev.down()
		if took := time.Since(began); took > time.Second {
			t.Errorf("detaching took %v", took)
		}
		if b.opened.Load() != 2 {
			t.Errorf("opened %d times", b.opened.Load())
		}
		if _, err := a.Probe(t.Context(), other.id()); err != nil {
			t.Errorf("after reopening: %v", err)
		}
		dev.up()
		synctest.Wait()
		a.Close() // with the device attached
		dev.down()
	})
}

// failing is a Bind whose reads fail for a while.
type failing struct {
	*underlaytest.Host
	left atomic.Int32
}

func (f *failing) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	funcs, port, err := f.Host.Open(port)
	for i, real := range funcs {
		funcs[i] = func(b [][]byte, s []int, e []conn.Endpoint) (int, error) {
			if f.left.Add(-1) >= 0 {
				return 0, &net.OpError{Op: "read", Err: errors.New("network is down")}
			}
			return real(b, s, e)
		}
	}
	return funcs, port, err
}

func TestReadErrorsAreWaitedOut(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		f := &failing{Host: w.Host(netip.MustParseAddr("192.0.2.1"))}
		f.left.Store(20)
		a := open(t, 0, Config{Bind: f, Port: 51820})
		defer a.Close()
		b := onNetwork(t, &w, 1, "192.0.2.2")
		defer b.Close()
		dev := attach(t, a.Socket) // the device must never see such an error: it would stop reading for good
		defer dev.down()
		time.Sleep(time.Minute)
		if _, err := b.Contact(t.Context(), nodeA); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseEndsEveryGoroutine(t *testing.T) {
	inBubble(t, func(t *testing.T) { // a bubble fails if a goroutine of it stays
		var w underlaytest.Network
		a, b := onNetwork(t, &w, 0, "192.0.2.1"), onNetwork(t, &w, 1, "192.0.2.2")
		a.knows(b)
		b.knows(a)
		a.mustConnect(b)
		dev := attach(t, a.Socket)
		done := make(chan error)
		go func() {
			_, _, err := a.PacketConn().ReadFrom(make([]byte, 10))
			done <- err
		}()
		synctest.Wait()
		b.Close()
		a.Close()
		a.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		dev.down()
		if err := a.Connect(t.Context(), b.id()); err == nil {
			// The last packet was a moment ago; what counts is that nothing hangs.
			t.Log("a fresh path is believed")
		}
		a.Forget(b.id())
		a.Hint(b.id(), []netip.AddrPort{nodeB})
		if _, err := a.Contact(t.Context(), nodeB); !errors.Is(err, ErrClosed) {
			t.Errorf("contact after close: %v", err)
		}
	})
	real, err := Open(Config{Key: keys[0], Peers: peer.NewTable(keys[0].ID())})
	if err != nil {
		t.Fatal(err)
	}
	real.Close()
	buf := make([]byte, 1<<16)
	if s := string(buf[:runtime.Stack(buf, true)]); strings.Contains(s, "underlay.(*Socket)") || strings.Contains(s, "underlay.(*reader)") {
		t.Errorf("goroutines left:\n%s", s)
	}
}

func TestListenClosesOtherAddresses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		h := w.Host(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("fd00::1"))
		a := open(t, 0, Config{Bind: h, Port: 51820, Listen: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
		defer a.Close()
		b := onNetwork(t, &w, 1, "192.0.2.2", "fd00::2")
		defer b.Close()
		if got := a.LocalEndpoints(); len(got) != 1 || got[0] != nodeA {
			t.Errorf("offers %v", got)
		}
		for _, addr := range []string{"198.51.100.1:51820", "[fd00::1]:51820"} {
			if _, err := b.Contact(t.Context(), netip.MustParseAddrPort(addr)); !errors.Is(err, ErrUnreachable) {
				t.Errorf("%s: %v", addr, err)
			}
		}
		if a.Stats().Dropped["not_listened"] == 0 {
			t.Error("not counted")
		}
		if _, err := b.Contact(t.Context(), nodeA); err != nil {
			t.Error(err)
		}
	})
}

func TestOfferedAddresses(t *testing.T) {
	all := []netip.Addr{}
	for _, s := range []string{"127.0.0.1", "::1", "192.168.1.7", "fe80::1%eth0", "fd12:3456::1", "10.86.0.1", "2001:db8::1", "192.168.1.7"} {
		all = append(all, netip.MustParseAddr(s))
	}
	overlay := netip.MustParsePrefix("fd12:3456::/48")
	for _, c := range []struct {
		name   string
		listen []string
		want   string
	}{
		{"everything but loopback, link-local and the overlay", nil, "[192.168.1.7 2001:db8::1]"},
		{"loopback if named", []string{"127.0.0.1"}, "[127.0.0.1]"},
		{"one family", []string{"0.0.0.0"}, "[192.168.1.7]"},
		{"both families", []string{"0.0.0.0", "::"}, "[192.168.1.7 2001:db8::1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var w underlaytest.Network
				var listen []netip.Addr
				for _, s := range c.listen {
					listen = append(listen, netip.MustParseAddr(s))
				}
				a := open(t, 0, Config{
					Bind: w.Host(), Listen: listen,
					Interfaces: func() ([]netip.Addr, error) { return all, nil },
					Exclude:    func(a netip.Addr) bool { return overlay.Contains(a) || a == netip.MustParseAddr("10.86.0.1") },
				})
				defer a.Close()
				if got := fmt.Sprint(*a.local.Load()); got != c.want {
					t.Errorf("offers %s, want %s", got, c.want)
				}
			})
		})
	}
}

package underlay

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
)

// onHost opens a member on a machine of the lab.
func onHost(t *testing.T, h *lab.Host, i int, v6 bool, changes chan struct{}) *end {
	t.Helper()
	var e *end
	// The addresses are given: the socket's own goroutines are not in the host's namespace.
	local := []netip.Addr{h.IPv4}
	if v6 {
		local = []netip.Addr{h.IPv6}
	}
	if err := h.Do(func() error {
		e = open(t, i, Config{Port: 51820, Changes: changes, Interfaces: func() ([]netip.Addr, error) { return local, nil }})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// TestARealPathThatShrinksAndGrowsIsFollowed has Linux send with and without the don't-fragment bit, through a router whose way out becomes
// narrow, too narrow for the tunnel, and wide.
func TestARealPathThatShrinksAndGrowsIsFollowed(t *testing.T) {
	lab.Need(t, "ip", "nft", "conntrack")
	t.Run("IPv4", func(t *testing.T) {
		followReal(t, lab.RouterConfig{NAT: lab.EasyNAT}, [3]int{1440, 1328, 8928})
	})
	t.Run("IPv6", func(t *testing.T) {
		followReal(t, lab.RouterConfig{IPv6: true}, [3]int{1408, 1312, 8912})
	})
}

// followReal expects the MTUs of a path of 1500 bytes, of 1400 and of 9000.
func followReal(t *testing.T, cfg lab.RouterConfig, want [3]int) {
	l := lab.New(t)
	server := l.Host("server")
	router := l.Router("router", cfg)
	host := router.AddHost("host")
	changes := make(chan struct{}, 1)
	a, b := onHost(t, host, 0, cfg.IPv6, changes), onHost(t, server, 1, cfg.IPv6, nil)
	a.knows(b)
	b.knows(a)
	if err := lab.Eventually(10*time.Second, func() error { return a.Connect(t.Context(), b.id()) }); err != nil {
		t.Fatal(err)
	}
	dev := attach(t, b.Socket)
	defer dev.down()
	// follow sends what the path is said to carry until it carries what it should, and all of it arrives.
	follow := func(want int, fragments bool) {
		t.Helper()
		began := time.Now()
		err := lab.Eventually(20*time.Second, func() error {
			p, _ := a.Path(b.id())
			for range 4 {
				_ = a.sendTunnel(b, "small")
				_ = a.sendLarge(b, p.MTU+wireGuardOverhead)
			}
			time.Sleep(50 * time.Millisecond) // the pace of the packets, and for them to arrive
			if got := drain(dev); p.MTU != want || p.Fragments != fragments || got < 8 {
				return fmt.Errorf("%d packets of 8 arrive, path %+v", got, p)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("want MTU %d, fragments %v: %v", want, fragments, err)
		}
		t.Logf("MTU %d, fragments %v after %v", want, fragments, time.Since(began))
	}
	follow(want[0], false)
	router.SetMTU(1400)
	follow(want[1], false)
	router.SetMTU(1280)
	follow(mtuFloor, true)
	for _, c := range []interface{ SetMTU(int) }{host, router, server} {
		c.SetMTU(9000)
	}
	changes <- struct{}{}
	follow(want[2], false)
}

package netchange

import (
	"context"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
)

// soon is beyond what any change takes on a loaded machine.
const soon = 10 * time.Second

func TestChangesOfARealNetworkAreSeen(t *testing.T) {
	lab.Need(t)
	l := lab.New(t)
	h := l.Host("h")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var events <-chan Event
	if err := h.Do(func() error {
		events = Watch(ctx, Config{IgnoreInterface: func(name string) bool { return name == "phantom0" }})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	ip := func(args ...string) {
		t.Helper()
		if out, err := h.Run("ip", args...); err != nil {
			t.Fatal(out, err)
		}
	}
	// Our own tunnel comes up, with addresses and routes, and what is renewed without a change: neither is an event. An address
	// that comes after them is, and proves that they have been looked at.
	ip("link", "add", "phantom0", "type", "veth", "peer", "name", "far")
	ip("link", "set", "far", "up")
	ip("addr", "add", "10.86.0.1/32", "dev", "phantom0")
	ip("link", "set", "phantom0", "up")
	ip("route", "add", "10.86.0.0/16", "dev", "phantom0")
	ip("addr", "change", h.IPv4.String()+"/24", "dev", "eth0", "preferred_lft", "3000", "valid_lft", "4000")
	if k := next(events, time.Second); k != 0 {
		t.Errorf("our own tunnel was seen as %v", k)
	}
	for _, step := range []struct {
		name string
		do   func()
		want Kind
	}{
		{"address added", func() { ip("addr", "add", "198.51.100.7/24", "dev", "eth0") }, Addresses},
		{"default route", func() { ip("route", "add", "default", "via", "192.0.2.9") }, Routes},
		{"default route moved", func() { ip("route", "replace", "default", "via", "192.0.2.10") }, Routes},
		{"IPv6 default route", func() { ip("-6", "route", "add", "default", "via", "2001:db8:1ab::9") }, Routes},
		{"larger packets allowed", func() { ip("link", "set", "eth0", "mtu", "9000") }, Addresses},
		{"cable pulled", h.Cut, Addresses},
		{"cable plugged in", h.Restore, Addresses},
		{"address removed", func() { ip("addr", "del", "198.51.100.7/24", "dev", "eth0") }, Addresses},
	} {
		step.do()
		for seen := Kind(0); seen&step.want == 0; {
			k := next(events, soon)
			if k == 0 {
				t.Fatalf("%s: seen %v, want %v", step.name, seen, step.want)
			}
			seen |= k
		}
		for next(events, 500*time.Millisecond) != 0 { // the rest of the same change
		}
	}
	cancel()
	for range events { // until it is closed
	}
}

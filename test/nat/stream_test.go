package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/internal/lab"
	"github.com/phantommesh/phantommesh/test/mesh"
)

const (
	// pauseMax is what a TCP stream may pause while its path is replaced. The promise is 2 s (1 s for a relay that dies) on the network; TCP's
	// doubling retransmission timer adds up to as much again, and a loaded machine of two cores the rest.
	pauseMax = 6 * time.Second
	// downTime is how long something stays broken while a stream runs.
	downTime = 8 * time.Second
)

// need skips unless a world can be built here and the program gets through NATs.
func need(t *testing.T) *world {
	t.Helper()
	lab.Need(t, tools...)
	w := newWorld(t)
	if r := w.hubs[0].Do("netcheck"); r.Code != mesh.Done && strings.Contains(r.Stderr, "this version cannot") {
		t.Skip("this version does not get through NATs")
	}
	return w
}

// link is two nodes with a stream between them.
type link struct {
	a, b   *mesh.Node
	echo   netip.AddrPort
	stream *mesh.Steady
}

// connect begins a stream once the path is of the wanted kind.
func connect(t *testing.T, a, b *mesh.Node, want way) *link {
	t.Helper()
	l := &link{a: a, b: b, echo: netip.AddrPortFrom(b.Addresses()[0], b.Echo())}
	settle(t, l, want)
	l.stream = a.Steady(l.echo)
	return l
}

// settle waits until the path is of a kind, with pings to keep it in use.
func settle(t *testing.T, l *link, want way) {
	t.Helper()
	if seen := way("none"); !l.a.Ping(l.b.Name, pace, settled, func(e mesh.Echoed) bool {
		if !e.Lost {
			seen = wayOf(e.Path)
		}
		return e.Lost || seen != want
	}) {
		t.Fatalf("from %s to %s: the path is %s after %s, want %s\n%s", l.a.Name, l.b.Name, seen, settled, want, explanation(l.a, l.b))
	}
}

// survives breaks something under the stream, waits, and checks that the stream paused no longer than it may.
func (l *link) survives(t *testing.T, what string, change func()) {
	t.Helper()
	change()
	time.Sleep(downTime) // the stream runs meanwhile: its pause is what is measured, not the end of this one
	if err := l.stream.Stop(pauseMax); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	t.Logf("%s: the stream paused %s at most; now %s", what, l.stream.Pause().Round(time.Millisecond), describe(l.a.Peer(l.b.Name).Path))
}

func describe(p mesh.Path) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s MTU %d", wayOf(p), p.Endpoint, p.MTU))
}

func TestAStreamOutlivesTheRelayItUses(t *testing.T) {
	w := need(t)
	a, b := w.join(hard), w.join(hard)
	if err := settlePair(a, b); err != nil { // two relays at hand
		t.Fatal(err)
	}
	appointed(t, a.Node, w.hubs)
	l := connect(t, a.Node, b.Node, relayed)
	via := a.Peer(b.Name).Path.Via
	for _, hub := range w.hubs {
		if hub.Status().Self.ID == via {
			l.survives(t, "relay killed", hub.Kill)
			return
		}
	}
	t.Fatalf("relayed by %s, which is none of the two public nodes", via)
}

// appointed waits until the mesh has appointed the public nodes to relay, and a node knows.
func appointed(t *testing.T, asked *mesh.Node, hubs []*mesh.Node) {
	t.Helper()
	var want []string
	for _, h := range hubs {
		want = append(want, h.Name)
	}
	slices.Sort(want)
	if err := lab.Eventually(settled, func() error {
		var l struct {
			Regions []struct {
				Region string
				Relays []struct{ Name string }
			}
		}
		asked.Get(&l, "coordinators")
		for _, r := range l.Regions {
			var names []string
			for _, d := range r.Relays {
				names = append(names, d.Name)
			}
			if slices.Sort(names); !slices.Equal(names, want) {
				return fmt.Errorf("region %s has the relays %v, want %v", r.Region, names, want)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAStreamOutlivesARebootOfItsRouter(t *testing.T) {
	w := need(t)
	for _, k := range []kind{easy, hard} {
		t.Run(string(k), func(t *testing.T) {
			a, b := w.join(k), w.join(easy)
			l := connect(t, a.Node, b.Node, direct)
			l.survives(t, "every mapping of an "+string(k)+" NAT gone", a.routers[0].Rebind)
			settle(t, l, direct)
		})
	}
}

func TestAStreamOutlivesAMove(t *testing.T) {
	w := need(t)
	for _, k := range []kind{public, easy} {
		t.Run(string(k), func(t *testing.T) {
			a, b := w.join(k), w.join(easy)
			l := connect(t, a.Node, b.Node, direct)
			l.survives(t, "another address", a.Host.Readdress)
			settle(t, l, direct)
		})
	}
}

func TestAPathThatLosesOneWayIsReplaced(t *testing.T) {
	w := need(t)
	for _, c := range []struct{ name, match string }{
		{"everything", ""},
		// WireGuard's transport messages only: checks still pass.
		{"data, and not checks", "udp dport 51820 @th,64,32 0x04000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := w.join(public), w.join(public)
			l := connect(t, a.Node, b.Node, direct)
			// The active path of the two IP versions; the other one, and the relays, are left.
			from := "ip saddr " + b.Host.IPv4.String()
			if strings.HasPrefix(a.Peer(b.Name).Path.Endpoint, "[") {
				from = "ip6 saddr " + b.Host.IPv6.String()
			}
			l.survives(t, "one way lost: "+c.name, func() { a.Host.Drop(lab.In, from+" "+c.match) })
		})
	}
}

func TestAStreamMovesToTheSecondUplink(t *testing.T) {
	w := need(t)
	a, b := w.join(easy), w.join(public)
	w.lab.Router("second", lab.RouterConfig{NAT: lab.EasyNAT, Subnet: "10.9.0.0/24"}).Plug(a.Host)
	l := connect(t, a.Node, b.Node, direct)
	l.survives(t, "first uplink cut", a.Host.Cut)
	settle(t, l, direct)
}

func TestNeighboursStayDirectWithoutTheInternet(t *testing.T) {
	w := need(t)
	a := w.join(easy)
	b := mesh.Start(t, w.lab, a.routers[0].AddHost("neighbour"))
	b.Join(w.token)
	l := connect(t, a.Node, b, direct)
	if path := a.Peer(b.Name).Path; !strings.HasPrefix(path.Endpoint, b.Host.IPv4.String()+":") {
		t.Errorf("the path is %+v, want one within the LAN", path)
	}
	l.survives(t, "internet gone", a.routers[0].Cut)
}

func TestThePathsMTUIsFollowed(t *testing.T) {
	w := need(t)
	a, b := w.join(carrier), w.join(public)
	l := connect(t, a.Node, b.Node, direct)
	line := a.routers[0] // its way out is a link between two routers: both say what is too large
	for _, step := range []struct {
		name     string
		change   func()
		min, max int // of the tunnel, which is never below IPv6's least: what is too large then is cut on the way
	}{
		{"9000 everywhere", func() {
			for _, c := range []interface{ SetMTU(int) }{a.Host, line, a.routers[1], b.Host} {
				c.SetMTU(9000)
			}
		}, 8000, 8960},
		{"1280 on the way", func() { line.SetMTU(1280) }, 1280, 1280},
		{"1400 on the way, and nobody says so", func() { line.DropLarger(1400) }, 1280, 1340},
	} {
		step.change()
		err := lab.Eventually(settled, func() error {
			if err := a.Talk(l.echo, 256<<10); err != nil {
				return err
			}
			if mtu := a.Peer(b.Name).Path.MTU; mtu < step.min || mtu > step.max {
				return fmt.Errorf("the tunnel's MTU is %d, want %d to %d", mtu, step.min, step.max)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		t.Logf("%s: %s", step.name, describe(a.Peer(b.Name).Path))
	}
	if err := l.stream.Stop(settled); err != nil {
		t.Error(err)
	}
}

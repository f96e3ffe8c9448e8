package underlay

import (
	"bytes"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// wire is a link in memory: what is sent on one end is delivered at the other.
type wire struct {
	kind   LinkKind
	remote netip.AddrPort
	to     *Socket
	at     netip.AddrPort // the link address there
	delay  time.Duration
	cut    atomic.Bool
}

func (w *wire) Send(bufs [][]byte) error {
	for _, b := range bufs {
		switch {
		case w.cut.Load():
		case w.delay > 0:
			b = bytes.Clone(b)
			time.AfterFunc(w.delay, func() { w.to.Deliver(w.at, b) })
		default:
			w.to.Deliver(w.at, b)
		}
	}
	return nil
}

func (w *wire) Kind() LinkKind         { return w.kind }
func (w *wire) Via() identity.NodeID   { return identity.NodeID{} }
func (w *wire) Remote() netip.AddrPort { return w.remote }

// plug connects two nodes by a link of the kind and returns its address at either.
func plug(t testing.TB, a, b *end, kind LinkKind) (atA, atB netip.AddrPort, ab, ba *wire) {
	t.Helper()
	ab, ba = &wire{kind: kind, remote: nodeB, to: b.Socket}, &wire{kind: kind, remote: nodeA, to: a.Socket}
	var err error
	if atA, err = a.AddLink(ab); err != nil {
		t.Fatal(err)
	}
	if atB, err = b.AddLink(ba); err != nil {
		t.Fatal(err)
	}
	ab.at, ba.at = atB, atA
	return atA, atB, ab, ba
}

// apart makes two nodes that know each other and whose UDP packets to each other are lost.
func apart(t *testing.T, w *underlaytest.Network) (a, b *end) {
	a, b = onNetwork(t, w, 0, "192.0.2.1"), onNetwork(t, w, 1, "192.0.2.2")
	w.Set(underlaytest.Hooks{Drop: func(from, to netip.AddrPort, _ []byte) bool {
		return from == nodeA && to == nodeB || from == nodeB && to == nodeA
	}})
	a.knows(b)
	b.knows(a)
	return a, b
}

func TestALinkIsAPath(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := apart(t, &w)
		defer a.Close()
		defer b.Close()
		atA, _, _, _ := plug(t, a, b, LinkPipe)
		if err := a.Try(b.id(), []netip.AddrPort{atA}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		a.mustConnect(b)
		p, _ := a.Path(b.id())
		if p.Kind != PathDirect || p.Transport != "tcp" || p.Endpoint != nodeB || !p.Via.IsZero() {
			t.Errorf("path %+v", p)
		}
		dev := attach(t, b.Socket)
		if err := a.sendTunnel(b, "hello"); err != nil {
			t.Fatal(err)
		}
		if got := <-dev.got; got != a.id().String()+" hello............" {
			t.Errorf("tunnel packet %q", got)
		}
		if err := a.SendGossip(b.id(), []byte("rumour"), true); err != nil {
			t.Fatal(err)
		}
		if g := <-b.Gossip(); string(g.Data) != "rumour" || g.FromID != a.id() || g.From.IsValid() {
			t.Errorf("gossip %+v", g)
		}
		quicPing(t, a, b)
		quicPing(t, b, a)
		dev.down() // ends the third ReceiveFunc too
		if err := a.sendTunnel(b, "nobody reads"); err != nil {
			t.Fatal(err)
		}
		if b.Stats().Dropped["no_device"] != 1 {
			t.Errorf("dropped %v", b.Stats().Dropped)
		}
		dev.up()
		if err := a.sendTunnel(b, "back"); err != nil {
			t.Fatal(err)
		}
		if got := <-dev.got; got != a.id().String()+" back............." {
			t.Errorf("tunnel packet %q", got)
		}
		dev.down()
		if len(a.Observed())+len(b.Observed()) != 0 {
			t.Errorf("a link told addresses: %v %v", a.Observed(), b.Observed())
		}
	})
}

func TestARemovedLinkIsReplacedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := apart(t, &w)
		defer a.Close()
		defer b.Close()
		fast, _, _, _ := plug(t, a, b, LinkSpare)
		slow, _, _, _ := plug(t, a, b, LinkPipe)
		if err := a.Try(b.id(), []netip.AddrPort{slow, fast}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p, _ := a.Path(b.id()); p.Transport != "udp" || len(p.Standby) != 1 || p.Standby[0].Transport != "tcp" {
			t.Fatalf("path %+v", p)
		}
		a.RemoveLink(fast)
		a.RemoveLink(fast)
		synctest.Wait()
		if p, _ := a.Path(b.id()); p.Transport != "tcp" || len(p.Standby) != 0 {
			t.Fatalf("path %+v", p)
		}
		a.Deliver(fast, []byte{gossipByte})
		if a.Stats().Dropped["no_link"] != 1 {
			t.Errorf("dropped %v", a.Stats().Dropped)
		}
		a.RemoveLink(slow)
		synctest.Wait()
		if p, _ := a.Path(b.id()); p.Kind != PathNone {
			t.Errorf("path %+v", p)
		}
		if err := a.sendTunnel(b, "x"); !errors.Is(err, ErrNoPath) {
			t.Errorf("sent over nothing: %v", err)
		}
	})
}

// TestLinkAddressesFromOutsideAreRefused holds the prefix of links against everybody who can tell us an address.
func TestLinkAddressesFromOutsideAreRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := apart(t, &w)
		defer a.Close()
		defer b.Close()
		c := onNetwork(t, &w, 2, "192.0.2.3")
		defer c.Close()
		a.knows(c)
		atA, _, _, _ := plug(t, a, b, LinkPipe)
		if err := a.Try(b.id(), []netip.AddrPort{atA}); err != nil {
			t.Fatal(err)
		}
		a.mustConnect(b)
		a.hears(b, nodeB)
		synctest.Wait() // for the checks of that address, which belong to the search

		checks := a.Stats().Checks
		free := linkAddr(LinkPipe, 4711)
		zoned := netip.AddrPortFrom(free.Addr().WithZone("eth0"), linkPort)
		for _, addr := range []netip.AddrPort{atA, free, zoned} {
			a.hears(c, addr)
			a.Hint(c.id(), []netip.AddrPort{addr})
			if err := a.Connect(t.Context(), c.id()); !errors.Is(err, ErrNoCandidates) {
				t.Errorf("%v in a record and a hint: %v", addr, err)
			}
			if _, err := a.Contact(t.Context(), addr); !errors.Is(err, ErrNoCandidates) {
				t.Errorf("contact %v: %v", addr, err)
			}
			if _, _, err := a.MappedBy(t.Context(), addr); !errors.Is(err, ErrNoCandidates) {
				t.Errorf("mapped by %v: %v", addr, err)
			}
		}
		if err := a.Try(c.id(), []netip.AddrPort{free}); !errors.Is(err, ErrNoCandidates) {
			t.Errorf("a link that is not there: %v", err)
		}
		if n := a.Stats().Checks - checks; n != 0 {
			t.Errorf("%d checks were sent", n)
		}

		// UDP with a link's address as its source is not that link's.
		dev := attach(t, a.Socket)
		defer dev.down()
		w.Deliver(atA, nodeA, wireGuard("forged"))
		w.Deliver(atA, nodeA, []byte{0xc0, 1})
		w.Deliver(free, nodeA, []byte{gossipByte, 1})
		synctest.Wait()
		if len(dev.got) != 0 || len(a.quic) != 0 || len(a.Gossip()) != 0 || a.Stats().Dropped["bogus"] != 3 {
			t.Errorf("taken in; dropped %v", a.Stats().Dropped)
		}
	})
}

func TestLinksAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a := onNetwork(t, &w, 0, "192.0.2.1")
		defer a.Close()
		seen := map[netip.AddrPort]bool{}
		var last netip.AddrPort
		for range linksMax {
			addr, err := a.AddLink(&wire{kind: LinkSpare, to: a.Socket})
			if err != nil || seen[addr] {
				t.Fatal(addr, err)
			}
			seen[addr], last = true, addr
		}
		if _, err := a.AddLink(&wire{kind: LinkSpare}); !errors.Is(err, ErrTooManyLinks) {
			t.Errorf("one more: %v", err)
		}
		for range 10 {
			a.RemoveLink(last)
			next, err := a.AddLink(&wire{kind: LinkSpare, to: a.Socket})
			if err != nil || seen[next] {
				t.Fatal("an address came again", next, err)
			}
			seen[next], last = true, next
		}
		if _, err := a.AddLink(&wire{kind: 9}); err == nil {
			t.Error("a link of no kind")
		}
	})
}

// TestASilentLinkGivesWay lets a link die without a word.
func TestASilentLinkGivesWay(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var w underlaytest.Network
		a, b := apart(t, &w)
		defer a.Close()
		defer b.Close()
		good, _, _, _ := plug(t, a, b, LinkPipe)
		bad, _, there, back := plug(t, a, b, LinkSpare)
		there.delay, back.delay = 5*time.Millisecond, 5*time.Millisecond
		if err := a.Try(b.id(), []netip.AddrPort{good, bad}); err != nil {
			t.Fatal(err)
		}
		a.mustConnect(b)
		dev := attach(t, b.Socket)
		defer dev.down()
		there.cut.Store(true)
		back.cut.Store(true)
		began := time.Now()
		for len(dev.got) == 0 && time.Since(began) < 5*time.Second {
			_ = a.sendTunnel(b, "x")
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
		}
		if took := time.Since(began); took >= time.Second {
			t.Errorf("replaced after %v", took)
		}
	})
}

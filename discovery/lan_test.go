package discovery

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
)

// fakeLAN is one network in memory, IPv4, of hosts 192.0.2.1 and up.
type fakeLAN struct {
	mu     sync.Mutex
	hosts  []*fakeHost
	frames [][]byte // everything that was sent
}

type fakeHost struct {
	lan    *fakeLAN
	addr   netip.Addr
	in     chan fakePacket
	closed chan struct{}
	once   sync.Once
}

type fakePacket struct {
	raw []byte
	at  Arrival
}

func (l *fakeLAN) host(t *testing.T) *fakeHost {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &fakeHost{lan: l, addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(len(l.hosts) + 1)}), in: make(chan fakePacket, 10_000), closed: make(chan struct{})}
	l.hosts = append(l.hosts, h)
	return h
}

func (h *fakeHost) Families() []int { return []int{4} }
func (h *fakeHost) Segments() []Segment {
	return []Segment{{Index: 2, Name: "eth0", Prefixes: []netip.Prefix{netip.PrefixFrom(h.addr, 24)}}}
}
func (h *fakeHost) Send(_ int, _ Segment, b []byte) error {
	h.lan.spread(b, Arrival{From: h.addr, Segment: 2, HopLimit: 255})
	return nil
}
func (l *fakeLAN) spread(b []byte, at Arrival) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frames = append(l.frames, bytes.Clone(b))
	for _, h := range l.hosts {
		h.in <- fakePacket{bytes.Clone(b), at}
	}
}
func (h *fakeHost) Read(_ int, b []byte) (int, Arrival, error) {
	select {
	case p := <-h.in:
		return copy(b, p.raw), p.at, nil
	case <-h.closed:
		return 0, Arrival{}, net.ErrClosed
	}
}
func (h *fakeHost) Close() error { h.once.Do(func() { close(h.closed) }); return nil }

func (l *fakeLAN) open(t *testing.T) *LAN {
	t.Helper()
	lan, err := OpenLAN(LANConfig{Multicast: l.host(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lan.Close() })
	return lan
}

var home = Beacon{Mesh: "home", Fingerprint: identity.MeshID{1}.Short(), Port: 51820}

func announce(t *testing.T, l *LAN, b Beacon) {
	t.Helper()
	if err := l.Announce(b); err != nil {
		t.Fatal(err)
	}
}

func TestASearchFindsWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net fakeLAN
		member, other := net.open(t), net.open(t)
		announce(t, member, home)
		announce(t, other, Beacon{Mesh: "lab", Fingerprint: identity.MeshID{2}.Short(), Port: 7})
		time.Sleep(time.Hour)
		joiner := net.open(t)
		began := time.Now()
		heard := func(name string) func([]Neighbour) bool {
			return func(all []Neighbour) bool {
				return slices.ContainsFunc(all, func(n Neighbour) bool { return n.Mesh == name })
			}
		}
		found := joiner.Search(t.Context(), 600*time.Millisecond, 1500*time.Millisecond, heard("home"))
		if took := time.Since(began); took != 600*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		began = time.Now()
		joiner.Search(t.Context(), 600*time.Millisecond, 1500*time.Millisecond, heard("nobody"))
		if took := time.Since(began); took != 1500*time.Millisecond {
			t.Errorf("it took %s to find nobody", took)
		}
		if len(found) != 2 {
			t.Fatalf("found %+v", found)
		}
		i := slices.IndexFunc(found, func(n Neighbour) bool { return n.Mesh == "home" })
		if i < 0 || found[i].Fingerprint != home.Fingerprint || !slices.Equal(found[i].Addrs, addrs("192.0.2.1:51820")) {
			t.Errorf("found %+v", found)
		}
		member.Silence()
		synctest.Wait()
		if left := joiner.Neighbours(); len(left) != 1 || left[0].Mesh != "lab" {
			t.Errorf("after the goodbye: %+v", left)
		}
		_ = other.cfg.Multicast.Close() // it falls silent without a word
		time.Sleep(2*neighbourLife + time.Second)
		if left := joiner.Neighbours(); len(left) > 1 {
			t.Errorf("after its life: %+v", left)
		}
	})
}

func TestABeaconTellsNothingButNameFingerprintAndPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net fakeLAN
		member := net.open(t)
		announce(t, member, home)
		net.open(t).Search(t.Context(), time.Second, time.Second, nil)
		net.mu.Lock()
		defer net.mu.Unlock()
		for _, f := range net.frames {
			m, err := parseMessage(f)
			if err != nil {
				t.Fatal(err)
			}
			if m.query {
				continue
			}
			want := home
			want.Label = member.Label()
			if got := *m.beacon; got.Mesh != want.Mesh || got.Fingerprint != want.Fingerprint || got.Port != want.Port || got.Label != want.Label || len(got.Addrs) != 0 {
				t.Errorf("got %+v, want %+v", got, want)
			}
			again, err := encodeBeacon(*m.beacon)
			if err != nil || !bytes.Equal(again, f) {
				t.Errorf("there is more in the packet than in the beacon: %q", f)
			}
		}
	})
}

func TestWhoIsSilentSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net fakeLAN
		net.open(t)
		asker := net.open(t)
		asker.Ask()
		time.Sleep(time.Hour)
		net.mu.Lock()
		defer net.mu.Unlock()
		if len(net.frames) != 1 {
			t.Errorf("%d packets, only the question was sent", len(net.frames))
		}
	})
}

func TestAFloodIsBoundedAndHarmsNobodyWhoIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net fakeLAN
		member, joiner := net.open(t), net.open(t)
		announce(t, member, home)
		synctest.Wait()
		forge := func(n int, from netip.Addr) {
			b := home
			b.Label, b.Fingerprint = fmt.Sprintf("%016x", n), identity.MeshID{byte(n), byte(n >> 8), 9}.Short()
			raw, err := encodeBeacon(b)
			if err != nil {
				t.Fatal(err)
			}
			net.spread(raw, Arrival{From: from, Segment: 2, HopLimit: 255})
		}
		for n := range 400 { // from one address
			forge(n, netip.MustParseAddr("192.0.2.200"))
		}
		synctest.Wait()
		if got := len(joiner.Neighbours()); got != 1+perSourceMax {
			t.Errorf("%d neighbours after a flood from one address", got)
		}
		time.Sleep(time.Second)
		for n := range 5000 { // from many
			forge(1000+n, netip.AddrFrom4([4]byte{192, 0, 2, byte(20 + n%200)}))
		}
		synctest.Wait()
		got := joiner.Neighbours()
		if len(got) != neighboursMax || !slices.ContainsFunc(got, func(n Neighbour) bool { return n.Label == member.Label() }) {
			t.Errorf("%d neighbours, the member's among them", len(got))
		}
		s := joiner.Stats()
		if s.Flooded == 0 || s.Full == 0 || s.Received > 3*parseBurst {
			t.Errorf("%+v", s)
		}
		// Questions are answered at a bounded rate.
		query, err := encodeQuery()
		if err != nil {
			t.Fatal(err)
		}
		before := member.Stats().Sent
		for range 100 {
			net.spread(query, Arrival{From: netip.MustParseAddr("192.0.2.200"), Segment: 2, HopLimit: 255})
			time.Sleep(10 * time.Millisecond)
		}
		if sent := member.Stats().Sent - before; sent > 6 {
			t.Errorf("%d answers to 100 questions in a second", sent)
		}
	})
}

func TestWhatDoesNotComeFromTheLANIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net fakeLAN
		l := net.open(t)
		b := home
		b.Label = strings.Repeat("a", labelSize)
		raw, err := encodeBeacon(b)
		if err != nil {
			t.Fatal(err)
		}
		near := netip.MustParseAddr("192.0.2.9")
		for _, at := range []Arrival{
			{From: near, Segment: 2, HopLimit: 254},
			{From: near, Segment: 3, HopLimit: 255},
			{From: netip.MustParseAddr("203.0.113.1"), Segment: 2, HopLimit: 255},
		} {
			net.spread(raw, at)
		}
		bye := b
		bye.Bye = true
		goodbye, _ := encodeBeacon(bye)
		net.spread(raw, Arrival{From: near, Segment: 2, HopLimit: 255})
		net.spread(goodbye, Arrival{From: netip.MustParseAddr("192.0.2.66"), Segment: 2, HopLimit: 255}) // somebody else's goodbye
		net.spread(raw[:len(raw)-1], Arrival{From: near, Segment: 2, HopLimit: 255})
		synctest.Wait()
		if got := l.Neighbours(); len(got) != 1 || l.Stats().OffLink != 3 {
			t.Errorf("%+v %+v", got, l.Stats())
		}
	})
}

func TestAddressesOfABeaconCountOnlyInItsOwnNetwork(t *testing.T) {
	on := Segment{Index: 2, Prefixes: []netip.Prefix{netip.MustParsePrefix("fd01::5/64"), netip.MustParsePrefix("fe80::5/64")}}
	b := Beacon{Port: 9, Addrs: []netip.Addr{netip.MustParseAddr("fd01::1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1")}}
	if got := reachable(b, netip.MustParseAddr("fe80::1"), on); !slices.Equal(got, addrs("[fd01::1]:9")) {
		t.Errorf("got %v", got)
	}
}

func TestForgedBeaconsAreRefused(t *testing.T) {
	good := home
	good.Label = strings.Repeat("0a", labelSize/2)
	for name, change := range map[string]func(*Beacon){
		"no port":              func(b *Beacon) { b.Port = 0 },
		"a name for terminals": func(b *Beacon) { b.Mesh = "a\x1b[2J" },
		"no name":              func(b *Beacon) { b.Mesh = "" },
		"a long fingerprint":   func(b *Beacon) { b.Fingerprint += "a" },
		"a bad fingerprint":    func(b *Beacon) { b.Fingerprint = "AAAAAAA1" },
		"a short label":        func(b *Beacon) { b.Label = "0a" },
		"a label that is text": func(b *Beacon) { b.Label = strings.Repeat("x", labelSize) },
	} {
		b := good
		change(&b)
		if _, err := encodeBeacon(b); err == nil {
			t.Errorf("%s: made", name)
		}
	}
	for _, stage := range []Stage{StageMember, StageSeeking, StageFounding} {
		b := good
		b.Stage = stage
		raw, err := encodeBeacon(b)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := parseMessage(raw); err != nil || m.beacon.Stage != stage {
			t.Errorf("%v %v", m.beacon, err)
		}
	}
}

func FuzzBeacon(f *testing.F) {
	b := home
	b.Label = strings.Repeat("0a", labelSize/2)
	b.Addrs = []netip.Addr{netip.MustParseAddr("fd01::1")}
	raw, err := encodeBeacon(b)
	if err != nil {
		f.Fatal(err)
	}
	query, err := encodeQuery()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(query)
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseMessage(raw)
		if err != nil || m.query {
			return
		}
		if m.beacon == nil || m.beacon.check() != nil || len(m.beacon.Addrs) > beaconAddrsMax {
			t.Fatalf("%+v was believed", m.beacon)
		}
	})
}

package gossip

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// drain returns the rumours that wait.
func drain(p *Pool) []Rumour {
	var out []Rumour
	for {
		select {
		case r := <-p.host.Rumours():
			out = append(out, r)
		default:
			return out
		}
	}
}

func TestARumourReachesEachMemberOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.loss = 0.02
		hosts := w.hosts(6)
		startAll(t, hosts)
		defer closeAll(hosts)
		eventually(t, 3*time.Second, "all alive", func() bool { return whole(hosts) })
		const count = 20
		for i := range count {
			payload := bytes.Repeat([]byte{byte(i)}, RumourMax)
			if err := hosts[0].pool.Load().host.Rumour(uint8(i), payload); err != nil {
				t.Fatal(err)
			}
		}
		// Each host tells each of them ten times, one to a packet: it ends when all have done so, after some 15 s.
		took := eventually(t, time.Minute, "all rumours told", func() bool {
			for _, h := range hosts {
				if h.pool.Load().spreading.NumQueued() > 1 { // one stays, see newRumours
					return false
				}
			}
			return true
		})
		t.Logf("took %v", took)
		missing := 0
		for _, h := range hosts[1:] {
			seen := map[uint8]bool{}
			for _, r := range drain(h.pool.Load()) {
				if r.From != hosts[0].id || len(r.Payload) != RumourMax || r.Payload[0] != r.Topic || r.Topic >= count || seen[r.Topic] {
					t.Errorf("got %v of %v, seen before: %v", r.Topic, r.From, seen[r.Topic])
				}
				seen[r.Topic] = true
			}
			missing += count - len(seen)
		}
		// rumourMult leaves one of these hundred out in one run of 500, and two in none that anybody will see.
		if missing > 1 {
			t.Errorf("%d rumours of %d did not come", missing, count*(len(hosts)-1))
		}
		if own := drain(hosts[0].pool.Load()); len(own) != 0 {
			t.Error("the origin heard its own")
		}
	})
}

func TestARumourTooLargeIsRefusedWhereItStarts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(1)
		p := hosts[0].start()
		defer closeAll(hosts)
		if err := p.host.Rumour(1, make([]byte, RumourMax+1)); !errors.Is(err, ErrRumour) {
			t.Errorf("got %v", err)
		}
		if err := p.host.Rumour(1, nil); err != nil {
			t.Error(err)
		}
	})
}

// signedRumour returns a rumour of h, changed by f before it is signed.
func signedRumour(t testing.TB, h *host, f func(*rumourWire)) *rumourWire {
	t.Helper()
	r := &rumourWire{Origin: h.id[:], Sequence: 7, At: uint64(time.Now().UnixMilli()), Topic: 3, Payload: []byte("x")}
	f(r)
	b, err := r.signedBytes(testMesh)
	if err != nil {
		t.Fatal(err)
	}
	r.Signature = h.key.SignEd25519(rumourContext, b)
	return r
}

func TestRumoursThatAreNotTheirOriginsOwnAreRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(4)
		p := hosts[0].start()
		defer closeAll(hosts)
		stranger := w.host(4)
		hosts[0].table.Revoke(hosts[3].id)
		origin := hosts[1]
		none := func(*rumourWire) {}
		ago := func(d time.Duration) func(*rumourWire) {
			return func(r *rumourWire) { r.At = uint64(time.Now().Add(-d).UnixMilli()) }
		}
		forged := signedRumour(t, hosts[2], none)
		forged.Origin = origin.id[:]
		changed := signedRumour(t, origin, none)
		changed.Topic++
		for _, c := range []struct {
			name   string
			r      *rumourWire
			reason refusal
			ok     bool
		}{
			{"forged", forged, refusedRumour, false},
			{"changed", changed, refusedRumour, false},
			{"of a stranger", signedRumour(t, stranger, none), refusedStranger, false},
			{"of a revoked member", signedRumour(t, hosts[3], none), refusedRevoked, false},
			{"too old", signedRumour(t, origin, ago(rumourLife+time.Second)), refusedStale, false},
			{"from the future", signedRumour(t, origin, ago(-clockSkew-time.Second)), refusedStale, false},
			{"from the end of time", signedRumour(t, origin, func(r *rumourWire) { r.At = 1<<64 - 1 }), refusedStale, false},
			{"our own come back", signedRumour(t, hosts[0], none), refusedRepeat, false},
			{"honest", signedRumour(t, origin, none), 0, true},
			{"again", signedRumour(t, origin, none), refusedRepeat, false},
			{"honest, clocks apart", signedRumour(t, origin, func(r *rumourWire) { ago(4 * time.Minute)(r); r.Sequence = 2 }), 0, true},
		} {
			b, err := wire.Marshal(c.r)
			if err != nil {
				t.Fatal(err)
			}
			if why, ok := p.host.rumours.hear(heardIn{p, b}, time.Now()); ok != c.ok || why != c.reason {
				t.Errorf("%s: got %v for %q", c.name, ok, why)
			}
		}
		if got := drain(p); len(got) != 2 {
			t.Errorf("%d rumours came through", len(got))
		}
	})
}

// Regression: each rumour had a packet of its own, so that fifty who came back together and had one thing each to say were a thousand packets each.
func TestRumoursThatAreTogetherShareAPacket(t *testing.T) {
	const count, size = 7, 20 // some 150 bytes each
	spent := func(rumours int) (packets uint64) {
		inBubble(t, func(t *testing.T) {
			w := newWorld(t)
			hosts := w.hosts(4)
			startAll(t, hosts)
			defer closeAll(hosts)
			eventually(t, 3*time.Second, "all alive", func() bool { return whole(hosts) })
			time.Sleep(time.Minute)
			before := w.packets.Load()
			for i := range rumours {
				if err := hosts[0].pool.Load().host.Rumour(uint8(i), make([]byte, size)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
			packets = w.packets.Load() - before
			for _, h := range hosts[1:] {
				if got := len(drain(h.pool.Load())); got != rumours {
					t.Errorf("%d rumours of %d came", got, rumours)
				}
			}
		})
		return packets
	}
	idle := spent(0)
	one, several := spent(1)-idle, spent(count)-idle
	t.Logf("%d packets when nothing is to be told, %d more for one rumour, %d more for %d", idle, one, several, count)
	if several > 2*one {
		t.Errorf("%d rumours took %d packets, one took %d", count, several, one)
	}
}

func TestRumoursOfAMessageAreHeardOneByOne(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(2)
		p := hosts[0].start()
		defer closeAll(hosts)
		numbered := func(n uint64) []byte {
			b, err := wire.Marshal(signedRumour(t, hosts[1], func(r *rumourWire) { r.Sequence = n }))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		message := bytes.Join([][]byte{numbered(1), numbered(2), numbered(2), {0x01}, numbered(3), {0xff}, numbered(4)}, nil)
		p.host.rumours.hearAll(heardIn{p, message}, time.Now())
		if got := len(drain(p)); got != 3 {
			t.Errorf("%d rumours were heard, want the three that differ and are not behind what is no CBOR", got)
		}
		for why, want := range map[refusal]uint64{refusedRepeat: 1, refusedRumour: 2} {
			if got := p.host.stats.refused[why].Load(); got != want {
				t.Errorf("%d refused as %q, want %d", got, why, want)
			}
		}
		p.host.rumours.take(p, make([]byte, packetMax+1))
		if got := p.host.stats.refused[refusedRumour].Load(); got != 3 {
			t.Error("more than a packet was taken")
		}
	})
}

func TestRumoursAreHeardAfterAClockThatWasAheadIsPutRight(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(2)
		p := hosts[0].start()
		defer closeAll(hosts)
		ahead := time.Now().Add(90 * 24 * time.Hour)
		hear := func(sequence uint64, at time.Time) (refusal, bool) {
			b, err := wire.Marshal(signedRumour(t, hosts[1], func(r *rumourWire) { r.Sequence, r.At = sequence, uint64(at.UnixMilli()) }))
			if err != nil {
				t.Fatal(err)
			}
			return p.host.rumours.hear(heardIn{p, b}, at)
		}
		for i := range uint64(heardPerOrigin) {
			if why, ok := hear(i+1, ahead); !ok {
				t.Fatalf("rumour %d refused: %v", i, why)
			}
		}
		time.Sleep(rumourLife + time.Second)
		if why, ok := hear(heardPerOrigin+1, time.Now()); !ok {
			t.Errorf("a rumour is refused because of the time that the clock showed once: %v", why)
		}
	})
}

func TestWhatWasHeardIsRememberedWithinBounds(t *testing.T) {
	h := newHeard()
	now := time.Unix(1000, 0)
	one := identity.NodeID{1}
	for i := range heardPerOrigin {
		n := rumourName{one, uint64(i)}
		if why, ok := h.admits(n, now); !ok {
			t.Fatalf("rumour %d refused: %v", i, why)
		}
		h.add(n, now.Add(rumourLife))
	}
	if why, ok := h.admits(rumourName{one, 1 << 40}, now); ok || why != refusedFlood {
		t.Errorf("a flood is let through: %v", why)
	}
	if why, ok := h.admits(rumourName{one, 5}, now); ok || why != refusedRepeat {
		t.Errorf("a repetition is let through: %v", why)
	}
	for i := range heardMax {
		h.add(rumourName{identity.NodeID{2, byte(i >> 10), byte(i >> 6)}, uint64(i)}, now.Add(2*rumourLife))
	}
	if len(h.names) > heardMax || len(h.order) > 3*heardMax {
		t.Errorf("%d names, %d in order", len(h.names), len(h.order))
	}
	if _, ok := h.admits(rumourName{one, 1 << 40}, now.Add(3*rumourLife)); !ok || len(h.names) != 0 || len(h.counts) != 0 {
		t.Errorf("after all have ended %d names and %d counts are left", len(h.names), len(h.counts))
	}
}

func FuzzRumour(f *testing.F) {
	r := &rumourWire{Origin: make([]byte, 32), Payload: []byte("x"), Signature: make([]byte, 64)}
	good, err := wire.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte{0x86})
	f.Fuzz(func(t *testing.T, b []byte) {
		for rest := b; len(rest) > 0; {
			var one []byte
			var err error
			if one, rest, err = wire.First(rest); err != nil {
				return
			}
			r, err := parseRumour(one)
			if err != nil {
				continue
			}
			again, err := wire.Marshal(r)
			if err != nil || !bytes.Equal(again, one) {
				t.Fatalf("%x is %x again (%v)", one, again, err)
			}
		}
	})
}

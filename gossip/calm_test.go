package gossip

import (
	"bytes"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

func TestAfterALongCalmAKilledNodeIsDeadToAllWithinAMinute(t *testing.T) {
	if testing.Short() {
		t.Skip("hours of virtual time: the unit stage runs it without the race detector")
	}
	for range 10 {
		inBubble(t, func(t *testing.T) {
			w := newWorld(t)
			hosts := w.hosts(5)
			startAll(t, hosts)
			defer closeAll(hosts)
			time.Sleep(10 * time.Minute)
			if s := hosts[0].pool.Load().Stats(); s.ProbesSpared == 0 || s.Health != 0 {
				t.Fatalf("%d probes spared, health %d", s.ProbesSpared, s.Health)
			}
			victim := hosts[2]
			victim.kill()
			t.Logf("took %v", eventually(t, time.Minute, "dead everywhere", func() bool { return sees(hosts, victim.id, peer.Dead) }))
			for _, h := range hosts {
				if h != victim && !sees(hosts, h.id, peer.Alive) {
					t.Error("another node was suspected with it")
				}
			}
		})
	}
}

func TestASparedProbeMeasuresNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(2)
		startAll(t, hosts)
		defer closeAll(hosts)
		time.Sleep(5 * time.Minute)
		for _, m := range hosts[0].pool.Load().Members() {
			if m.ID != hosts[0].id && m.RTT < w.delay {
				t.Errorf("round trip of %v over a network of %v each way", m.RTT, w.delay)
			}
		}
	})
}

func TestANodeThatMissedNewsIsBroughtUpToDate(t *testing.T) {
	if testing.Short() {
		t.Skip("an hour of virtual time")
	}
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(5)
		startAll(t, hosts)
		defer closeAll(hosts)
		time.Sleep(5 * time.Minute)
		drifts := func() (sum uint64) {
			for _, h := range hosts {
				sum += h.pool.Load().Stats().Drifts
			}
			return sum
		}
		if n := drifts(); n != 0 {
			t.Errorf("%d exchanges among nodes that know the same", n)
		}
		r := hosts[0].pool.Load().roster
		r.mu.Lock()
		r.members[hosts[3].id].record.Sequence += 7
		r.mu.Unlock()
		eventually(t, 2*time.Minute, "the difference is noticed", func() bool { return drifts() > 0 })
		time.Sleep(time.Hour)
		if n := drifts(); n > 60 {
			t.Errorf("%d exchanges over a difference that stays", n)
		}
	})
}

func TestProbesTravelShort(t *testing.T) {
	a, b := testKey(t, 0).ID(), testKey(t, 1).ID()
	ping, err := encodeMessage(typePing, pingMessage{
		SeqNo: 77, Node: b.String(), SourceAddr: identity.OverlayIPv6(testMesh, a).AsSlice(), SourcePort: overlayPort, SourceNode: a.String(),
	})
	if err != nil {
		t.Fatal(err)
	}
	form, ok := shorten(ping, a.String(), b.String())
	if form.kind != shortPing || form.sequence != 77 || form.coordinate != nil || !ok {
		t.Fatalf("%+v, %v", form, ok)
	}
	short := form.append(nil, 99)
	long, digest, err := lengthen(short, a, b, testMesh)
	if err != nil || digest != 99 || !bytes.Equal(long, ping) {
		t.Errorf("%x became %x, digest %d, %v", ping, long, digest, err)
	}
	if _, ok := shorten(ping, b.String(), a.String()); ok {
		t.Error("another's probe was shortened")
	}
	withPayload, _ := encodeMessage(typeAck, ackMessage{SeqNo: 1, Payload: spared})
	if _, ok := shorten(withPayload, a.String(), b.String()); ok {
		t.Error("an answer lost its payload")
	}
	if _, _, err := lengthen(short, identity.NodeID{}, b, testMesh); err == nil {
		t.Error("a probe from nobody was taken")
	}
	if _, _, err := lengthen(short[:12], a, b, testMesh); err == nil {
		t.Error("a cut probe was taken")
	}
}

func FuzzTakeApart(f *testing.F) {
	f.Add(shortForm{kind: shortPing, sequence: 1}.append(nil, 2), true)
	f.Add(shortForm{shortAck, 1, peer.Coordinate{Height: 7}.Append(nil)}.append(nil, 2), true)
	f.Add([]byte{typeAck, 0x81, 0xa5}, false)
	a, b := identity.NodeID{1}, identity.NodeID{2}
	f.Fuzz(func(t *testing.T, packet []byte, known bool) {
		from := a
		if !known {
			from = identity.NodeID{}
		}
		tr := &transport{self: b, mesh: testMesh, roster: newRoster(), calm: newCalm(LAN()), drifted: func(identity.NodeID) {}}
		long, err := tr.takeApart(packet, from)
		if err == nil && (len(long) == 0 || isShort(long) || bytes.Contains(long, spared) && long[0] == typeAck) {
			t.Errorf("%x became %x", packet, long)
		}
		shorten(packet, a.String(), b.String())
	})
}

func TestDriftWaitsLongerForADifferenceThatStays(t *testing.T) {
	d := drift{least: 10 * time.Second, most: time.Minute}
	now := time.Now()
	for i, s := range []struct {
		at           time.Duration
		ours, theirs uint64
		want         bool
	}{
		{0, 1, 1, false}, {1, 1, 2, true}, {5, 1, 2, false}, {11, 1, 2, true}, {12, 1, 1, false}, {30, 1, 3, false}, {31, 1, 2, true},
		{70, 1, 2, false}, {71, 1, 2, true}, {130, 1, 2, false}, {131, 1, 2, true}, {132, 4, 2, true}, {133, 4, 2, false}, {142, 4, 2, true},
	} {
		if got := d.step(s.ours, s.theirs, now.Add(s.at*time.Second)); got != s.want {
			t.Errorf("step %d at %d s: %v", i, s.at, got)
		}
	}
}

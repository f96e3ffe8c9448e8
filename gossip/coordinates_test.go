package gossip

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/peer"
)

func TestACoordinateRidesOnAShortAnswer(t *testing.T) {
	a, b := testKey(t, 0).ID(), testKey(t, 1).ID()
	at := peer.Coordinate{Vec: [peer.Dimensions]int16{1, -2}, Height: 3, Error: 4}.Append(nil)
	ack, err := encodeMessage(typeAck, ackMessage{SeqNo: 5, Payload: at})
	if err != nil {
		t.Fatal(err)
	}
	form, ok := shorten(ack, a.String(), b.String())
	if !ok || form.kind != shortAck || !bytes.Equal(form.coordinate, at) {
		t.Fatalf("%+v, %v", form, ok)
	}
	short := form.append(nil, 99)
	long, digest, err := lengthen(short, a, b, testMesh)
	if err != nil || digest != 99 || !bytes.Equal(long, ack) {
		t.Errorf("%x became %x, digest %d, %v", ack, long, digest, err)
	}
	for name, wrong := range map[string][]byte{
		"cut":      short[:len(short)-1],
		"too long": append(bytes.Clone(short), 0),
		"a probe":  append([]byte{shortPing}, short[1:]...),
	} {
		if _, _, err := lengthen(wrong, a, b, testMesh); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// spot is a node that stands still and notes what it hears.
type spot struct {
	at peer.Coordinate

	mu    sync.Mutex
	heard map[identity.NodeID]peer.Coordinate
	rtt   time.Duration // the longest
	times int
}

func (s *spot) Tell(r peer.Record) (peer.Coordinate, bool) {
	return s.at, !r.Placed || r.Coordinate != s.at
}

func (s *spot) Observe(id identity.NodeID, theirs peer.Coordinate, rtt time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard[id], s.rtt = theirs, max(s.rtt, rtt)
	s.times++
}

func TestMembersLearnEachOthersCoordinatesFromProbes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t)
		hosts := w.hosts(3)
		spots := map[identity.NodeID]*spot{}
		for i, h := range hosts {
			spots[h.id] = &spot{at: peer.Coordinate{Height: uint16(i + 1)}, heard: map[identity.NodeID]peer.Coordinate{}}
		}
		startAll(t, hosts, func(cfg *setup) {
			cfg.Coordinates = spots[cfg.Self]
			if cfg.Self == hosts[0].id { // its record says where it is: its answers need not
				cfg.Record.Coordinate, cfg.Record.Placed = spots[cfg.Self].at, true
			}
		})
		defer closeAll(hosts)
		eventually(t, time.Minute, "everybody knows where the others are", func() bool {
			for _, s := range spots {
				s.mu.Lock()
				heard := len(s.heard)
				for other, at := range s.heard {
					if at != spots[other].at {
						t.Errorf("%s is said to be at %+v", other.Short(), at)
					}
				}
				s.mu.Unlock()
				if heard != len(hosts)-1 {
					return false
				}
			}
			return true
		})
		time.Sleep(time.Minute) // all is calm, and most probes are answered here
		s := spots[hosts[1].id]
		s.mu.Lock()
		before := s.times
		s.mu.Unlock()
		time.Sleep(10 * time.Minute)
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := s.times - before; n == 0 || n > 70 || s.rtt < time.Millisecond || s.rtt > 20*time.Millisecond {
			t.Errorf("in ten calm minutes it observed %d times, at most %v", n, s.rtt)
		}
	})
}

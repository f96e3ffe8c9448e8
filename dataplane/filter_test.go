package dataplane

import (
	"net/netip"
	"testing"
	"time"
)

// only is a filter that lets one direction pass.
type only Direction

func (o only) Allow(d Direction, _ []byte) bool { return d == Direction(o) }

func TestTheReceiverFiltersWhateverTheSenderDoes(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		atA, atB := collect(a.pipe), collect(b.pipe)
		if err := a.plane.Ensure(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		b.plane.SetFilter(only(Outbound))
		a.pipe.Inject(udp4(a.v4, b.v4, 1))
		a.pipe.Inject(udp6(a.v6, b.v6, 2))
		b.pipe.Inject(udp4(b.v4, a.v4, 3))
		within(t, time.Second, "what the receiver lets out", func() bool { return atA.count.Load() == 1 })
		time.Sleep(time.Second)
		if n, dropped := atB.count.Load(), b.plane.Stats().DroppedByFilter; n != 0 || dropped != 2 {
			t.Errorf("%d packets came through, %d were dropped", n, dropped)
		}
		b.plane.SetFilter(nil)
		a.pipe.Inject(udp4(a.v4, b.v4, 4))
		within(t, time.Second, "a packet without a filter", func() bool { return atB.count.Load() == 1 })
	})
}

func TestTheHostIsToldWhatItsFilterDenies(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *testWorld) {
		nodes := w.startAll(nil)
		defer w.stopAll()
		a, b := nodes[0], nodes[1]
		a.plane.SetFilter(only(Inbound))
		for _, c := range []struct {
			packet   []byte
			from, to netip.Addr
			code     byte
			header   int
		}{
			// Over IPv4 the error comes from the destination: Linux takes none that comes from an address of its own.
			{udp4(a.v4, b.v4, 1), b.v4, a.v4, 13, headerLen4},
			{udp6(a.v6, b.v6, 1), a.v6, a.v6, 1, headerLen6},
		} {
			a.pipe.Inject(c.packet)
			select {
			case got := <-a.pipe.Packets():
				checkUnreachable(t, got, c.to, c.from)
				if code := got[c.header+1]; code != c.code {
					t.Errorf("code %d, want %d", code, c.code)
				}
			case <-time.After(time.Second):
				t.Errorf("nothing is said about a packet to %v", c.packet)
			}
		}
		if len(a.plane.Tunnels()) != 0 {
			t.Error("a denied packet made a tunnel")
		}
	})
}

package underlay

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// The bug in the library that udpBind is there for: an IPv6 destination after an IPv4 one.
func TestADestinationIsWholeWhateverWasSentBefore(t *testing.T) {
	var s shipment
	for _, to := range []string{"[2001:db8::1]:1", "192.0.2.1:2", "[2001:db8::2]:3", "192.0.2.2:4", "[fe80::1%eth0]:5"} {
		want := netip.MustParseAddrPort(to)
		s.destine(want)
		if got := s.addr.AddrPort(); got != want {
			t.Errorf("%s became %s", want, got)
		}
	}
}

func TestPacketsOfOneSizeAreGathered(t *testing.T) {
	packets := func(sizes ...int) (out [][]byte) {
		for _, n := range sizes {
			out = append(out, make([]byte, n))
		}
		return out
	}
	many := make([]int, 100)
	for i := range many {
		many[i] = 100
	}
	for _, tc := range []struct {
		sizes []int
		want  int
	}{
		{[]int{100}, 1},
		{[]int{100, 100, 100}, 3},
		{[]int{100, 100, 50, 100}, 3}, // a shorter one ends it
		{[]int{100, 200}, 1},
		{[]int{100, 0}, 1},
		{[]int{60000, 60000}, 1},
		{many, segmentsMax},
	} {
		if got := gather(packets(tc.sizes...)); got != tc.want {
			t.Errorf("%v: %d, want %d", tc.sizes, got, tc.want)
		}
	}
}

func TestEveryPacketArrivesOnceAndInOrder(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			from, to := newUDPBind(), newUDPBind()
			if _, _, err := from.Open(0); err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			receive, port, err := to.Open(0)
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			addr := netip.MustParseAddr(host)
			ep, err := from.ParseEndpoint(netip.AddrPortFrom(addr, port).String())
			if err != nil {
				t.Fatal(err)
			}
			var sent [][]byte
			for i := range 300 { // more than one shipment, sizes that gather and sizes that do not
				sent = append(sent, bytes.Repeat([]byte{byte(i)}, 200+100*(i/7%3)))
			}
			for i := 0; i < len(sent); i += 40 {
				if err := from.Send(sent[i:min(i+40, len(sent))], ep); err != nil {
					t.Skipf("no %s here: %v", host, err)
				}
			}
			fn := receive[0]
			if addr.Is6() {
				fn = receive[len(receive)-1]
			}
			got := collect(t, to, fn, len(sent))
			for i := range sent {
				if !bytes.Equal(got[i], sent[i]) {
					t.Fatalf("packet %d: %d bytes of %d, want %d of %d", i, len(got[i]), got[i][0], len(sent[i]), sent[i][0])
				}
			}
		})
	}
}

// collect reads n packets.
func collect(t *testing.T, b *udpBind, fn conn.ReceiveFunc, n int) (out [][]byte) {
	t.Helper()
	stop := time.AfterFunc(10*time.Second, func() { b.Close() })
	defer stop.Stop()
	bufs, sizes, eps := make([][]byte, b.BatchSize()), make([]int, b.BatchSize()), make([]conn.Endpoint, b.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 65536)
	}
	for len(out) < n {
		k, err := fn(bufs, sizes, eps)
		if err != nil {
			t.Fatal(fmt.Errorf("after %d of %d packets: %w", len(out), n, err))
		}
		for i := range k {
			if sizes[i] > 0 {
				out = append(out, bytes.Clone(bufs[i][:sizes[i]]))
			}
		}
	}
	return out
}

func BenchmarkUDPSend(b *testing.B) {
	for _, kind := range []string{"ours", "library"} {
		b.Run(kind, func(b *testing.B) {
			ours := newUDPBind()
			if _, _, err := ours.Open(0); err != nil {
				b.Fatal(err)
			}
			defer ours.Close()
			sink := newUDPBind()
			_, port, err := sink.Open(0)
			if err != nil {
				b.Fatal(err)
			}
			defer sink.Close()
			ep, err := ours.ParseEndpoint(fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				b.Fatal(err)
			}
			var bind conn.Bind = ours
			if kind == "library" {
				bind = ours.StdNetBind
			}
			bufs := make([][]byte, 64)
			for i := range bufs {
				bufs[i] = make([]byte, 1452, 65536)
			}
			b.SetBytes(64 * 1452)
			b.ReportAllocs()
			for b.Loop() {
				if err := bind.Send(bufs, ep); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

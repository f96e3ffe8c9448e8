package underlay

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

func TestAMemberSaysWhereItSeesUs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &underlaytest.Network{}
		a, b := onNetwork(t, w, 0, "192.0.2.1"), onNetwork(t, w, 1, "192.0.2.2")
		defer a.Close()
		defer b.Close()
		to := netip.MustParseAddrPort("192.0.2.2:51820")
		r, rtt := a.Ask(t.Context(), nat.Ask{Number: 7, To: to, Member: true, Timeout: time.Second})
		if r.Number != 7 || r.From != to || r.Mapped != netip.MustParseAddrPort("192.0.2.1:51820") || rtt < 0 {
			t.Errorf("%+v after %v", r, rtt)
		}
	})
}

func TestAnAnswerFromElsewhereCountsOnlyIfAskedFor(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &underlaytest.Network{}
		a, host := onNetwork(t, w, 0, "192.0.2.1"), w.Host(netip.MustParseAddr("192.0.2.9"))
		defer a.Close()
		asked, err := host.OpenSpare()
		if err != nil {
			t.Fatal(err)
		}
		elsewhere, err := host.OpenSpare()
		if err != nil {
			t.Fatal(err)
		}
		defer elsewhere.Close()
		at := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.9"), uint16(asked.LocalAddr().(*net.UDPAddr).Port))
		go func() { // ends when asked is closed
			b := make([]byte, 1500)
			for {
				n, from, err := asked.ReadFrom(b)
				if err != nil {
					return
				}
				if m, err := nat.Parse(b[:n]); err == nil {
					answer := nat.PlainResponse(m.Transaction, netip.MustParseAddrPort("192.0.2.1:51820"), 1500)
					_, _ = elsewhere.WriteTo(answer, from)
				}
			}
		}()
		defer asked.Close()
		for _, c := range []struct {
			change nat.Change
			want   bool
		}{{nat.Change{}, false}, {nat.Change{Port: true}, true}} {
			began := time.Now()
			r, _ := a.Ask(t.Context(), nat.Ask{To: at, Change: c.change, Timeout: 2 * time.Second})
			if r.From.IsValid() != c.want || c.want && r.From == at {
				t.Errorf("change %v: %+v", c.change, r)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("change %v: took %v", c.change, took)
			}
		}
	})
}

package underlay

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// hardAndEasy is a node behind a hard NAT, and one behind an easy one, as members that know no address of each other.
func hardAndEasy(t *testing.T) (w *underlaytest.Network, hard, easy *end) {
	w = &underlaytest.Network{}
	w.Set(underlaytest.Hooks{Latency: func(_, _ netip.AddrPort) time.Duration { return 10 * time.Millisecond }})
	router := w.NAT(underlaytest.NATConfig{
		External: nodeA.Addr(), Mapping: underlaytest.AddressAndPortDependent, Filtering: underlaytest.AddressAndPortDependent, Seed: 7,
	})
	other := w.NAT(underlaytest.NATConfig{External: nodeB.Addr(), Filtering: underlaytest.AddressAndPortDependent})
	behind := func(i int, r *underlaytest.NAT) *end {
		h := r.Host(netip.MustParseAddr("192.168.1.2"))
		e := open(t, i, Config{Bind: h, Port: 51820})
		e.host = h
		return e
	}
	hard, easy = behind(0, router), behind(1, other)
	for _, pair := range [][2]*end{{hard, easy}, {easy, hard}} {
		pair[0].table.Admit(&certificate.Member{Public: *pair[1].key.Public(), Name: "n", NotBefore: time.Unix(1, 0)}, []byte{1})
	}
	return w, hard, easy
}

func TestManyPortsFindAHoleInAHardNAT(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, hard, easy := hardAndEasy(t)
		defer hard.Close()
		defer easy.Close()
		began := time.Now()
		out := make(chan error, 1)
		go func() { out <- hard.FanOut(t.Context(), easy.id(), nodeB, nat.FanSocketsMax) }()
		errIn := easy.FanIn(t.Context(), hard.id(), nat.FanInPlan(netip.AddrPortFrom(nodeA.Addr(), 40000), [32]byte{1}))
		if err := errors.Join(errIn, <-out); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		time.Sleep(time.Second)
		for _, pair := range [][2]*end{{hard, easy}, {easy, hard}} {
			if p, _ := pair[0].Path(pair[1].id()); p.Kind != PathDirect || p.Transport != "udp" {
				t.Errorf("path %+v", p)
			}
		}
		if got := hard.host.Sockets(); got != 2 {
			t.Errorf("%d sockets are open, want the bound one and one spare", got)
		}
		quicPing(t, hard, easy)
		quicPing(t, easy, hard)
		// The spare goes with its path.
		easy.Close()
		hard.Forget(easy.id())
		time.Sleep(2 * spareWatch)
		if got := hard.host.Sockets(); got != 1 {
			t.Errorf("%d sockets are open after the path has gone", got)
		}
	})
}

func TestAFanThatFindsNothingLeavesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, hard, easy := hardAndEasy(t)
		defer hard.Close()
		defer easy.Close()
		packets := 0
		w.Set(underlaytest.Hooks{See: func(from, to netip.AddrPort, _ []byte) {
			if from.Addr() == nodeB.Addr() {
				packets++
			}
		}})
		if err := hard.FanOut(t.Context(), easy.id(), nodeB, 1000); !errors.Is(err, ErrUnreachable) {
			t.Errorf("nobody answers a fan out: %v", err)
		}
		if got := hard.host.Sockets(); got != 1 {
			t.Errorf("%d sockets are open", got)
		}
		if err := easy.FanIn(t.Context(), hard.id(), nat.FanInPlan(nodeA, [32]byte{1})); !errors.Is(err, ErrUnreachable) {
			t.Errorf("nobody answers a fan in: %v", err)
		}
		if packets > nat.FanPacketsMax+10 {
			t.Errorf("%d packets for one fan in", packets)
		}
		// Searches have room for their checks meanwhile, and the fans' are forgotten.
		time.Sleep(2*transactionLife + sweepInterval)
		easy.transactions.mu.Lock()
		defer easy.transactions.mu.Unlock()
		if got := easy.transactions.fans; got != 0 {
			t.Errorf("%d transactions of fans are kept", got)
		}
	})
}

func TestFansAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, hard, easy := hardAndEasy(t)
		defer easy.Close()
		results := make(chan error, fansMax+1)
		for range fansMax + 1 {
			go func() { results <- hard.FanOut(t.Context(), easy.id(), nodeB, 10) }()
		}
		if err := <-results; !errors.Is(err, ErrFanBusy) {
			t.Errorf("one fan too many: %v", err)
		}
		if err := hard.FanOut(t.Context(), keys[2].ID(), nodeB, 1); !errors.Is(err, ErrUnknownNode) {
			t.Errorf("a node nobody knows: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
		hard.Close()
		for range fansMax {
			if err := <-results; !errors.Is(err, ErrClosed) {
				t.Errorf("closed meanwhile: %v", err)
			}
		}
	})
}

func TestFanTransactionsHaveABoundOfTheirOwn(t *testing.T) {
	var tx transactions
	id := func(kind byte, i int) nat.TransactionID { return nat.TransactionID{kind, byte(i), byte(i >> 8)} }
	for i := range fanTransactionsMax + 5 {
		if got := tx.add(id(1, i), transaction{fan: true, sent: 1}); got != (i < fanTransactionsMax) {
			t.Fatalf("transaction %d of fans: %v", i, got)
		}
	}
	for i := range transactionsMax {
		if !tx.add(id(2, i), transaction{sent: 1}) {
			t.Fatalf("no room for check %d beside fans", i)
		}
	}
	if tx.add(id(3, 0), transaction{sent: 1}) {
		t.Error("no bound")
	}
	tx.sweep(1 + transactionLife)
	if tx.fans != 0 || len(tx.byID) != 0 {
		t.Errorf("%d and %d left", tx.fans, len(tx.byID))
	}
}

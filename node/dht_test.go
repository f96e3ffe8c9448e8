package node_test

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// The founder is gone for good, the member that is sought has moved, and the one member that still knows where it went does not reach it any
// more, so that gossip has forgotten it. Who returns, itself with another address, finds it by the hash table and by nothing else: with --no-dht it does not.
func TestAMemberThatReturnsFindsWhoHasMovedByTheHashTable(t *testing.T) {
	if testing.Short() {
		t.Skip("an hour of virtual time")
	}
	for _, off := range []bool{false, true} {
		t.Run(fmt.Sprintf("off=%v", off), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { returns(t, dir, off) })
		})
	}
}

func returns(t *testing.T, dir string, off bool) {
	const founder, keeper, moved, back = 0, 1, 2, 3
	b := newBubbleMesh(t, dir)
	defer b.stopAll()
	var apart atomic.Bool
	is := func(a netip.AddrPort, i int) bool {
		return a.Addr() == bubbleAddr(i, 0) || a.Addr() == bubbleAddr(i, 1)
	}
	cut := func(from, to netip.AddrPort) bool {
		return apart.Load() && (is(from, keeper) && is(to, moved) || is(from, moved) && is(to, keeper))
	}
	b.network.Set(underlaytest.Hooks{
		Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond },
		Drop:    func(from, to netip.AddrPort, _ []byte) bool { return cut(from, to) },
		Refuse:  cut,
	})
	table := func(s *config.Settings) { s.NoDHT = off }
	first := b.start(founder, 0, localapi.Entry{New: "lab"}, table)
	for _, i := range []int{keeper, moved, back} {
		b.join(i, first, table)
	}
	time.Sleep(2 * time.Minute)
	b.stop(back)
	b.stop(moved)
	b.start(moved, 1, localapi.Entry{}, table)
	time.Sleep(10 * time.Minute) // it tells where it is now
	b.stop(founder)
	apart.Store(true)
	time.Sleep(30 * time.Minute)
	b.start(back, 1, localapi.Entry{}, table)
	time.Sleep(2 * time.Minute)
	if reached, err := b.reaches(back, moved); reached == off {
		t.Errorf("hash table off: %v, reached: %v (%v)", off, reached, err)
	}
}

package node_test

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/internal/config"
	"github.com/phantommesh/phantommesh/internal/localapi"
	"github.com/phantommesh/phantommesh/underlay/underlaytest"
)

// A machine without a certificate asks to be let in, and then stands at the only address that a member can still try. Of the mesh it learns the name
// and the ID, for which a beacon would do; the member finds out that nobody it knows is there, says so, and goes on as before.
func TestAMachineWithoutACertificateLearnsNothingAndChangesNothing(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const founder, member, sybil = 0, 1, 2
		b := newBubbleMesh(t, dir)
		defer b.stopAll()
		secret := func(s *config.Settings) { s.Name, s.Region = "atlas-secret", "region-secret" }
		var wire struct {
			sync.Mutex
			toSybil int
			clear   []string
		}
		b.network.Set(underlaytest.Hooks{
			Latency: func(_, _ netip.AddrPort) time.Duration { return 5 * time.Millisecond },
			See: func(_, to netip.AddrPort, packet []byte) {
				wire.Lock()
				defer wire.Unlock()
				if to.Addr() != bubbleAddr(sybil, 0) {
					return
				}
				wire.toSybil++
				for _, s := range []string{"secret", "hiddenmesh"} { // too long to be there by chance
					if bytes.Contains(packet, []byte(s)) {
						wire.clear = append(wire.clear, s)
					}
				}
			},
		})
		first := b.start(founder, 0, localapi.Entry{New: "hiddenmesh"}, secret)
		b.join(member, first, secret)
		stranger := b.start(sybil, 0, localapi.Entry{}, func(s *config.Settings) {
			s.Bootstrap = []string{netip.AddrPortFrom(bubbleAddr(founder, 0), s.Port).String()}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := stranger.Enter(ctx, localapi.Entry{Mesh: "hiddenmesh"}); err == nil {
			t.Fatal("it was let in")
		}
		b.stop(founder)
		b.stop(member)
		back := b.start(member, 1, localapi.Entry{}, func(s *config.Settings) {
			secret(s)
			s.Bootstrap = []string{netip.AddrPortFrom(bubbleAddr(sybil, 0), s.Port).String()}
		})
		time.Sleep(time.Minute)
		if log := b.logs[member].String(); !strings.Contains(log, "no member of this mesh at the bootstrap address") {
			t.Error("the member does not say that nobody of the mesh is there")
		}
		status, err := back.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range status.Peers {
			if p.State == "alive" || p.Path.Kind != "none" {
				t.Errorf("the member takes %s for %s over %+v", p.Name, p.State, p.Path)
			}
		}
		status, err = stranger.Status(t.Context())
		if err != nil || len(status.Peers) != 0 {
			t.Errorf("the stranger knows %+v, %v", status.Peers, err)
		}
		if log := b.logs[sybil].String(); strings.Contains(log, "secret") || strings.Contains(log, "10.86.") {
			t.Error("the stranger learned names, regions or overlay addresses:\n", log)
		}
		wire.Lock()
		defer wire.Unlock()
		if wire.toSybil == 0 || len(wire.clear) > 0 {
			t.Errorf("%d packets came to the stranger, in clear %q", wire.toSybil, wire.clear)
		}
	})
}

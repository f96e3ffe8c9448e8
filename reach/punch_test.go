package reach

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/nat"
	"github.com/phantommesh/phantommesh/peer"
)

// punchable lets two nodes reach each other if both send at once.
func (w *world) punchable(a, b *fakeNode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.joints[[2]identity.NodeID{a.id, b.id}], w.joints[[2]identity.NodeID{b.id, a.id}] = true, true
}

// talk keeps the two in use.
func (w *world) talk(a, b *fakeNode, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
		w.mu.Lock()
		for _, x := range [][2]*fakeNode{{a, b}, {b, a}} {
			if p, ok := x[0].paths[x[1].id]; ok {
				p.Heard = time.Now()
				x[0].paths[x[1].id] = p
			}
		}
		w.mu.Unlock()
	}
}

// hard gives a node a hard NAT: every server sees another port.
func (f *fakeNode) hard() {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	f.seenAs = func(server netip.AddrPort) (netip.AddrPort, error) {
		return netip.AddrPortFrom(f.addr.Addr(), 40000+uint16(server.Addr().As4()[2])), nil
	}
}

func TestARelayedPathBecomesDirect(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(2)
		a, b := relayed(w)
		w.punchable(a, b)
		began := time.Now()
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		for {
			if p, _ := a.Path(b.id); p.Kind == Direct {
				break
			}
			if time.Since(began) > 2*time.Second {
				t.Fatalf("still not direct after %v: %+v", time.Since(began), a.reach.Explain(b.id))
			}
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		x := a.reach.Explain(b.id)
		if len(x.Punches) == 0 || x.Punches[len(x.Punches)-1].Result != punchDirect {
			t.Errorf("history: %+v", x.Punches)
		}
		w.talk(a, b, 2*time.Minute)
		synctest.Wait()
		if len(a.links) != 0 || len(b.links) != 0 {
			t.Errorf("%d and %d channels are open beside a direct path", len(a.links), len(b.links))
		}
	})
}

func TestARelayedPathIsTriedAgainQuietly(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(2)
		a, b := relayed(w)
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		w.talk(a, b, time.Hour)
		n := a.reach.count.punches.Load()
		if n < 10 || n > 20 { // 4 in the first minutes, then one in five
			t.Errorf("%d attempts in an hour", n)
		}
		time.Sleep(time.Hour) // nobody talks
		if more := a.reach.count.punches.Load() - n; more > 1 {
			t.Errorf("%d attempts although nobody talks", more)
		}
	})
}

func TestANetworkChangePunchesAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(2)
		changed := make(chan struct{})
		a, b := relayed(w, func(c *Config) { c.NetworkChanged = changed })
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		w.talk(a, b, 10*time.Minute)
		w.punchable(a, b)
		before := a.reach.count.punches.Load()
		changed <- struct{}{}
		w.talk(a, b, 4*time.Second)
		if p, _ := a.Path(b.id); p.Kind != Direct {
			t.Errorf("still relayed, %d attempts since", a.reach.count.punches.Load()-before)
		}
	})
}

func TestOneHardNATIsFanned(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(3)
		a, b := w.add("a", false), w.add("b", false)
		a.hard()
		a.start()
		b.start()
		time.Sleep(5 * time.Second)
		if a.reach.NAT() != peer.NATHard || b.reach.NAT() != peer.NATEasy {
			t.Fatalf("NATs %s and %s", a.reach.NAT(), b.reach.NAT())
		}
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		w.talk(a, b, 9*time.Minute)
		if a.fans != fansPerPeer || b.fans != fansPerPeer {
			t.Errorf("%d and %d fans in nine minutes, want %d on either side", a.fans, b.fans, fansPerPeer)
		}
		if p := a.reach.Explain(b.id).Punches; p[0].Strategy != "fan out" {
			t.Errorf("%+v", p[0])
		}
	})
}

func TestTwoHardNATsAreNotFanned(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(3)
		a, b := w.add("a", false), w.add("b", false)
		a.hard()
		b.hard()
		a.start()
		b.start()
		time.Sleep(5 * time.Second)
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		w.talk(a, b, time.Hour)
		if a.fans+b.fans > 0 || a.reach.count.punches.Load() < 5 {
			t.Errorf("%d fans, %d attempts", a.fans+b.fans, a.reach.count.punches.Load())
		}
	})
}

// TestALiarDrawsFewChecks plays a member that names addresses of others and asks for punches as fast as it can.
func TestALiarDrawsFewChecks(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		victim, liar := w.add("victim", true), w.add("liar", false)
		victim.start()
		time.Sleep(5 * time.Second)
		// The relay that we are has a hard NAT in its story, so that many ports look promising.
		lie := nat.Situation{Kind: peer.NATHard, Mapped: aps("203.0.113.1:1 203.0.113.2:1 203.0.113.3:1 203.0.113.4:1")}
		for i := range candidatesMax {
			lie.Candidates = append(lie.Candidates, peer.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i)}), 53), Kind: peer.Local})
		}
		told, err := lie.Encode()
		if err != nil {
			t.Fatal(err)
		}
		const minutes = 10
		agreed := 0
		for end := time.Now().Add(minutes * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			stream := liar.ask(t.Context(), victim.id, ProtocolPunch)
			var a punchAnswer
			if err := exchange(stream, punchOffer{Nonce: make([]byte, nonceSize), Situation: told, Fan: true}, &a, punchMax, time.Second); err == nil && a.Code == 0 {
				agreed++
			}
			stream.Close()
		}
		if most := punchBurst + minutes*60/15; agreed > most || victim.tries[liar.id] > most*candidatesMax {
			t.Errorf("%d attempts and %d checks in %d minutes, at most %d", agreed, victim.tries[liar.id], minutes, most)
		}
		if victim.fans > fansPerPeer {
			t.Errorf("%d fans", victim.fans)
		}
	})
}

func TestNonsenseEndsAPunch(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		us, liar := w.add("us", true), w.add("liar", true)
		us.start()
		nothing, _ := nat.Situation{}.Encode()
		for name, q := range map[string]any{
			"a short nonce": punchOffer{Nonce: []byte{1}, Situation: nothing},
			"no such NAT":   punchOffer{Nonce: make([]byte, nonceSize), Situation: []byte{0x85, 9, 0, 0, 0x80, 0x80}},
		} {
			stream := liar.ask(t.Context(), us.id, ProtocolPunch)
			var a punchAnswer
			if err := exchange(stream, q, &a, punchMax, time.Second); err != nil || a.Code != punchForm {
				t.Errorf("%s: code %d, %v", name, a.Code, err)
			}
			stream.Close()
		}
		answer := punchAnswer{Nonce: make([]byte, nonceSize), Situation: nothing} // not the offer's nonce
		liar.Handle(ProtocolPunch, func(ctx context.Context, s Stream) {
			defer s.Close()
			var q punchOffer
			_ = wire.ReadMessage(s, &q, punchMax)
			_ = wire.WriteMessage(s, answer, punchMax)
		})
		if _, why := us.reach.agree(t.Context(), liar.id); why == "" {
			t.Error("an answer to another offer was taken")
		}
	})
}

func TestBothMayBeginAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a", true), w.add("b", true)
		a.start()
		b.start()
		time.Sleep(time.Second)
		now := time.Now()
		if !a.reach.beginPunch(b.id, now) || !b.reach.beginPunch(a.id, now) {
			t.Fatal("not begun")
		}
		lower, higher := a, b
		if a.id.Compare(b.id) > 0 {
			lower, higher = b, a
		}
		if code := lower.reach.joinPunch(higher.id); code != punchBusy {
			t.Errorf("the lower joins the higher's: %d", code)
		}
		if code := higher.reach.joinPunch(lower.id); code != 0 {
			t.Errorf("the higher does not join the lower's: %d", code)
		}
		higher.reach.endPunch(lower.id, Punch{At: now, Began: true, Result: punchTexts[punchBusy]})
		higher.reach.endPunch(lower.id, Punch{At: now, Result: punchDirect})
		lower.reach.endPunch(higher.id, Punch{At: now, Began: true, Result: punchDirect})
		if !lower.reach.beginPunch(higher.id, now) || !higher.reach.beginPunch(lower.id, now) {
			t.Error("places were not given back")
		}
		for _, f := range []*fakeNode{a, b} {
			f.reach.mu.Lock()
			f.reach.punching = 0
			f.reach.mu.Unlock()
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(3)
		a, b := relayed(w)
		w.talk(a, b, time.Second)
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { a.reach.Close(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("Close hangs")
		}
		time.Sleep(10 * time.Second) // the other side ends its part
		synctest.Wait()
		if len(a.links) != 0 || len(a.streams) > 0 {
			t.Errorf("%d channels and %d streams are left", len(a.links), len(a.streams))
		}
		if err := a.reach.Close(); err != nil {
			t.Error(err)
		}
		a.reach.Assist(b.id) // harmless
	})
}

func TestTheNATIsLearnedFromMembers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(3)
		us := w.add("us", false)
		r := us.start()
		time.Sleep(3 * time.Second)
		if r.NAT() != peer.NATEasy {
			t.Errorf("NAT %s", r.NAT())
		}
		if got := fmt.Sprint(r.Endpoints()); got != fmt.Sprintf("[{%s mapped} {192.168.1.2:51820 local}]", us.addr) {
			t.Errorf("endpoints %s", got)
		}
		us.hard()
		r.Relearn()
		time.Sleep(3 * time.Second)
		if r.NAT() != peer.NATHard || len(r.Endpoints()) != 1 {
			t.Errorf("NAT %s, endpoints %v", r.NAT(), r.Endpoints())
		}
		rep := r.Netcheck(t.Context())
		if !rep.UDP || rep.NAT != peer.NATHard || len(rep.Relays) != 3 || rep.Relays[0].RTT == 0 || rep.Reachable {
			t.Errorf("netcheck: %+v", rep)
		}
	})
}

package reach

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
	"github.com/phantommesh/phantommesh/peer"
)

// relays starts n nodes that others reach.
func (w *world) relays(n int) []*fakeNode {
	var out []*fakeNode
	for i := range n {
		out = append(out, w.add("relay-"+string(rune('a'+i)), true))
	}
	for _, f := range out {
		f.start()
	}
	return out
}

func TestTwoRelaysAreAtHandBeforeOneIsNeeded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(4)
		time.Sleep(5 * time.Second)
		us := w.add("us", false)
		us.start()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := us.reach.Relays(); len(got) != relaysAtHand {
			t.Fatalf("%d relays at hand, want %d", len(got), relaysAtHand)
		}
		for _, id := range us.reach.Relays() {
			if !us.accepts[id] || !us.kept[id] || !w.nodes[id].kept[us.id] {
				t.Errorf("%s: accepts %v, kept here %v, kept there %v", w.nodes[id].name, us.accepts[id], us.kept[id], w.nodes[id].kept[us.id])
			}
			if e, _ := w.nodes[id].table.Get(us.id); !slices.Equal(e.Record.Relays, us.reach.Relays()) {
				t.Errorf("the record says %v", e.Record.Relays)
			}
		}
		// Nearest two of four, round trips 10, 20, 30 and 40 ms.
		for _, id := range us.reach.Relays() {
			if w.nodes[id].rtt > 20*time.Millisecond {
				t.Errorf("%s is at hand", w.nodes[id].name)
			}
		}
	})
}

func TestANodeThatOthersReachTakesNoRelay(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.relays(3)
		time.Sleep(time.Minute)
		for _, f := range all {
			if got := f.reach.Relays(); len(got) > 0 || !f.reach.OffersRelay() {
				t.Errorf("%s: %d relays at hand, offers %v", f.name, len(got), f.reach.OffersRelay())
			}
		}
	})
}

// Regression: a node that had just started named relays until it knew, a round trip later, that it needed none. After a power cut all did, and all opened
// channels to all.
func TestANodeThatHasJustStartedNamesNoRelayBeforeItKnowsWhetherItNeedsOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(3)
		time.Sleep(5 * time.Second)
		us := w.add("us", true)
		us.start()
		for begun := time.Now(); time.Since(begun) < 2*attendAfter; time.Sleep(10 * time.Millisecond) {
			if e, _ := w.nodes[us.id].table.Get(us.id); len(us.reach.Relays()) > 0 || len(e.Record.Relays) > 0 {
				t.Fatalf("%d relays at hand after %s", len(us.reach.Relays()), time.Since(begun))
			}
		}
		if us.reach.NAT() == peer.NATUnknown {
			t.Error("it still does not know")
		}
	})
}

func TestALostRelayIsReplacedAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(3)
		us := w.add("us", false)
		us.start()
		time.Sleep(5 * time.Second)
		lost := us.reach.Relays()[0]
		w.nodes[lost].kill()
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		got := us.reach.Relays()
		if len(got) != relaysAtHand || slices.Contains(got, lost) {
			t.Errorf("half a second later: %d relays, the lost one among them: %v", len(got), slices.Contains(got, lost))
		}
		if us.accepts[lost] || us.kept[lost] {
			t.Error("the lost relay is still accepted or kept")
		}
	})
}

// TestALostRelayIsReplacedByOneThatWasNeverMeasured: news that the lost one is dead come later than the end of its stream.
func TestALostRelayIsReplacedByOneThatWasNeverMeasured(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.relays(3)
		us := w.add("us", false)
		us.start()
		time.Sleep(5 * time.Second)
		hand := us.reach.Relays()
		spare := all[slices.IndexFunc(all, func(f *fakeNode) bool { return !slices.Contains(hand, f.id) })]
		us.reach.note(spare.id, func(n *relayNote) { *n = relayNote{} })
		w.nodes[hand[0]].kill()
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if got := us.reach.Relays(); !slices.Contains(got, spare.id) {
			t.Error("the spare one is not at hand after half a second")
		}
	})
}

func TestARelayThatOffersNoMoreIsGivenUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		all := w.relays(2)
		us := w.add("us", false)
		us.start()
		time.Sleep(5 * time.Second)
		e, _ := us.table.Get(all[0].id)
		e.Record.Sequence += 100
		e.Record.Relay = false
		all[0].say(e.Record)
		time.Sleep(time.Second)
		if got := us.reach.Relays(); !slices.Equal(got, []identity.NodeID{all[1].id}) {
			t.Errorf("%d relays at hand", len(got))
		}
		if all[0].reach.grants.isRegistered(us.id) {
			t.Error("the relay still holds the registration")
		}
	})
}

// relayed makes two nodes that nobody reaches and has the first search for the second.
func relayed(w *world, change ...func(*Config)) (a, b *fakeNode) {
	a, b = w.add("a", false), w.add("b", false)
	a.start(change...)
	b.start(change...)
	time.Sleep(5 * time.Second)
	return a, b
}

func TestAMemberIsReachedThroughItsRelays(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(2)
		a, b := relayed(w)
		began := time.Now()
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		if p, _ := b.Path(a.id); p.Kind != Relayed {
			t.Errorf("the way back is %v", p.Kind)
		}
		synctest.Wait()
		if n := len(a.links); n != 2 {
			t.Errorf("%d channels, want one through each relay: the second is there when the first is lost", n)
		}
	})
}

func TestAMemberWithoutRelaysIsReachedThroughOurs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.relays(2)
		a, b := w.add("a", false), w.add("b", false)
		a.start()
		time.Sleep(5 * time.Second)
		b.start()
		// b has not registered anywhere yet, but reaches the relays.
		for _, id := range a.reach.Relays() {
			if err := b.Connect(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
	})
}

func TestChannelsEndWhenTheyAreNotNeeded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		rs := w.relays(2)
		a, b := relayed(w)
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute) // nobody talks
		synctest.Wait()
		if len(a.links) != 0 || rs[0].pairs != 0 || rs[1].pairs != 0 {
			t.Errorf("%d channels here, %d and %d pairs at the relays", len(a.links), rs[0].pairs, rs[1].pairs)
		}
	})
}

func TestRelaysThatNameEachOtherLeadNowhere(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		// Two nodes that nobody reaches claim to relay and to be reached through each other.
		r1, r2, us := w.add("r1", false), w.add("r2", false), w.add("us", false)
		for _, f := range []*fakeNode{r1, r2, us} {
			f.start()
		}
		lie := func(f, through *fakeNode) {
			f.say(peer.Record{ID: f.id, Sequence: 1000, Relay: true, Relays: []identity.NodeID{through.id}, NAT: peer.NATNone})
		}
		lie(r1, r2)
		lie(r2, r1)
		began := time.Now()
		if err := us.Connect(t.Context(), r1.id); err == nil {
			t.Fatal("reached what nobody reaches")
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("took %v", took)
		}
		before := us.reach.count.assists.Load() + r1.reach.count.assists.Load() + r2.reach.count.assists.Load()
		time.Sleep(10 * time.Minute)
		after := us.reach.count.assists.Load() + r1.reach.count.assists.Load() + r2.reach.count.assists.Load()
		if after-before > 5 {
			t.Errorf("%d searches go on although nobody wants anything", after-before)
		}
	})
}

// request puts one request to a relay by hand.
func request(t *testing.T, f *fakeNode, relay identity.NodeID, q relayRequest) (Stream, relayAnswer) {
	t.Helper()
	s := f.ask(t.Context(), relay, ProtocolRelay)
	var a relayAnswer
	if err := exchange(s, q, &a, relayMessageMax, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	return s, a
}

func TestARelayTakesNoMoreThanItCan(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		relay, c := w.add("relay", true), w.add("c", true)
		relay.start(func(c *Config) { c.Capacity = Capacity{Peers: 2, Channels: 3, PerPeer: 2} })
		c.start()
		var members []*fakeNode
		for _, name := range []string{"x", "y", "z"} {
			members = append(members, w.add(name, false))
		}
		time.Sleep(5 * time.Second)
		var streams []Stream
		for i, want := range []RefusalCode{0, 0, RefusedFull} {
			s, a := request(t, members[i], relay.id, relayRequest{Op: opRegister})
			streams = append(streams, s)
			if a.Code != want {
				t.Errorf("registration %d: %s, want %s", i, a.Code, want)
			}
		}
		for i, want := range []RefusalCode{0, 0, RefusedTooMany} {
			s, a := request(t, members[0], relay.id, relayRequest{Op: opOpen, Node: members[1].id})
			streams = append(streams, s)
			if a.Code != want || (a.Channel != 0) != (want == 0) {
				t.Errorf("channel %d: %s, want %s", i, a.Code, want)
			}
		}
		for i, want := range []RefusalCode{0, RefusedFull} {
			s, a := request(t, members[1], relay.id, relayRequest{Op: opOpen, Node: members[0].id})
			streams = append(streams, s)
			if a.Code != want {
				t.Errorf("channel %d of the other: %s, want %s", i, a.Code, want)
			}
		}
		if relay.pairs != 1 || relay.reach.load() != 100 {
			t.Errorf("%d pairs, load %d %%", relay.pairs, relay.reach.load())
		}
		for _, s := range streams {
			s.Close()
		}
		synctest.Wait()
		if relay.pairs != 0 || relay.reach.load() != 0 || relay.kept[members[0].id] {
			t.Errorf("after the streams: %d pairs, load %d %%", relay.pairs, relay.reach.load())
		}
	})
}

func TestAChannelThatBothOpenedOutlivesOneOfThem(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		rs := w.relays(1)
		a, b := w.add("a", false), w.add("b", false)
		a.start()
		b.start()
		time.Sleep(5 * time.Second)
		k, back := channelKey{rs[0].id, b.id}, channelKey{rs[0].id, a.id}
		if err := errors.Join(a.reach.openChannel(t.Context(), k), b.reach.openChannel(t.Context(), back)); err != nil {
			t.Fatal(err)
		}
		b.reach.Close()
		synctest.Wait()
		if rs[0].pairs != 1 || len(a.links) != 1 {
			t.Errorf("%d pairs at the relay, %d ends at the other", rs[0].pairs, len(a.links))
		}
		a.reach.Close()
		synctest.Wait()
		if rs[0].pairs != 0 {
			t.Errorf("%d pairs are left", rs[0].pairs)
		}
	})
}

func TestAChannelThatTheRelayForgotIsOpenedAnew(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		rs := w.relays(1)
		a, b := relayed(w)
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		clear(w.ends) // the relay's underlay made room
		rs[0].pairs = 0
		w.mu.Unlock()
		a.drop(b.id)
		b.drop(a.id)
		if err := a.Connect(t.Context(), b.id); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatARelayRefuses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		relay, unwilling, us, hidden := w.add("relay", true), w.add("unwilling", true), w.add("us", false), w.add("hidden", false)
		relay.start()
		unwilling.start(func(c *Config) { c.NoRelay = true })
		for _, c := range []struct {
			name  string
			relay *fakeNode
			q     relayRequest
			want  RefusalCode
		}{
			{"--no-relay", unwilling, relayRequest{Op: opRegister}, RefusedNoRelay},
			{"itself", relay, relayRequest{Op: opOpen, Node: relay.id}, RefusedRequest},
			{"the asker", relay, relayRequest{Op: opOpen, Node: us.id}, RefusedRequest},
			{"nobody", relay, relayRequest{Op: opOpen}, RefusedRequest},
			{"an unknown op", relay, relayRequest{Op: 9}, RefusedRequest},
			{"a stranger", relay, relayRequest{Op: opOpen, Node: identity.NodeID{9}}, RefusedUnreachable},
			{"a member that takes no offers", relay, relayRequest{Op: opOpen, Node: hidden.id}, RefusedUnreachable},
		} {
			s, a := request(t, us, c.relay.id, c.q)
			if a.Code != c.want {
				t.Errorf("%s: %s, want %s", c.name, a.Code, c.want)
			}
			s.Close()
		}
		if relay.pairs != 0 {
			t.Errorf("%d pairs", relay.pairs)
		}
		// A member that the relay reaches through another relay only.
		w.mu.Lock()
		us.joinLocked(relay, Path{Kind: Relayed, Via: unwilling.id, Heard: time.Now()})
		relay.paths[us.id] = Path{Kind: Relayed, Via: unwilling.id, Heard: time.Now()}
		w.mu.Unlock()
		if code := refusalOf(relay.reach.grant(t.Context(), us.id, relayRequest{Op: opRegister})); code != RefusedIndirect {
			t.Errorf("over a relay: %s", code)
		}
	})
}

func refusalOf(_ uint32, _ func(), code RefusalCode) RefusalCode { return code }

func TestAGrantEndsWithItsStream(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		rs := w.relays(1)
		us := w.add("us", false)
		for name, end := range map[string]func(s Stream){
			"closed":          func(s Stream) { s.Close() },
			"a byte too much": func(s Stream) { _, _ = s.Write([]byte{0}) },
		} {
			s, a := request(t, us, rs[0].id, relayRequest{Op: opRegister})
			if a.Code != 0 || !rs[0].reach.grants.isRegistered(us.id) {
				t.Fatalf("%s: not registered: %s", name, a.Code)
			}
			end(s)
			synctest.Wait()
			if rs[0].reach.grants.isRegistered(us.id) {
				t.Errorf("%s: the registration outlives its stream", name)
			}
			s.Close()
		}
		s, _ := request(t, us, rs[0].id, relayRequest{Op: opRegister})
		rs[0].reach.Close()
		rs[0].down = true
		if !gone(s) {
			t.Error("the stream outlives the relay")
		}
	})
}

func TestALeaseLivesByItsBeats(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		rs := w.relays(1)
		us := w.add("us", false)
		us.start()
		l, err := us.reach.ask(t.Context(), rs[0].id, relayRequest{Op: opRegister})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		select {
		case <-l.ended:
			t.Error("the lease ended although the relay lives")
		default:
		}
		l.end()
		synctest.Wait()
		select {
		case <-l.ended:
		default:
			t.Error("the lease did not end")
		}
	})
}

func TestASilentRelayIsGivenUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		silent, us := w.add("silent", true), w.add("us", false)
		silent.Handle(ProtocolRelay, func(ctx context.Context, s Stream) {
			defer s.Close()
			var q relayRequest
			_ = wire.ReadMessage(s, &q, relayMessageMax)
			_ = wire.WriteMessage(s, relayAnswer{}, relayMessageMax)
			_, _ = s.Read(make([]byte, 1))
		})
		us.start()
		l, err := us.reach.ask(t.Context(), silent.id, relayRequest{Op: opRegister})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		<-l.ended
		if took := time.Since(began); took > beatLost+time.Second {
			t.Errorf("given up after %v", took)
		}
	})
}

func TestRelaysThatLieAboutTheirAnswersAreDropped(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		liar, us := w.add("liar", true), w.add("us", false)
		us.start()
		for name, a := range map[string]any{
			"a registration with a channel": relayAnswer{Channel: 7},
			"a load over 100":               relayAnswer{Load: 101},
			"an unknown code":               relayAnswer{Code: 99},
			"something else":                []string{"x"},
		} {
			liar.Handle(ProtocolRelay, func(ctx context.Context, s Stream) {
				defer s.Close()
				var q relayRequest
				_ = wire.ReadMessage(s, &q, relayMessageMax)
				_ = wire.WriteMessage(s, a, relayMessageMax)
				_, _ = s.Read(make([]byte, 1))
			})
			if _, err := us.reach.ask(t.Context(), liar.id, relayRequest{Op: opRegister}); err == nil {
				t.Errorf("%s was taken", name)
			}
		}
		var refused *RefusedError
		liar.Handle(ProtocolRelay, func(ctx context.Context, s Stream) {
			defer s.Close()
			var q relayRequest
			_ = wire.ReadMessage(s, &q, relayMessageMax)
			_ = wire.WriteMessage(s, relayAnswer{Code: RefusedFull}, relayMessageMax)
		})
		if _, err := us.reach.ask(t.Context(), liar.id, relayRequest{Op: opRegister}); !errors.As(err, &refused) || refused.Code != RefusedFull {
			t.Errorf("a refusal: %v", err)
		}
	})
}

func TestOffersOfChannelsAreBounded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		rs := w.relays(1)
		us, other := w.add("us", false), w.add("other", false)
		us.start()
		time.Sleep(5 * time.Second)
		taken := 0
		var streams []Stream
		for i := range 2 * offersPerRelay {
			s, a := request(t, rs[0], us.id, relayRequest{Op: opOffer, Node: other.id, Channel: uint32(1000 + i)})
			streams = append(streams, s)
			if a.Code == 0 {
				taken++
			}
		}
		if taken != offersPerRelay || len(us.links) != offersPerRelay {
			t.Errorf("%d offers taken, %d channels", taken, len(us.links))
		}
		for _, s := range streams {
			s.Close()
		}
		synctest.Wait()
		if len(us.links) != 0 || us.reach.offersTotal != 0 {
			t.Errorf("%d channels are left", len(us.links))
		}
	})
}

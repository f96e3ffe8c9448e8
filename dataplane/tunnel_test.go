package dataplane

import (
	"slices"
	"testing"
	"time"
)

// The policy is tested as conversations: events at times, and the actions each must lead to.

type line struct {
	at   time.Duration
	e    event
	want []action
}

func TestTunnelPolicy(t *testing.T) {
	key := func(ours, fresh bool) event { return event{kind: agreed, epoch: 1, ours: ours, fresh: fresh} }
	just := func(k happening) event { return event{kind: k} }
	traffic := event{kind: tick, sent: true, heard: true}
	mute := event{kind: tick, sent: true}
	const s = time.Second
	for name, lines := range map[string][]line{
		"wanted by a packet, ours from the start": {
			{0, just(wanted), []action{begin}},
			{0, just(wanted), nil}, // one at a time
			{1 * s, key(true, false), []action{install, release, handshake}},
			{1 * s, just(carried), []action{tellUp}},
			{2 * s, just(carried), nil},
		},
		"answered: the other side opens the session": {
			{0, key(false, true), []action{hold, install}},
			{0, just(answered), []action{release, keepalive}},
			{0, just(answered), nil},
		},
		"answered, and the other side never opens": {
			{0, key(false, true), []action{hold, install}},
			{settleMax, just(tick), []action{release, handshake}},
			{settleMax + kickFirst, just(tick), []action{kick}},
		},
		"a session that does not come up": {
			{0, just(wanted), []action{begin}},
			{0, key(true, false), []action{install, release, handshake}},
			{s / 2, just(tick), []action{kick}},
			{s, just(tick), nil},
			{3 * s / 2, just(tick), []action{kick}},
			{7 * s / 2, just(tick), []action{kick}},
			{15 * s / 2, just(tick), []action{kick}},
			{31 * s / 2, just(tick), []action{hold, remove, tellDown}},
			{16 * s, just(wanted), []action{begin}},
		},
		"exchanges that fail are retried with growing waits while wanted": {
			{0, just(wanted), []action{begin}},
			{0, just(failed), []action{tellDown}},
			{100 * time.Millisecond, just(wanted), nil},
			{200 * time.Millisecond, just(tick), []action{begin}},
			{200 * time.Millisecond, just(failed), []action{tellDown}},
			{500 * time.Millisecond, just(tick), nil},
			{600 * time.Millisecond, just(tick), []action{begin}},
			{11 * s, just(failed), []action{tellDown}},
			{22 * s, just(tick), []action{reject, tellDown}}, // nobody asks any more
			{22*s + forgetAfter, just(tick), []action{forget}},
		},
		"refused for good": {
			{0, just(wanted), []action{begin}},
			{0, just(refused), []action{reject, tellDown}},
			{refusedFirst / 2, just(wanted), nil}, // it may not have heard of us yet
			{refusedFirst, just(tick), []action{begin}},
			{2 * s, just(refused), []action{reject, tellDown}},
			{3 * s, just(wanted), nil},
			{4 * s, just(tick), []action{begin}},
		},
		"yielded to the other side, which then gives up": {
			{0, just(wanted), []action{begin}},
			{0, just(yielded), nil},
			{1 * s, just(tick), nil},
			{yieldWait, just(tick), []action{begin}},
		},
		"rotation of an active tunnel that we began": {
			{0, key(true, false), []action{install, release, handshake}},
			{0, just(carried), []action{tellUp}},
			{114 * s, traffic, nil},
			{115 * s, traffic, []action{begin}},
			{116 * s, event{kind: agreed, epoch: 2, ours: true}, []action{renew, handshake}},
			{116*s + verifyAfter, traffic, []action{verify}},
		},
		"rotation waits for the side that began, then does it itself": {
			{0, key(false, true), []action{hold, install}},
			{0, just(carried), []action{release, tellUp}},
			{129 * s, traffic, nil},
			{130 * s, traffic, []action{begin}},
		},
		"the other side rotates: sessions are not touched": {
			{0, key(true, false), []action{install, release, handshake}},
			{0, just(carried), []action{tellUp}},
			{115 * s, event{kind: agreed, epoch: 2}, []action{renew}},
		},
		"rotation that fails is retried and the tunnel stays": {
			{0, key(true, false), []action{install, release, handshake}},
			{0, just(carried), []action{tellUp}},
			{115 * s, traffic, []action{begin}},
			{116 * s, just(failed), nil},
			{116*s + retryFirst, traffic, []action{begin}},
			{117 * s, just(refused), nil},
			{118 * s, traffic, nil},
		},
		"a silent tunnel does not rotate until its next packet": {
			{0, key(true, false), []action{install, release, handshake}},
			{0, just(carried), []action{tellUp}},
			{10 * s, traffic, nil},
			{115 * s, just(tick), []action{watch}},
			{200 * s, just(wanted), []action{begin}}, // the watched packet
		},
		"idle": {
			{0, key(true, false), []action{install, release, handshake}},
			{0, just(carried), []action{tellUp}},
			{300 * s, just(tick), []action{hold, remove}},
			{301 * s, just(wanted), []action{begin}},
		},
		"the other side has restarted and begins": {
			{0, key(true, false), []action{install, release, handshake}},
			{0, just(carried), []action{tellUp}},
			{9 * s, key(false, true), []action{hold, install}},
			{9 * s, just(answered), []action{release, keepalive}},
		},
		"the other side has restarted and we begin": {
			{0, key(true, false), []action{install, release, handshake}},
			{0, just(carried), []action{tellUp}},
			{115 * s, traffic, []action{begin}},
			{116 * s, event{kind: agreed, epoch: 2, ours: true, fresh: true}, []action{install, release, handshake}},
		},
		"orphaned packets call for a tunnel, unless there is one": {
			{0, just(orphaned), []action{begin}},
			{0, key(true, false), []action{install, release, handshake}},
			{1 * s, just(orphaned), nil},
		},
		"control connection lost, the other end still heard": {
			{0, key(true, false), []action{install, release, handshake}},
			{0, just(carried), []action{tellUp}},
			{5 * s, just(lost), nil}, // just after an exchange
			{20 * s, just(lost), nil},
			{20*s + lostCheck, traffic, nil},
			{21 * s, just(wanted), nil},
		},
		"control connection lost, our packets unanswered": {
			{0, key(true, false), []action{install, release, handshake}},
			{0, just(carried), []action{tellUp}},
			{20 * s, just(lost), nil},
			{20*s + lostCheck, mute, []action{begin}},
		},
		"control connection lost while silent: the next packet asks": {
			{0, key(true, false), []action{install, release, handshake}},
			{0, just(carried), []action{tellUp}},
			{20 * s, just(lost), nil},
			{20*s + lostCheck, just(tick), []action{watch}},
			{50 * s, just(wanted), []action{begin}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Unix(1_000_000, 0)
			state := tunnelState{since: start}
			for i, l := range lines {
				got := state.step(l.e, start.Add(l.at), timing{rekey: DefaultRekeyInterval, idle: DefaultIdleAfter})
				if !slices.Equal(got, l.want) {
					t.Fatalf("line %d, at %v: actions %v, want %v", i, l.at, got, l.want)
				}
			}
		})
	}
}

// A state that asks for a tick in the past, or for none while it waits for something, would spin or hang.
func TestTunnelPolicyAlwaysComesToRest(t *testing.T) {
	limits := timing{rekey: DefaultRekeyInterval, idle: DefaultIdleAfter}
	events := []event{
		{kind: tick}, {kind: tick, sent: true}, {kind: tick, sent: true, heard: true}, {kind: wanted}, {kind: orphaned}, {kind: lost},
		{kind: agreed, epoch: 1, ours: true}, {kind: agreed, epoch: 2}, {kind: agreed, epoch: 3, fresh: true}, {kind: failed},
		{kind: yielded}, {kind: refused}, {kind: answered}, {kind: carried},
	}
	seed := uint64(1)
	for range 200 {
		now := time.Unix(1_000_000, 0)
		state := tunnelState{since: now}
		for range 60 {
			seed = seed*6364136223846793005 + 1442695040888963407
			state.step(events[seed>>33%uint64(len(events))], now, limits)
			now = now.Add(time.Duration(seed>>40%5000) * time.Millisecond)
		}
		state.running = false
		ticks := 0
		for end := now.Add(time.Hour); now.Before(end); ticks++ {
			if ticks > 2000 {
				t.Fatalf("ticks without end in %+v", state)
			}
			for _, a := range state.step(event{kind: tick}, now, limits) {
				switch a {
				case begin:
					state.step(event{kind: failed}, now, limits)
				case forget:
					now = end
				}
			}
			next := state.next(now, limits)
			if next.IsZero() {
				t.Fatalf("no next tick in %+v", state)
			}
			if next.Before(now) {
				next = now
			}
			now = next
		}
	}
}

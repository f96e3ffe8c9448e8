package dataplane

import (
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"time"
)

func TestWaitQueue(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	var q waitQueue
	packet := []byte{1}
	if q.put(packet, now) != waits {
		t.Fatal("the gate is open from the start")
	}
	packet[0] = 9 // the caller's buffer is its own
	q.put([]byte{2}, now.Add(time.Second))
	if got := q.expired(now.Add(waitTime)); len(got) != 1 || got[0][0] != 1 {
		t.Errorf("expired %v, want the first packet as it was", got)
	}
	if q.next() != now.Add(time.Second).Add(waitTime) {
		t.Error("the next to expire is not the second packet")
	}
	var passed [][]byte
	q.open(func(p []byte) { passed = append(passed, p) })
	if len(passed) != 1 || passed[0][0] != 2 {
		t.Errorf("passed %v", passed)
	}
	if q.put(packet, now) != passes {
		t.Error("the gate is closed after open")
	}
	q.hold()
	for range waitPackets {
		if q.put(packet, now) != waits {
			t.Fatal("no room")
		}
	}
	if q.put(packet, now) != full {
		t.Error("more than the bound wait")
	}
	if got := q.close(); len(got) != waitPackets {
		t.Errorf("close returned %d packets", len(got))
	}
	if q.put(packet, now) != gone || !q.next().IsZero() {
		t.Error("a closed queue takes packets")
	}
}

// Regression: who asked for a tunnel just when it came up was told nothing, and waited for as long as it was allowed to. The news was told
// before the view showed it, so that one who came in between neither heard it nor saw it.
func TestNobodyIsToldWhatTheViewDoesNotShowYet(t *testing.T) {
	p := &Plane{log: slog.New(slog.DiscardHandler)}
	tun := &tunnel{state: tunnelState{phase: open}}
	tun.publish()
	tun.mu.Lock() // whoever tells waits here
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.step(tun, event{kind: carried}, result{})
	}()
	for deadline := time.Now().Add(5 * time.Second); !tun.view.Load().session; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Error("the news is told, and the view does not show it")
			break
		}
	}
	tun.mu.Unlock()
	<-done
}

func TestNobodyWaitsForATunnelThatWasDropped(t *testing.T) {
	tun := &tunnel{}
	first, err := tun.wait()
	if err != nil {
		t.Fatal(err)
	}
	tun.end(ErrDropped)
	if err := <-first; !errors.Is(err, ErrDropped) {
		t.Error(err)
	}
	if _, err := tun.wait(); !errors.Is(err, ErrDropped) {
		t.Errorf("who comes late: %v", err)
	}
}
